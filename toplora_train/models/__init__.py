"""Base models and tokenizers: from the hub, a local folder, a package, or built in."""
