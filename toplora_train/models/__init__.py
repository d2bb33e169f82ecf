"""Base models and tokenizers: hub, local folder, installed package, or made in code."""
