"""Explanation of the errors in a job log: the known error of a line, and its causes."""
