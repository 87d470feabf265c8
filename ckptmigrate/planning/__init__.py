"""What is to become of a checkpoint, decided to the last byte before anything is written."""
