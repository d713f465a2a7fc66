"""A run's checkpoints: read whole, listed, started from."""

import json

from hypothesis import strategies as st

from .. import bases
from ..child import case as cases
from ..damage import documents, plain, tensors
from . import Subject

USES = (
    ("checkpoint", ("whole", "runs/ferns/last.safetensors")),
    ("checkpoint", ("whole", "runs/ferns/last.safetensors")),
    ("checkpoint", ("facts", "runs/ferns/last.safetensors")),
    ("checkpoint", ("whole", "runs/ferns/best.safetensors")),
    ("starting", ("ferns",)),
    ("toolchain", ("runs", "--json")),
    ("toolchain", ("runs",)),
    ("toolchain", ("runs", "ferns")),
)


def _made(what, use, data):
    runner, words = use
    name = _file(use)
    return cases.case("checkpoint", f"{name}: {what}", "exits", runner, words, [cases.file(name, data)])


def _file(use):
    runner, words = use
    return (
        words[1] if runner == "checkpoint" else f"runs/ferns/{'best' if runner == 'starting' else 'last'}.safetensors"
    )


@st.composite
def _structure(draw):
    use = draw(st.sampled_from(USES))
    data = bases.files("exits")[_file(use)]
    if draw(st.booleans()):
        data, what = draw(tensors.with_damaged_header(data))
        return _made(what, use, data)
    header, body = tensors.parts(data)
    facts, what = draw(documents.damaged(json.loads(header["__metadata__"]["da3"])))
    text, how = draw(documents.written(facts))
    header["__metadata__"]["da3"] = text.decode("utf-8", "replace")
    return _made(f"{what} {how}", use, tensors.joined(header, body))


def _bytes(rng):
    use = rng.choice(USES)
    data, what = plain.damaged(bases.files("exits")[_file(use)], rng)
    return _made(what, use, data)


SUBJECTS = (Subject("checkpoint", 8, _structure(), _bytes),)
