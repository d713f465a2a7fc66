"""A memory budget of learning: which slices are tried and taken, what is refused, and that it holds."""

import pytest
from test_learning_step import deployed, network

from da3.runtime.bundle.writer import write_files
from da3.runtime.errors import TrainingError
from da3.runtime.learning import LearnOptions, fit_budget, learn
from da3.runtime.learning.budget import MARGIN
from da3.runtime.training import AdaptorSpec, MemorySettings, PhotoSet, Reporter, RunConfig, ShortRun


class Peaks:
    """What a short run holds: a line, in MB, of the photos a slice, and something for each worker."""

    def __init__(self, base, photo, worker):
        self.base, self.photo, self.worker, self.asked = base, photo, worker, []

    def __call__(self, short):
        slices = short.config.memory.micro_batch
        self.asked.append((slices, short.workers))
        return int((self.base + self.photo * slices + self.worker * short.workers) * 1e6 / MARGIN)


def fitted(megabytes, peaks, slices=0, fixed=False, workers_fixed=False):
    """What a budget makes of a run of batches of 8 with 2 workers."""
    config = RunConfig(
        domain="signs", data="photos", method="da3", backbone="mobilenet_v2", weights_sha256="0" * 64,
        classes=("a", "b", "c"), size=32, epochs=9, batch_size=8, lr=1e-3, keep=1.0, seed=0, flip=True,
        label_smoothing=0.1, adaptor=AdaptorSpec(), memory=MemorySettings(micro_batch=slices),
    )  # fmt: skip
    found, workers = fit_budget(
        ShortRun(config._replace(epochs=2), PhotoSet(("a", "b", "c"), (), ()), 2),
        peaks,
        budget=megabytes * 10**6,
        config=config,
        slices_fixed=fixed,
        workers_fixed=workers_fixed,
        reporter=Reporter(),
    )
    assert found.epochs == 9
    return found.memory.micro_batch, workers


def test_a_budget_takes_the_largest_slices_that_fit():
    assert fitted(1000, Peaks(100, 10, 1)) == (8, 2)
    assert fitted(145, Peaks(100, 10, 1)) == (4, 2)
    peaks = Peaks(100, 10, 1)
    assert fitted(115, peaks) == (1, 2) and peaks.asked == [(1, 2), (2, 2)]
    assert fitted(145, Peaks(100, 10, 1), slices=3, fixed=True) == (3, 2)
    assert fitted(112, Peaks(100, 10, 1.4)) == (1, 1)


def test_a_budget_that_cannot_be_met_is_refused_with_the_smallest_that_can():
    with pytest.raises(TrainingError, match="the smallest that works is 112 MB") as refused:
        fitted(100, Peaks(100, 10, 1.4))
    assert "--memory-budget 100 MB is too small" in str(refused.value)
    with pytest.raises(TrainingError, match="the smallest that works is 113 MB"):
        fitted(100, Peaks(100, 10, 1.4), workers_fixed=True)


@pytest.fixture
def bundle(tmp_path):
    write_files(tmp_path / "bundle", deployed(network("mobilenet_v2", 0.35, 32)).every_file())
    return str(tmp_path / "bundle")


def test_a_budget_is_measured_for_real(bundle, photos, tmp_path):
    notes = []
    reporter = Reporter()
    reporter.note = notes.append
    options = LearnOptions("signs", str(photos), bundle, str(tmp_path / "runs"), epochs=1, workers=1, threads=1)
    done = learn(options._replace(memory_budget="1GB", batch_size=8, micro_batch=2), reporter)
    assert done.domain is not None and done.budget == 10**9 and done.config.memory.micro_batch == 2
    assert "measuring short runs" in notes[0] and "2 a slice" in notes[1] and "which fits" in notes[1]
    measured = float(notes[1].split(": ")[1].split(" MB")[0]) * 1e6
    assert 40e6 < measured < 400e6  # Python and ONNX Runtime are in it
    with pytest.raises(TrainingError, match="--memory-budget 9 MB is too small for mobilenet_v2 at 32 px"):
        learn(options._replace(domain="other", memory_budget="9MB"), reporter)
    assert not (tmp_path / "runs" / "other").exists()


def test_a_budget_is_of_the_cpu(bundle, photos, tmp_path):
    options = LearnOptions("signs", str(photos), bundle, str(tmp_path / "runs"), memory_budget="1GB", backend="cuda")
    with pytest.raises(TrainingError, match="--memory-budget is measured for learning on the CPU; with --backend cuda"):
        learn(options, Reporter())
