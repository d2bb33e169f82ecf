"""Generating, extracting and scoring answers."""
