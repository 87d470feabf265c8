"""Crash-safe execution of plans on a local file system or in an object store."""
