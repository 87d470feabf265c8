"""The package of what reads and writes pickles without executing them."""
