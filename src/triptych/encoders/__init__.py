"""Encoders: queries, titles and photos to vectors. No file here imports `triptych.training`."""
