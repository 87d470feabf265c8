"""Access to the bytes of a checkpoint on a local file system or in an object store."""
