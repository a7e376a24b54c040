"""The model: its weights, its engines, its exports."""
