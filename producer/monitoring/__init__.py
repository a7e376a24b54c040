"""Numbers of a run for Prometheus."""
