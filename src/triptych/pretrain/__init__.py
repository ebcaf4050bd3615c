"""Panel 1: pre-training tasks and the stages made of them."""
