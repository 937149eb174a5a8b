"""What tests of several rooms share. Imported as ``helpers``: ``tests`` is on pytest's path."""
