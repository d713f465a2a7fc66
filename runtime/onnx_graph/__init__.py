"""ONNX graphs without the onnx package: read, written, joined, and made float16 or INT8."""

from .int8_places import convolved, summed
from .int8_ranges import INT8_FILE, INT8_FORMAT, Magnitudes, read_ranges
from .joining import read_segment
from .model import DTYPES, AttributeValue, Info, Model, Node
from .reading import read_model
from .subgraphs import PRECISIONS, cpu_subgraph, engine_subgraph, for_images, ingredients, subgraph_identity
from .whole import whole_model
from .writing import write_model

__all__ = [
    "DTYPES",
    "INT8_FILE",
    "INT8_FORMAT",
    "PRECISIONS",
    "AttributeValue",
    "Info",
    "Magnitudes",
    "Model",
    "Node",
    "convolved",
    "cpu_subgraph",
    "engine_subgraph",
    "for_images",
    "ingredients",
    "read_model",
    "read_ranges",
    "read_segment",
    "subgraph_identity",
    "summed",
    "whole_model",
    "write_model",
]
