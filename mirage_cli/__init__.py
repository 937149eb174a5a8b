"""mirage: turn a video, a camera or a stream into another look, prompted by text, live."""

__version__ = "0.1.0"
