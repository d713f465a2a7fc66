"""The simulated GPU: memory, streams, events, graphs and races."""
