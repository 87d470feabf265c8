"""The verbs: one module for each operation on the checkpoints of a PATH."""
