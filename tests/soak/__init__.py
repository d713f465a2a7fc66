"""A Runtime for ten minutes in a crowd: see `make soak`."""
