"""What a migration costs, beside what else moves a checkpoint: `python -m benchmarks`."""
