"""Engines compute with ONNX Runtime on the CPU."""

from typing import Any

import numpy as np

from da3.runtime.backends.sessions import open_session

from .formats import NUMPY

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int8)": np.int8}
_sessions: dict[str, Any] = {}  # of plans, by the hash of their model
_shapes: dict[Any, dict[str, tuple[int, ...]]] = {}


def _session(plan):
    key = plan.meta["sha256"]
    if key not in _sessions:
        if len(_sessions) > 500:
            _sessions.clear()
        _sessions[key] = open_session(plan.model)
    return _sessions[key]


def run(plan, feeds):
    """{input: array} -> {output: array}. With BuilderFlag.FP16 on a float32 graph the answers are rounded to it.

    Inputs may be of the type that they were set to apart from the graph; outputs are the caller's to convert.
    """
    session = _session(plan)
    for value in session.get_inputs():
        if value.name not in feeds:  # nothing reads it, so the engine does not have it
            feeds[value.name] = np.zeros([n if isinstance(n, int) else 1 for n in value.shape], TYPES[value.type])
        feeds[value.name] = feeds[value.name].astype(TYPES[value.type], copy=False)
    names = [output.name for output in session.get_outputs()]
    results = session.run(names, feeds)
    if plan.meta["rounds"]:
        with np.errstate(over="ignore"):
            results = [r.astype(np.float16).astype(r.dtype) if r.dtype == np.float32 else r for r in results]
    return dict(zip(names, results, strict=True))


def output_shapes(plan, shapes):
    """{output: shape} for those shapes of the inputs, found by a run on zeros."""
    key = (plan.meta["sha256"], tuple(sorted(shapes.items())))
    if key not in _shapes:
        types = {t["name"]: NUMPY[t["dtype"]] for t in plan.meta["tensors"]}
        found = run(plan, {name: np.zeros(shape, types[name]) for name, shape in shapes.items()})
        _shapes[key] = {name: array.shape for name, array in found.items()}
    return _shapes[key]
