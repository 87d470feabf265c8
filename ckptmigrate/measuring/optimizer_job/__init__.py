"""A program of its own like `training_job`, with the distributed optimizer."""
