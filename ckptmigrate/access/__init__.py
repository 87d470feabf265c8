"""From the PATH a user gives to the bytes of a checkpoint directory."""
