"""What the training loop needs: optimizer, distribution, metrics, and the best checkpoint."""
