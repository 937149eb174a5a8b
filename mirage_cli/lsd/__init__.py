"""The Live Stream Diffusion model. Read stream.py first, then model.py."""
