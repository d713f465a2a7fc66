"""What cases damage: small trees of files, frozen in bases/, so that a seed and a found case mean the same for ever.

    gated    a bundle of format 1
    exits    a bundle of format 2 with INT8 ranges, golden values and an index of engines; a pack; labelled photos;
             the record of an evaluation; a run's checkpoints
    photos   pictures of every format, and arrays
    weights  a backbone's weights as .safetensors and .pth; a file of options

`make_bases` made them. A base that is made again changes what every seed does.
"""

import zipfile
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "bases"
NAMES = ("gated", "exits", "photos", "weights")


@cache
def files(base):
    """{name: bytes} of a base."""
    with zipfile.ZipFile(FOLDER / f"{base}.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def unpack(folder):
    """Write every base into a folder of its own."""
    for base in NAMES:
        for name, data in files(base).items():
            path = folder / base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
