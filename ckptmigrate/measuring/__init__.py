"""The measurement of the matrix; only `matrix run` and `matrix add` import it."""
