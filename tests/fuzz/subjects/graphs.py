"""A bundle's ONNX files, with hashes that fit: what is refused must be so before ONNX Runtime or numpy runs it."""

from hypothesis import strategies as st

from .. import bases
from ..damage import graphs, hashes
from . import Subject
from .bundles import made, uses


def _graphs(files):
    return [name for name in files if name.endswith(".onnx")]


def _uses(base):
    return [use for use in uses(base) if use[1][:1] in (("run-engine",), ("evaluate",))]


@st.composite
def _nodes(draw):
    base = draw(st.sampled_from(("gated", "exits")))
    files = bases.files(base)
    name = draw(st.sampled_from(_graphs(files)))
    data, what = draw(graphs.with_a_node(files[name]))
    use = draw(st.sampled_from(_uses(base)))
    return made("bundle: graphs", f"{name}: {what}", base, use, hashes.in_bundle({name: data}, files))


def _fields(rng):
    base = rng.choice(("gated", "exits"))
    files = bases.files(base)
    name = rng.choice(_graphs(files))
    data, what = graphs.damaged(files[name], rng)
    return made(
        "bundle: graphs", f"{name}: {what}", base, rng.choice(_uses(base)), hashes.in_bundle({name: data}, files)
    )


SUBJECTS = (Subject("bundle: graphs", 16, _nodes(), _fields),)
