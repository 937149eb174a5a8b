"""What no model family owns: the session, the drift guard, motion, copies to and from the GPU."""
