"""What is known of each release, and what follows for a checkpoint in front of a job of it."""
