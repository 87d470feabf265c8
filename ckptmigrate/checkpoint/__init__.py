"""Reader of one checkpoint as an immutable value that can be edited and written back."""
