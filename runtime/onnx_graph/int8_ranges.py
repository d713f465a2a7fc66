"""backbone/int8.json: which magnitudes a backbone's convolutions read, as `da3 calibrate --int8` measured them."""

import math
from typing import Dict

from ..bundle.bundle import BundleContents
from ..bundle.jsonfile import check_format, parse_object
from ..errors import BundleError
from .model import Model

INT8_FILE = "backbone/int8.json"
INT8_FORMAT = 1

Ranges = Dict[str, Dict[str, float]]  # file of a segment -> value in it -> magnitude that becomes 127


def read_ranges(bundle: BundleContents) -> Ranges:
    """What a bundle's int8.json says. Raises BundleError if it has none, or one that does not fit it."""
    if INT8_FILE not in bundle.manifest.files:
        raise BundleError(
            "%s was not measured for INT8: run `da3 calibrate --int8` on it where it was made, or use fp16"
            % bundle.path
        )
    where = "%s: %s" % (bundle.path, INT8_FILE)
    root = parse_object(bundle.read(INT8_FILE), where)
    check_format(root, INT8_FORMAT)
    files = root.object("ranges")
    ranges: Ranges = {}
    for file in files.raw:
        values = files.object(file)
        ranges[file] = {name: values.number(name) for name in values.raw}
        if file not in bundle.manifest.files:
            raise BundleError("%s: the bundle has no %s; run `da3 calibrate --int8` again" % (where, file))
        for name, largest in ranges[file].items():
            if not (math.isfinite(largest) and largest > 0):
                raise BundleError("%s: %s must be a positive number, not %g" % (values.where, name, largest))
    return ranges


def convolved(model: Model) -> Dict[str, bool]:
    """The values that a graph's convolutions with constant kernels read, and whether all of these are depthwise."""
    found: Dict[str, bool] = {}
    for node in model.nodes:
        if node.op == "Conv" and node.inputs[1] in model.weights:
            depthwise = model.weights[node.inputs[1]].shape[1] == 1 and node.attributes.get("group", 1) != 1
            found[node.inputs[0]] = depthwise and found.get(node.inputs[0], True)
    return found
