"""The fast path for large pickles: repeated rows of a table are not decoded one by one."""
