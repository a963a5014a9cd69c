"""The rows of scripts/bench: one module for each group of rows, and what they measure with."""
