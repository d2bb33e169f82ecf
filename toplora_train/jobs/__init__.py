"""What a worker does: the whole of a fine-tuning run, read top to bottom."""
