"""Where frames come from: files, pipes, pictures, cameras, streams, the screen."""
