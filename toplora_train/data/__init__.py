"""Data: rows, prompts, tokens and batches."""
