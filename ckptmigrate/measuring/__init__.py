"""The package of what `matrix run` needs; no other verb imports it."""
