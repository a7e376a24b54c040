"""The runner: works through the runs of a folder, one after another, and goes on with them after every restart."""
