"""Text for a terminal: commands to paste, escaped text from checkpoints, masked URLs."""
