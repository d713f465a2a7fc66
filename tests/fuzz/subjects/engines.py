"""engines.json, the index of a bundle's TensorRT engines, and the plans that it names."""

import json

from hypothesis import strategies as st

from .. import bases
from ..child import case as cases
from ..damage import documents, plain
from . import Subject

_INDEX = next(name for name in bases.files("exits") if name.endswith("engines.json"))


def _made(what, data, name=_INDEX):
    return cases.case("engines", what, "exits", "engines", (), [cases.file(name, data)])


@st.composite
def _structure(draw):
    content, what = draw(documents.damaged(json.loads(bases.files("exits")[_INDEX])))
    data, how = draw(documents.written(content))
    return _made(f"{what} {how}", data)


def _bytes(rng):
    name = rng.choice((_INDEX, _INDEX, *(n for n in bases.files("exits") if n.endswith(".plan"))))
    data, what = plain.damaged(bases.files("exits")[name], rng)
    return _made(what, data, name)


def _stored(rng):
    """The graphs that ONNX Runtime stored. Where hashes do not fit, they are made again: the answer is the same."""
    base, fits = rng.choice(("gated", "exits")), rng.random() < 0.5
    run = (
        "run-engine",
        "photo.png",
        "-d",
        "flowers",
        "-b",
        "bundle",
        "--json",
        "--backend",
        "onnxruntime",
        "--threads",
        "1",
    )
    words = (str(rng.randrange(10**9)), "fits" if fits else "does not fit", *run)
    case = cases.case("stored graphs", " ".join(words[:2]), base, "stored", words)
    return case._replace(sealed=not fits)


SUBJECTS = (Subject("engines", 4, _structure(), _bytes), Subject("stored graphs", 1, None, _stored))
