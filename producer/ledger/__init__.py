"""The SQLite database of one run: the only state that must survive."""
