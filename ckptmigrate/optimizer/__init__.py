"""Lossless conversion of the distributed optimizer between sharding types.

Every type is read into one neutral form (`record`) and written from it. Planning reads the
checkpoint and writes nothing; only `performing` writes.
"""
