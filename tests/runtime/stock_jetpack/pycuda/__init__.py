"""As much of pycuda as learning calls: see ../tensorrt.py."""

VERSION_TEXT = "2022.1"
