"""What a command does, without Click and Rich."""
