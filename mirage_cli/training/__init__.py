"""Training of LSD models: targets (teachers), camera walks, forcing, losses and the loop."""
