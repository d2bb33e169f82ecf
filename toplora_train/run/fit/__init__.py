"""What the training loop is given: optimizer, distribution, metrics, and the best checkpoint."""
