"""Scores, checks and costs, and the report they go into."""
