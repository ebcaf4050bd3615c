"""The one training loop: task, loop, schedule, checkpoint, log."""
