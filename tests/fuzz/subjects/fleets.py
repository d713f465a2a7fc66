"""The file of a fleet: YAML, of which a part is what people write, and the rest what YAML can be made to mean."""

import json

from hypothesis import strategies as st

from ..child import case as cases
from ..damage import documents, plain, texts
from . import Subject

_FLEET = {
    "out": "results",
    "cache": "/tmp/cache",
    "defaults": {"data": "photos/{domain}", "epochs": 3, "lr": 0.004, "cpus": 2, "memory": "1GiB", "weights": "demo"},
    "domains": {
        "flowers": {},
        "signs": {"flip": False, "data": "s3://bucket/signs", "gpus": 0.5, "batch-size": 8, "keep": 0.7},
        "letters": {"method": "linear", "size": 64, "micro_batch": "auto", "from": "packs/x.da3"},
    },
}
_TEXT = b"""out: results
defaults:
  data: photos/{domain}
  epochs: 12
  memory: 1GiB
domains:
  flowers:
  signs:
    flip: false
    cpus: 2
    data: photos/signs
"""
# What other readers of YAML have been brought down by, or made to do.
_LINES = (
    b"a: &a [x, x]\nb: &b [*a, *a]\n",
    b"<<: {out: x}\n",
    b"out: !!python/object/apply:os.system [touch x]\n",
    b"domains: !!set {a, b}\n",
    b"---\nout: x\n---\nout: y\n",
    b"%YAML 3.0\n---\n",
    b"? {a: b}\n: c\n",
    b"out: |\n  a\n  b\n",
    b"\tout: x\n",
    b'out: "\\x1b[31m"\n',
    b"{" * 5000,
    b"- " * 5000,
)


def _case(what, data):
    return cases.case("fleet", what, "exits", "fleet", ("fleet.yaml",), [cases.file("fleet.yaml", data)])


@st.composite
def _documents(draw):
    """JSON is YAML, mostly."""
    content, what = draw(documents.damaged(_FLEET))
    data, how = draw(documents.written(content))
    return _case(f"{what} {how}", data)


@st.composite
def _lines(draw):
    lines = _TEXT.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 3))):
        odd = texts.texts().map(lambda text: json.dumps(text).encode() + b": x\n")
        line = draw(st.sampled_from(_LINES) | odd)
        indent = b"  " * draw(st.integers(0, 2))
        lines.insert(draw(st.integers(0, len(lines))), indent + line)
    return _case("lines", b"".join(lines))


def _bytes(rng):
    data, what = plain.damaged(_TEXT, rng)
    return _case(what, data)


SUBJECTS = (Subject("fleet", 3, _documents() | _lines(), _bytes),)
