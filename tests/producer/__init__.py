"""Tests of `producer`."""
