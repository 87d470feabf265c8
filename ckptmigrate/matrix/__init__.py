"""What loads where: each pair of writer and reader, measured or derived, and how it is shown."""
