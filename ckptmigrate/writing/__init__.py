"""What was planned, carried out on a local file system so that no moment loses a checkpoint."""
