"""The checks of `verify`, and their findings."""
