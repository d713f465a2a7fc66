"""The double of TensorRT's Python API, release by release."""
