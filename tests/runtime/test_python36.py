"""The runtime on Python 3.6 with an old numpy, as stock JetPack 4.6 has them.

ONNX Runtime does not install there today, so the backend is one written below, in numpy.
"""

import glob
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from synthetic_bundle import Backbone, images

VERSION = "import sys; print(sys.version_info[:2] == (3, 6))"


def candidates():
    yield shutil.which("python3.6")
    yield os.environ.get("DA3_PYTHON36")
    yield from sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.6.*/bin/python")))


def works(python, code):
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() in (b"True", b"")


@pytest.fixture(scope="module")
def python36(tmp_path_factory):
    """A Python 3.6 that has numpy: found, or made in a venv."""
    found = [p for p in candidates() if p and works(p, VERSION)]
    if not found:
        pytest.skip("no Python 3.6: put python3.6 on PATH or its path in DA3_PYTHON36")
    for python in found:
        if works(python, "import numpy"):
            return python
    folder = tmp_path_factory.mktemp("venv36")
    python = str(folder / "bin" / "python")
    for command in (
        [found[0], "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "-q", "numpy==1.13.3"],
    ):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
        if done.returncode:
            pytest.skip(f"Python 3.6 has no numpy and {command[2:4]} failed: {done.stdout[-200:]!r}")
    return python


@pytest.fixture
def call36(call, python36):
    def run(*arguments, **kwargs):
        done = call(*arguments, python=python36, **kwargs)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def test_import_and_help(call36):
    assert "Runtime" in call36("-c", "import da3.runtime; print(da3.runtime.__all__)").stdout
    assert call36("-m", "da3.runtime", "--help").returncode == 0
    assert "python                 3.6" in call36("-m", "da3.runtime", "doctor").stdout


def test_every_module_imports(call36):
    from test_imports import modules

    done = call36("-c", f"for name in {list(modules())}: __import__(name)\nprint('all')")
    assert done.stdout == "all\n"


def test_bundle_is_read_and_verified(call36, bundle, tmp_path):
    code = "import sys; from da3.runtime import Bundle; b = Bundle(sys.argv[1]); b.verify(); print(b.domains)"
    zipped = shutil.make_archive(str(tmp_path / "z"), "zip", bundle)
    for path in (bundle, zipped):
        assert call36("-c", code, path).stdout == "['flowers', 'signs']\n"
    stem = bundle / "backbone" / "stem.onnx"
    stem.write_bytes(stem.read_bytes()[:-1] + b"?")
    done = call36("-m", "da3.runtime", "doctor", "--bundle", bundle)
    assert done.returncode == 1 and "backbone/stem.onnx is not the file the manifest names" in done.stderr


def test_packs(call36, bundle, tmp_path):
    def domains(*words):
        return call36("-m", "da3.runtime", "domains", *words, "--bundle", bundle)

    assert domains("pack", "signs", "--out", tmp_path).returncode == 0
    assert domains("remove", "signs").returncode == 0
    assert domains("add", tmp_path / "signs.da3").stdout == "added signs\n"
    assert domains("list").stdout == "flowers\nsigns\n"


def test_preprocessing_gives_the_same_numbers(call36, tmp_path):
    from da3.runtime.preprocess import Preprocessing

    rng = np.random.RandomState(0)
    image = rng.randint(0, 255, (50, 70, 3)).astype(np.uint8)
    np.save(tmp_path / "in.npy", image)
    code = (
        "import sys, numpy as np; from da3.runtime.preprocess import Preprocessing\n"
        "p = Preprocessing(32, 0.875, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))\n"
        "np.save(sys.argv[2], p.normalise(p.resize_and_crop(np.load(sys.argv[1]))[None]))"
    )
    assert call36("-c", code, tmp_path / "in.npy", tmp_path / "out.npy").returncode == 0
    prep = Preprocessing(32, 0.875, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    expected = prep.normalise(prep.resize_and_crop(image)[None])
    # Pillow may be on one side only: 2/255 apart at most, over the smallest std.
    assert np.abs(np.load(tmp_path / "out.npy") - expected).max() <= 2 / 255 / 0.2 + 1e-5


ENGINE = """
import sys
import numpy as np
from da3.runtime import Runtime
from da3.runtime.backends import Backend

kernels = np.load(sys.argv[2])


def conv(x, kernel, stride):
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), "constant")
    out = np.zeros((x.shape[0], kernel.shape[0]) + x.shape[2:], np.float32)
    for i in range(3):
        for j in range(3):
            out += np.einsum("oc,bchw->bohw", kernel[:, :, i, j], padded[:, :, i:i + x.shape[2], j:j +
            x.shape[3]])
    return out[:, :, ::stride, ::stride]


def adaptor(x, down, up, gate_weight, gate_bias):
    hidden = np.maximum(x.mean((2, 3)).dot(down), 0)
    return [hidden.dot(up)[:, :, None, None], (hidden.dot(gate_weight) + gate_bias)[:, 0]]


class Numpy(Backend):
    name = "numpy"

    def open(self, segment, bundle):
        bundle.read(segment.file)
        name = segment.name
        if name.startswith("block"):
            kernel = kernels[name]
            return lambda v: [np.maximum(v[0] + v[1] + conv(v[0], kernel, 1), 0)]
        return {
            "stem": lambda v: [np.maximum(conv(v[0], kernels["stem"], 2), 0)],
            "skip": lambda v: [np.maximum(v[0] + v[1], 0)],
            "adaptor": lambda v: adaptor(*v),
            "tail": lambda v: [v[0].mean((2, 3))],
            "head": lambda v: [v[0].dot(v[1]) + v[2]],
        }[name]


x = np.load(sys.argv[3])
with Runtime(sys.argv[1], backend=Numpy()) as runtime:
    runtime.use("flowers")
    one = [runtime.run(x[i])[0] for i in range(len(x))]
    many = runtime.run_batch(x)
    assert (np.array([p.blocks for p in one]) == many.blocks).all()
    assert np.allclose([p.logits for p in one], many.logits, atol=1e-4)
    assert runtime.run_batch(x, force_all_blocks=True).blocks.all()
    np.savez(sys.argv[4], logits=many.logits, blocks=many.blocks)
"""


def test_the_scheduler(call36, built, weights, tmp_path):
    backbone = Backbone()
    kernels = {f"block_{i}": k for i, k in enumerate(backbone.blocks)}
    np.savez(tmp_path / "kernels.npz", stem=backbone.stem, **kernels)
    x = images(12)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "engine.py").write_text(ENGINE)
    files = [tmp_path / name for name in ("kernels.npz", "x.npy", "out.npz")]
    done = call36(Path(tmp_path / "engine.py"), built[0], *files)
    assert done.returncode == 0, done.stderr
    logits, ran = backbone.reference(x, weights["flowers"])
    with np.load(tmp_path / "out.npz") as out:
        assert (out["blocks"] == ran).all() and not ran.all()
        np.testing.assert_allclose(out["logits"], logits, rtol=1e-4, atol=1e-4)
