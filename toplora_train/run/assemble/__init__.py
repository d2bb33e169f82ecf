"""Scores, proofs and costs, and the report they make."""
