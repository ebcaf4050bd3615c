"""Evaluation tasks: each takes retrievers by name and returns a `TaskResult`."""
