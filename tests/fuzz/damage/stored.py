"""The graphs that ONNX Runtime has stored for its next start, damaged where they lie."""

import glob
import hashlib
import json
import os
import random

from . import graphs, plain


def damage(engines, seed, fits):
    """Damage one of the files in a bundle's folder of engines. fits: make the index's hashes fit what is damaged."""
    (index,) = glob.glob(os.path.join(engines, "onnxruntime-*", "index.json"))
    rng = random.Random(seed)
    stored = sorted(glob.glob(os.path.join(os.path.dirname(index), "*.onnx")))
    with open(index, "rb") as opened:
        content = json.loads(opened.read().decode("utf-8"))["content"]
    if rng.random() < 0.3 and not fits:
        _change(index, plain, rng)
        return
    number = rng.randrange(len(stored))
    data = _change(stored[number], rng.choice((plain, graphs)), rng)
    if fits:
        content["files"][number] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        if rng.random() < 0.3:
            name = rng.choice(sorted(content["shapes"]))
            content["shapes"][name] = rng.choice(([], [1], ["batch", 2**31, 4], [0], [-1], ["x"], 5, None, [[1]]))
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()
        with open(index, "wb") as opened:
            opened.write(json.dumps({"sha256": digest, "content": content}).encode("utf-8"))


def _change(path, kind, rng):
    with open(path, "rb") as opened:
        data = opened.read()
    data, _ = kind.damaged(data, rng)
    with open(path, "wb") as opened:
        opened.write(data)
    return data
