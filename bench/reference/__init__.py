"""Rivals and oracles for the benchmarks and tests; nothing that runs imports them."""
