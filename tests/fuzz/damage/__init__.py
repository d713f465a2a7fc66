"""Ways to damage what a file holds. Each gives the damaged bytes, and what was done in words."""
