"""The runtime on Python 3.6 with an old numpy, as stock JetPack 4.6 has them.

ONNX Runtime does not install there today, so the backend is the one in numpy.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from labelled_photos import write_labelled
from synthetic_bundle import Backbone, images

from da3.runtime.app.zipapp import write_run_engine
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.onnx_graph.float16 import to_half
from da3.runtime.onnx_graph.joining import subgraph_model
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.schedule.layout import join_plan


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
    assert [line.split()[0] for line in domains("list").stdout.splitlines()] == ["flowers", "signs"]


def test_preprocessing_gives_the_same_numbers(call36, tmp_path):
    from da3.runtime.images.preprocess import Preprocessing

    rng = np.random.RandomState(0)
    image = rng.randint(0, 255, (50, 70, 3)).astype(np.uint8)
    np.save(tmp_path / "in.npy", image)
    code = (
        "import sys, numpy as np; from da3.runtime.images.preprocess import Preprocessing\n"
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

x = np.load(sys.argv[2])
with Runtime(sys.argv[1], backend="reference") as runtime:
    runtime.use("flowers")
    one = [runtime.run(x[i])[0] for i in range(len(x))]
    many, kept = runtime.trace(x, ["x1", "features"])
    assert (np.array([p.blocks for p in one]) == many.blocks).all()
    assert np.allclose([p.logits for p in one], many.logits, atol=1e-4)
    assert runtime.run_batch(x, force_all_blocks=True).blocks.all()
    assert runtime.run_batch(x, "signs").logits.shape == (len(x), 4)
    np.savez(sys.argv[3], logits=many.logits, blocks=many.blocks, **kept)
"""


def test_a_bundle_runs(call36, built, weights, tmp_path):
    x = images(12)
    np.save(tmp_path / "x.npy", x)
    done = call36("-c", ENGINE, built[0], tmp_path / "x.npy", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    logits, ran = Backbone().reference(x, weights["flowers"])
    with np.load(tmp_path / "out.npz") as out:
        assert (out["blocks"] == ran).all() and not ran.all()
        np.testing.assert_allclose(out["logits"], logits, rtol=1e-4, atol=1e-4)
        assert out["x1"].shape == (12, 4, 8, 8) and out["features"].shape == (12, 4)


def test_the_command_line_runs_one_too(call36, built, tmp_path):
    np.save(tmp_path / "x.npy", np.full((20, 30, 3), 99, np.uint8))
    options = ("--bundle", built[0], "--domain", "signs", "--backend", "reference", "--json")
    done = call36("-m", "da3.runtime", tmp_path / "x.npy", *options)
    assert done.returncode == 0 and json.loads(done.stdout)["domain"] == "signs"


GRAPHS = """
import sys
from da3.runtime.bundle.bundle import Bundle
from da3.runtime.onnx_graph.joining import subgraph_model
from da3.runtime.schedule.layout import join_plan
from da3.runtime.onnx_graph.writing import write_model
from da3.runtime.onnx_graph.float16 import to_half

with Bundle(sys.argv[1]) as bundle:
    for number, subgraph in enumerate(join_plan(bundle.manifest, True).subgraphs):
        model = subgraph_model(subgraph, bundle)
        for kind, data in (("full", model), ("half", to_half(model, [subgraph.segment.outputs[0].name]))):
            with open("%s/%d.%s" % (sys.argv[2], number, kind), "wb") as file:
                file.write(write_model(data))
"""


def test_graphs_are_written_the_same(call36, built, tmp_path):
    assert call36("-c", GRAPHS, built[0], tmp_path).returncode == 0
    with Bundle(built[0]) as bundle:
        for number, subgraph in enumerate(join_plan(bundle.manifest, True).subgraphs):
            model = subgraph_model(subgraph, bundle)
            for kind, expected in (("full", model), ("half", to_half(model, [subgraph.segment.outputs[0].name]))):
                assert (tmp_path / f"{number}.{kind}").read_bytes() == write_model(expected)


@pytest.mark.slow
def test_a_domain_is_learnt_killed_and_resumed(python36, pillow36, package_root, backbone_alone, photos, tmp_path):
    """With numpy and Pillow alone, on the reference backend; and it runs."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(package_root), pillow36]))
    shutil.copytree(backbone_alone, tmp_path / "bundle")
    run = tmp_path / "runs" / "stripes"

    def words(*more):
        return [python36, "-m", "da3.runtime", *map(str, more), "--domain", "stripes", "--backend", "reference"]

    options = ("--epochs", 4, "--batch-size", 8, "--keep", 0.7)
    process = subprocess.Popen(
        words("learn", photos, *options),
        cwd=tmp_path,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(1200):
        if (run / "metrics.jsonl").exists():
            break
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert 1 <= len((run / "metrics.jsonl").read_text().splitlines()) < 4 and not (tmp_path / "bundle/domains").exists()

    def finished(*more):
        done = subprocess.run(words(*more), cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return done

    done = finished("learn", "--resume")
    assert "resuming at epoch" in done.stderr and "domain stripes is in bundle" in done.stdout
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and rows[-1]["train_loss"] < rows[0]["train_loss"] + 1
    assert max(row["val_accuracy"] for row in rows) >= 0.9
    predicted = json.loads(finished("run", "--json", *sorted((photos / "val").glob("*/*.jpg"))).stdout)["predictions"]
    right = [row["label"] in row["path"] for row in predicted]
    assert len(right) == 12 and sum(right) >= 10


@pytest.mark.slow
def test_stock_jetpack_learns_with_tensorrt(python36, pillow36, backbone_alone, photos, tmp_path):
    """Python 3.6, numpy 1.13, TensorRT 8.2 and pycuda, no ONNX Runtime, and run_engine.pyz: engines are built apart,
    found again, and run.

    TensorRT and pycuda are those of stock_jetpack/, which compute and check nothing.
    """
    stock = Path(__file__).parent / "stock_jetpack"
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(stock), pillow36]))
    bundle = shutil.copytree(backbone_alone, tmp_path / "bundle")
    program = write_run_engine(bundle)
    words = [python36, program, "learn", "--domain", "stripes", str(photos), "--batch-size", "8"]

    def learn(*more):
        done = subprocess.run(
            [*words, "--epochs", "2", *more], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return done.stderr, [
            {k: v for k, v in json.loads(line).items() if k not in ("seconds", "images_per_second", "memory_mb")}
            for line in (tmp_path / "runs" / "stripes" / "metrics.jsonl").read_text().splitlines()
        ]

    said, rows = learn("--precision", "fp16")
    assert said.count("built the engine for ") == 3
    assert len(list((bundle / "engines" / "learning").glob("*.plan"))) == 3
    said, again = learn("--precision", "fp16", "--overwrite")
    assert "built the engine" not in said and again == rows
    said, numpy_rows = learn("--backend", "reference", "--overwrite")
    for row, expected in zip(rows, numpy_rows, strict=True):
        assert abs(row["train_loss"] - expected["train_loss"]) <= 2e-2 * expected["train_loss"]


def test_the_self_test_passes(call36, exits_bundle, tmp_path):
    from selftest_bundles import add_goldens

    words = ("selftest", "--bundle", add_goldens(exits_bundle), "--backend", "reference", "--quick", "--out", "r.json")
    done = call36("-m", "da3.runtime", *words, cwd=tmp_path)
    assert done.returncode == 1 and "no engine is installed" in done.stdout, "doctor's only complaint"
    report = json.loads((tmp_path / "r.json").read_text())
    failed = [f for stage in report["stages"] for f in stage["findings"] if f["status"] == "FAIL"]
    assert {f["name"] for f in failed} - {"speed beside one engine"} == {"doctor"}
    assert report["counts"]["PASS"] > 25


def test_a_domain_is_evaluated_and_results_are_saved(python36, pillow36, package_root, exits_bundle, tmp_path):
    """With numpy and Pillow alone; the record is the one that this Python makes."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(package_root), pillow36]))
    photos = tmp_path / "photos"
    write_labelled(photos, [f"flowers_{i}" for i in range(3)], each=2)
    options = ["-b", str(exits_bundle), "-d", "flowers", "--backend", "reference"]

    def finished(python, *words):
        words = [python, "-m", "da3.runtime", *map(str, words), *options]
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
        return done.stdout

    old = json.loads(finished(python36, "evaluate", photos, "--json", "-", "--csv", "old.csv"))
    assert old["versions"]["python"].startswith("3.6.") and len(old["evaluations"][0]["photos"]) == 6
    (tmp_path / "old.json").write_text(json.dumps(old))
    env["PYTHONPATH"] = str(package_root)
    text = finished(sys.executable, "evaluate", photos, "--against", "old.json")
    assert "0 only the first has right, 0 only the second; 100.0 % have the same answer" in text
    env["PYTHONPATH"] += os.pathsep + pillow36
    saved = ("--save-pictures", "seen", "--save-json", "all.json", "--unsure-below", 1, "--to", "next")
    assert "6 annotated pictures in seen" in finished(python36, photos, *saved)
    assert len(os.listdir(tmp_path / "seen")) == 6 and len(list((tmp_path / "next").glob("*/*.png"))) > 2
