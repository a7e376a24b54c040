"""Doing it: the three tasks, and what they need to see an image, score it and report it."""
