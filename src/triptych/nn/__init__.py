"""Blocks that know no stage: attention, feed-forward layer, transformer, numeric precision."""
