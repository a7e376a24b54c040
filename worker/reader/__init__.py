"""Reader processes: they decode foreign images apart from the worker."""
