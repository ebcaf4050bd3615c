"""What rankers read of content, one plug-in per file."""
