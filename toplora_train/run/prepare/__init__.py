"""Everything before the first step: rows, tokens, evaluation sets, and validation."""
