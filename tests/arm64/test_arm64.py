"""A domain learnt and run on an arm64 Linux, emulated: by ONNX Runtime's build for it, and by numpy.

Learning has no chance in it but the seed's, so what is learnt there is what is learnt here, up to rounding.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from root_file_system import NANO, NEWEST, Unavailable, arm64_python

from da3.export.exporter import export_domain
from da3.runtime.bundle import Bundle, read_domain
from da3.runtime.onnx_graph.reading import read_model
from da3.runtime.onnx_graph.writing import write_model
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
# With exits; by ONNX Runtime also with two blocks closed and bypasses in their places.
WAYS = {
    "onnxruntime": ("--backend", "onnxruntime", "--threads", 2, "--epochs", 3, "--keep", 0.5),
    "reference": ("--backend", "reference", "--epochs", 2, "--keep", 0.7),
}
EXPORTED, LEARNT = "signs", "stripes"
# Found between the two machines: 1e-5 of a loss; 3e-6; 0.01 of a tensor's largest number, and 8e-7 of a gradient's.
LOSS, PROBABILITY, TENSOR, GRADIENT = 1e-4, 1e-3, 0.05, 1e-5


@pytest.fixture(scope="module")
def arm():
    """The command that starts the arm64 Python."""
    try:
        return arm64_python()
    except Unavailable as error:
        pytest.skip(str(error))


def run(python, *words, cwd):
    """What the program prints on stdout; a board has no da3 installed, and this machine's must not help it."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    command = [*python, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd, timeout=900)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stdout


def predict(python, bundle, domain, photos, backend):
    words = ("run_engine.pyz", "run-engine", "--domain", domain, "--backend", backend, "--json", *photos)
    return json.loads(run(python, *words, cwd=bundle))["predictions"]


@pytest.fixture(scope="module")
def pictures(photos):
    return sorted((photos / "val").glob("*/*.jpg"))[::2]


@pytest.fixture(scope="module")
def exported(photos, tmp_path_factory):
    """A bundle as it is carried to a board: a domain that PyTorch learnt, and run_engine.pyz. Never write into it."""
    folder = tmp_path_factory.mktemp("exported")
    options = TrainOptions(
        domain=EXPORTED, data=str(photos), runs=folder / "runs", weights="demo", size=32, epochs=1, batch_size=8
    )
    train(options, SilentReporter())
    return Path(export_domain(EXPORTED, folder / "runs", folder / "bundle").path)


@pytest.fixture(scope="module", params=WAYS)
def learnt(request, arm, exported, photos, tmp_path_factory):
    """(backend, {machine: (its Python, its bundle, in which it has learnt)})."""
    machines = {}
    for machine, python in (("here", [sys.executable]), ("arm64", arm)):
        bundle = Path(shutil.copytree(exported, tmp_path_factory.mktemp(machine) / "bundle"))
        words = ("--domain", LEARNT, "--batch-size", 8, "--workers", 2, *WAYS[request.param])
        said = run(python, "run_engine.pyz", "learn", photos, *words, cwd=bundle)
        assert f"domain {LEARNT} is in" in said
        machines[machine] = (python, bundle)
    return request.param, machines


def test_the_python_is_an_arm64_one(arm, tmp_path):
    code = "import os, platform, onnxruntime; print(platform.machine(), 'Features' in open('/proc/cpuinfo').read())"
    assert run(arm, "-c", code, cwd=tmp_path) == "aarch64 True\n"


def test_what_is_learnt_is_what_is_learnt_here(learnt):
    backend, machines = learnt
    rows, domains = {}, {}
    for machine, (_, folder) in machines.items():
        lines = (folder / "runs" / LEARNT / "metrics.jsonl").read_text().splitlines()
        rows[machine] = [json.loads(line) for line in lines]
        with Bundle(folder) as bundle:
            bundle.verify()
            domains[machine] = read_domain(bundle, LEARNT)
    for found, expected in zip(rows["arm64"], rows["here"], strict=True):
        assert found["val_accuracy"] == expected["val_accuracy"]
        for name in ("train_loss", "val_loss"):
            assert found[name] == pytest.approx(expected[name], rel=LOSS), name
    here, there = domains["here"], domains["arm64"]
    assert there.closed == here.closed and (len(here.closed) > 0) == (backend == "onnxruntime")
    assert len(here.exits) > 0
    for found, expected in zip(there.exits, here.exits, strict=True):
        assert found.threshold == pytest.approx(expected.threshold, rel=LOSS)
    assert there.weights.keys() == here.weights.keys()
    for name, expected in here.weights.items():
        assert np.abs(there.weights[name] - expected).max() <= TENSOR * np.abs(expected).max(), name


@pytest.mark.parametrize("domain", [EXPORTED, LEARNT])
def test_both_answer_alike(domain, learnt, pictures):
    """With what the emulated one has learnt, and with what PyTorch has."""
    backend, machines = learnt
    bundle = machines["arm64"][1]
    expected, found = (predict(machines[m][0], bundle, domain, pictures, backend) for m in ("here", "arm64"))
    assert len(found) == len(pictures) and len({p["label"] for p in found}) > 1
    for left, right in zip(found, expected, strict=True):
        assert (left["label"], left["blocks_run"], left["exit"]) == (
            right["label"],
            right["blocks_run"],
            right["exit"],
        )
        assert left["probability"] == pytest.approx(right["probability"], abs=PROBABILITY)


def stored(bundle):
    """What ONNX Runtime's graphs in the bundle are made of, and their bytes, by the name of their folder."""
    found = {}
    for index in sorted((bundle / "engines").glob("onnxruntime-*/index.json")):
        files = [path.read_bytes() for path in sorted(index.parent.glob("*.onnx"))]
        found[index.parent.name] = (json.loads(index.read_text())["content"]["made_of"], files)
    return found


def store(folder, made_of, files):
    """Put graphs in the place of those in a folder, with all hashes right."""
    content = json.loads((folder / "index.json").read_text())["content"]
    content["made_of"] = made_of
    content["files"] = [{"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for data in files]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "index.json").write_text(json.dumps({"sha256": digest, "content": content}))
    for path, data in zip(sorted(folder.glob("*.onnx")), files, strict=True):
        path.write_bytes(data)


def wrong(graph):
    """A graph of other answers: its convolutions give what they should with the sign changed."""
    model = read_model(graph)
    weights = {name: -array if array.ndim == 4 else array for name, array in model.weights.items()}
    return write_model(model.replace(weights=weights))


def test_graphs_stored_by_another_processor_are_not_used(arm, exported, pictures, tmp_path):
    """Neither beside its own nor in the place of its own, where its own would be used."""
    bundle = Path(shutil.copytree(exported, tmp_path / "bundle"))

    def answers(python):
        return np.array([p["probability"] for p in predict(python, bundle, EXPORTED, pictures, "onnxruntime")])

    expected = answers([sys.executable])
    (here,) = stored(bundle)
    assert np.abs(answers(arm) - expected).max() <= PROBABILITY
    (there,) = stored(bundle).keys() - {here}
    (others, _), (own, files) = stored(bundle)[here], stored(bundle)[there]
    assert own["cpu"][0] == "aarch64" != others["cpu"][0]
    store(bundle / "engines" / there, own, [wrong(data) for data in files])
    assert np.abs(answers(arm) - expected).max() > 10 * PROBABILITY
    store(bundle / "engines" / there, others, [wrong(data) for data in files])
    assert np.abs(answers(arm) - expected).max() <= PROBABILITY
    assert stored(bundle)[there] == (own, files)


def test_a_step_as_it_is_made_for_that_cpu(arm, exported, tmp_path):
    """In blocks where ONNX Runtime has any there, or without; it gives what the plain graph gives, there and here."""
    arrays = {}
    for machine, python in (("here", [sys.executable]), (NANO, arm), (NEWEST, arm64_python(NEWEST))):
        words = (HERE / "one_step.py", exported / "run_engine.pyz", exported, EXPORTED, tmp_path / f"{machine}.npz")
        facts = json.loads(run(python, *words, cwd=tmp_path))
        assert (facts["block"] > 1) == (facts["nodes_in_blocks"] > 0)
        with np.load(tmp_path / f"{machine}.npz") as file:
            arrays[machine] = dict(file)
    names = [key.partition("/")[2] for key in arrays["here"] if key.startswith("reference/")]
    assert any(name.startswith("gradient:") for name in names)
    for name in names:
        expected = arrays["here"][f"reference/{name}"]
        for machine, found in arrays.items():
            for way in ("plain", "cpu", "reference"):
                errors = np.abs(found[f"{way}/{name}"] - expected)
                # A number beside an activation's bend may fall on its other side: those gradients differ by more.
                assert np.percentile(errors, 95) <= GRADIENT * np.abs(expected).max(), (machine, way, name)
