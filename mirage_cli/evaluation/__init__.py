"""``mirage eval``: measures a model over clips. ``run.py`` first, then one module a kind of measurement."""
