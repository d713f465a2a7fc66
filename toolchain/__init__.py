"""da3.toolchain: training, benchmarks, the demo and the command line. Its sub-packages are entered by their own faces.

Nothing is imported here, because most of it needs PyTorch and the command line should start without.
"""
