"""Planning of changes to a checkpoint, to the last byte, before anything is written."""
