"""Doing it: the three tasks, and what they need to see an image, score it and report it."""

from backlog.environment import disable_telemetry

# Here, since nothing of the worker's can be imported before: every process that loads the model has passed this line.
disable_telemetry()
