"""Synthetic chest radiographs for the demonstration."""
