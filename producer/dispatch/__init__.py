"""Chunks sent to the workers, their outcomes collected, lost messages found."""
