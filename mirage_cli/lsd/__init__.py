"""The Live Stream Diffusion model. Read painter.py first, then model.py."""
