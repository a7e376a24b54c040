"""The page about a run: statistics, charts, comparison with an earlier run."""
