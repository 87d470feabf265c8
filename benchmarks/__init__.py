"""Benchmarks of migrations and of other ways to move a checkpoint: `python -m benchmarks`."""
