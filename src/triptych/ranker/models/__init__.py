"""Ranking models, one per file."""
