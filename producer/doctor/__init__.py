"""Is everything there that a run needs? One finding for each thing, and what to fix."""
