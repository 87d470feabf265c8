"""The parts of `verify`: a checkpoint read as far as it can be, the checks, and what they find."""
