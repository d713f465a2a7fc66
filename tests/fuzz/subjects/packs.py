"""Domain packs: added, shown, run and started from."""

import json

from hypothesis import strategies as st

from .. import bases
from ..child import case as cases
from ..damage import documents, hashes, plain, tensors, zips
from . import Subject

_PACK = "tulips.da3"
USES = (
    ("adding", ("domains", "add", _PACK, "-b", "bundle")),
    ("adding", ("domains", "add", _PACK, "-b", "bundle")),
    ("adding", ("domains", "add", "flowers.da3", "--replace", "-b", "bundle")),
    ("command", ("domains", "info", _PACK, "-b", "bundle")),
    (
        "command",
        (
            "run-engine",
            "photo.png",
            "-d",
            _PACK,
            "-b",
            "bundle",
            "--json",
            "--backend",
            "onnxruntime",
            "--threads",
            "1",
        ),
    ),
    ("starting", (_PACK,)),
)


def _made(subject, what, use, data):
    runner, words = use
    name = "flowers.da3" if "flowers.da3" in words else _PACK
    return cases.case(subject, what, "exits", runner, words, [cases.file(name, data)])


def _of(use):
    return bases.files("exits")["flowers.da3" if "flowers.da3" in use[1] else _PACK]


@st.composite
def _structure(draw):
    """domain.json or a member's tensors, in a zip that is as it should be, with hashes that fit."""
    use = draw(st.sampled_from(USES))
    members = dict(zips.members(_of(use)))
    name = draw(st.sampled_from(("domain.json", "domain.json", "weights.safetensors", "goldens.safetensors")))
    how = ""
    if name == "domain.json":
        content, what = draw(documents.damaged(json.loads(members[name])))
        members[name], how = draw(documents.written(content))
    else:
        members[name], what = draw(tensors.with_damaged_header(members[name]))
        content = json.loads(members["domain.json"])
        content[name.partition(".")[0]].update(hashes.entry(members[name]))
        members["domain.json"] = json.dumps(content).encode()
    return _made("pack", f"{name}: {what} {how}", use, zips.rebuilt(sorted(members.items())))


def _zip(rng):
    use = rng.choice(USES)
    change = zips.damaged if rng.random() < 0.8 else plain.damaged
    data, what = change(_of(use), rng)
    return _made("pack", what, use, data)


SUBJECTS = (Subject("pack", 14, _structure(), _zip),)
