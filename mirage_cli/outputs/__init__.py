"""Where frames go: files, pictures, segments of a job, streams, windows, virtual cameras."""
