"""Blocks that know no stage: attention, feed-forward layer, transformer, histograms of patches, numeric precision."""
