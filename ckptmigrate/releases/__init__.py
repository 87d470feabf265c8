"""Facts about each release, and predictions of whether a job of it can load a checkpoint."""
