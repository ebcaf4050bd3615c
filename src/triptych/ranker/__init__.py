"""Ranking: scores of given candidates, by user, context and behaviour."""
