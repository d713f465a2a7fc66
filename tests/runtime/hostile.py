"""A bundle changed by hand, with the hashes made to fit, and a limit on the memory that a call may take."""

import json
import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from synthetic_bundle import file_entry, read_manifest, write_manifest


@contextmanager
def within(mebibytes):
    """Fail if Python or numpy takes more memory than this inside the block."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < mebibytes << 20, f"{peak / 2**20:.0f} MiB"


def vouched(bundle, name, data):
    """Write a file into a bundle and let the manifest vouch for it."""
    (bundle / name).write_bytes(data)
    content = read_manifest(bundle)
    content["files"][name] = file_entry(bundle / name)
    write_manifest(bundle, content)


def changed(path, change):
    """Let `change` change what a JSON file says."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def zip_of(path, members, method=zipfile.ZIP_DEFLATED):
    """A zip of {name: bytes}."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def patched(path, *pairs):
    """Replace bytes in a file, everywhere."""
    data = path.read_bytes()
    for old, new in pairs:
        assert old in data
        data = data.replace(old, new)
    path.write_bytes(data)
    return path


def onnx_bytes(nodes, weights, inputs, outputs):
    """A graph of (op, inputs, output, attributes), unchecked. inputs, outputs: {name: shape}, float32."""

    def infos(shapes):
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]

    made = helper.make_graph(
        [helper.make_node(op, given, [made], **attributes) for op, given, made, attributes in nodes],
        "graph",
        infos(inputs),
        infos(outputs),
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=7).SerializeToString()
