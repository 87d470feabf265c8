"""A program of its own that knows nothing of ckptmigrate; it runs in a process per release."""
