"""Backbones: their architectures, weights files and preprocessing, whole to train or frozen and split."""

from da3.toolchain.backbones.preprocessing import preprocessing_of
from da3.toolchain.backbones.registry import Network, build_network, freeze, load_backbone, random_weights
from da3.toolchain.backbones.split import Backbone, BackboneInfo, Stem, Tail
from da3.toolchain.backbones.table import NAMES
from da3.toolchain.backbones.weights import StoredTensors, WeightsFile, backbone_keys, load_weights

__all__ = [
    "NAMES",
    "Backbone",
    "BackboneInfo",
    "Network",
    "Stem",
    "StoredTensors",
    "Tail",
    "WeightsFile",
    "backbone_keys",
    "build_network",
    "freeze",
    "load_backbone",
    "load_weights",
    "preprocessing_of",
    "random_weights",
]
