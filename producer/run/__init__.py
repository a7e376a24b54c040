"""One run: its folder, how it is created, opened, executed and stopped."""
