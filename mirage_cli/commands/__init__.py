"""The commands: Click and Rich, and nothing else."""
