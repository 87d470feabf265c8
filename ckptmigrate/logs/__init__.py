"""Explain the errors in the log of a job: which known error a line is, and what causes it."""
