"""The parts of `verify`: an error-tolerant read of a checkpoint, the checks, and their findings."""
