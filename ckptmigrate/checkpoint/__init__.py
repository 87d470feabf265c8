"""One checkpoint as one immutable value, read from its small files and written back to them."""
