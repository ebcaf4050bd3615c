"""Encoders, one per file; the file name is the kind."""
