"""Lossless conversion of the distributed optimizer between sharding types.

Every type is read into one neutral form (`record`) and written from it. Planning reads the
checkpoint and yields the bytes of new data files; nothing here writes.
"""
