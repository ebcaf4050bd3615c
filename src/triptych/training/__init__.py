"""The one training loop: task, loop, schedule, checkpoint, log; alone or by several processes (distributed)."""
