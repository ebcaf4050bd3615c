"""Semantic IDs: item vectors as short tuples of codes. `base` has the protocol, `quantizers` the kinds."""
