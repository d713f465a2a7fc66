"""A finished run looks at its photos: what it finds is stored, exported, and the same with either engine."""

from dataclasses import replace

import numpy as np
import pytest

from da3.export import export_domain
from da3.runtime import Runtime
from da3.runtime.bundle import Bundle, read_domain
from da3.runtime.learning import CpuRunning, GraphTrainee
from da3.runtime.training import Reporter
from da3.runtime.training import checkpoint as checkpoints
from da3.runtime.training.checkpoint import read
from da3.toolchain.learning.bundles import bundle_of
from da3.toolchain.methods import method
from da3.toolchain.training import TrainOptions, train
from da3.toolchain.training.checkpoint import BackboneStore, task_of
from da3.toolchain.training.trainee import TorchTrainee


@pytest.fixture(scope="module")
def run(more_photos, tmp_path_factory):
    """A finished run of seconds."""
    folder = tmp_path_factory.mktemp("looking")
    options = TrainOptions(
        domain="stripes",
        data=str(more_photos),
        runs=folder / "runs",
        weights="demo",
        size=32,
        epochs=1,
        batch_size=8,
        workers=2,
    )
    train(options, Reporter())
    return options


@pytest.fixture
def best(run):
    return read(run.folder / "best.safetensors")


def test_the_best_checkpoint_has_it(run, best):
    assert best.familiar is not None and best.familiar.photos == (24, 24)
    assert best.familiar.places[0].terms == best.familiar.places[-1].terms[:1]
    assert len(best.familiar.places) == len(best.config.adaptor.exits) + 1
    assert read(run.folder / "last.safetensors").familiar is None


def test_going_on_with_a_finished_run_finds_the_same(run, best):
    """A run that was stopped while it looked, or that an older da3 has finished."""
    path = run.folder / "best.safetensors"
    data = path.read_bytes()
    checkpoints.write(path, best.config, best.progress, best.model, {}, best.provenance)
    assert read(path).familiar is None
    train(replace(run, resume=True), Reporter())
    assert path.read_bytes() == data


@pytest.mark.parametrize("backend", ["reference", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_both_engines_see_the_same(run, best, backend):
    """PyTorch, and the graphs of the bundle that da3 train --engine onnxruntime learns on."""
    weights = BackboneStore(run.runs).get(best.config.backbone, best.config.weights_sha256)
    learner = method("da3")(task_of(best.config), weights)
    torch_trainee = TorchTrainee(best.config, learner, next(learner.model.buffers()).device)
    pixels = np.random.RandomState(0).randint(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    expected = torch_trainee.see(best)(pixels)
    with Bundle(bundle_of(run.runs, best.config, None)) as bundle:
        trainee = GraphTrainee(bundle, best.config, CpuRunning(backend, 1))
        try:
            assert trainee.places() == torch_trainee.places()
            found = trainee.see(best)(pixels)
        finally:
            trainee.close()
    assert set(found) >= set(expected) == {"logits", *best.familiar.values}
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=2e-3, atol=2e-3)


def test_it_is_exported(run, best, tmp_path):
    bundle = export_domain("stripes", run.runs, tmp_path / "bundle").path
    with Bundle(bundle) as opened:
        assert read_domain(opened, "stripes").familiar.places == best.familiar.places
    with Runtime(bundle, backend="reference") as runtime:
        found = runtime.run(f"{run.data}/val", "stripes", batch_size=8)
        black = runtime.run(np.zeros((40, 48, 3), np.uint8), "stripes")[0]
    assert np.mean([p.known for p in found]) > 0.8 and len(found) == 24
    assert black.known is False


def test_few_photos_are_left_alone(small_run):
    """Those of ``small_run`` are too few to calibrate on."""
    train(small_run("few", epochs=1), Reporter())
    assert read(small_run("few").folder / "best.safetensors").familiar is None


def test_other_methods_are_left_alone(run, best):
    weights = BackboneStore(run.runs).get(best.config.backbone, best.config.weights_sha256)
    learner = method("linear")(task_of(best.config), weights)
    assert TorchTrainee(best.config, learner, next(learner.model.buffers()).device).places() == ()
