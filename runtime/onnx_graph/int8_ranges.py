"""backbone/int8.json: how large the values are that INT8 rounds, as `da3 calibrate --int8` measured them."""

from typing import Dict, NamedTuple

from ..bundle.bundle import BundleContents
from ..bundle.jsonfile import Object, check_format, parse_object
from ..errors import BundleError

INT8_FILE = "backbone/int8.json"
INT8_FORMAT = 1
LARGEST = 127 * 65504.0  # a value's scale, its magnitude / 127, is a float16

Magnitudes = Dict[str, Dict[str, float]]  # file of a segment -> value in it -> magnitude that becomes 127


class Ranges(NamedTuple):
    """convolutions: of what quantised convolutions read. others: of what else is rounded where sums are INT8, see
    `summed` in int8_places.py; none where an older da3 measured."""

    convolutions: Magnitudes
    others: Magnitudes


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
    convolutions = _magnitudes(root.object("ranges"), bundle, where)
    others = _magnitudes(root.object("others"), bundle, where) if "others" in root.raw else {}
    return Ranges(convolutions, others)


def _magnitudes(files: Object, bundle: BundleContents, where: str) -> Magnitudes:
    found: Magnitudes = {}
    for file in files.raw:
        values = files.object(file)
        found[file] = {name: values.number(name) for name in values.raw}
        if file not in bundle.manifest.files:
            raise BundleError("%s: the bundle has no %s; run `da3 calibrate --int8` again" % (where, file))
        for name, largest in found[file].items():
            if not 0 < largest <= LARGEST:
                what = "must be a positive number, not %g" % largest if largest <= 0 else "is %g" % largest
                raise BundleError("%s: %s %s: %g is the largest" % (values.where, name, what, LARGEST))
    return found
