"""The methods' forward passes: decoding, shared prefixes, and many answers in one pass."""
