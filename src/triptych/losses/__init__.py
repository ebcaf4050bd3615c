"""Losses, one per file. A loss takes tensors, never a model."""
