"""ffmpeg and its containers: the only room that knows its command line and its stderr."""
