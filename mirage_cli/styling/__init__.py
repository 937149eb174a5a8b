"""The model's side of a run: load it, step it along the prompts, account for what it did."""
