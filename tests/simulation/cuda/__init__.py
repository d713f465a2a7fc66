"""The doubles of the two packages that bring CUDA to Python."""
