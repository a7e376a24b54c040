"""Whole runs against real servers; minutes."""
