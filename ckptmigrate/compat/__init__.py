"""The compatibility matrix: a measured or derived result per pair of releases, and its output."""
