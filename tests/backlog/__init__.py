"""Tests of `backlog`."""
