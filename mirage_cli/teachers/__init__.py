"""What paints the targets of the training and the references of the evaluation."""
