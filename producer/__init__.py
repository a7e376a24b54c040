"""What is to be done: sources, the ledger of a run, and its dispatch."""
