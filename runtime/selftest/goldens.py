"""Golden values: what a bundle computes of a few pictures, by a reference, and the file that holds them.

The file is a safetensors file of about 20 KB. `pictures` is uint8 (N, s, s, 3); the other tensors are float32 and hold
one value behind the other, in the order and of the lengths that the metadata say:

    chain   (N, ...)  summaries of the plan's values for each picture, nobody leaving
    starts  (...)     of a value that crosses parts: mean and standard deviation of up to 32 groups of its channels
    alone   (...)     summaries of what each part makes of generated inputs with these means and deviations
"""

import json
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np

from ..bundle.jsonfile import read_json
from ..bundle.safetensors import parse_safetensors, write_safetensors
from ..errors import BundleError
from ..records import Array

FORMAT = 1


class Goldens(NamedTuple):
    """See the module. by: what computed them; closed: the blocks that were closed; chain: (N, k) each; starts: (g, 2)
    each; alone: (k,) each, by `Part.key`."""

    by: str
    pictures: Array
    closed: Tuple[int, ...]
    chain: Dict[str, Array]
    starts: Dict[str, Array]
    alone: Dict[str, Array]


def write_goldens(goldens: Goldens) -> bytes:
    """The bytes of the file; the same values give the same bytes."""
    tensors: Dict[str, Array] = {"pictures": goldens.pictures}
    metadata: Dict[str, Any] = {"format": FORMAT, "by": goldens.by, "closed": goldens.closed}
    for part in ("chain", "starts", "alone"):
        values: Dict[str, Array] = getattr(goldens, part)
        metadata[part] = [[name, value.shape[-1] if part == "chain" else value.size] for name, value in values.items()]
        flat = [value if part == "chain" else value.reshape(-1) for value in values.values()]
        tensors[part] = np.concatenate(flat, axis=-1).astype(np.float32) if flat else np.zeros(0, np.float32)
    return write_safetensors(tensors, {key: json.dumps(value) for key, value in metadata.items()})


def parse_goldens(data: bytes, where: str) -> Goldens:
    """What `write_goldens` wrote. Raises BundleError for what is no such file, or of a newer format."""
    tensors, texts = parse_safetensors(data, where)
    try:
        metadata = {key: read_json(text) for key, text in texts.items()}
        number = int(metadata["format"])
        if number > FORMAT:
            raise BundleError("%s has format %d, written by a newer da3: upgrade da3" % (where, number))
        pictures, chain = tensors["pictures"], tensors["chain"]
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or chain.shape[:1] != pictures.shape[:1]:
            raise ValueError("its pictures are not what they should be")
        starts = _cut(tensors["starts"], metadata["starts"])
        return Goldens(
            by=str(metadata["by"]),
            pictures=pictures,
            closed=tuple(int(block) for block in metadata["closed"]),
            chain=_cut(chain, metadata["chain"]),
            starts={name: value.reshape(-1, 2) for name, value in starts.items()},
            alone=_cut(tensors["alone"], metadata["alone"]),
        )
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        raise BundleError("%s holds no golden values (%s): export the domain again" % (where, error))


def _cut(values: Array, lengths: List[Tuple[str, int]]) -> Dict[str, Array]:
    found: Dict[str, Array] = {}
    at = 0
    for name, length in lengths:
        found[str(name)] = values[..., at : at + length]
        at += length
    if at != values.shape[-1] or values.dtype != np.float32:
        raise ValueError("its tensors are not of the lengths it says")
    return found
