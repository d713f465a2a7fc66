"""Learning on TensorRT, on the doubles of every release: what the CPU learns, by engines that are built once."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from simulation import CUDA, simulated
from small_runs import same, tensors_of, untimed
from trt_answers import EVERY_RELEASE, QUICK, RELEASES

from da3.runtime import Runtime
from da3.runtime.bundle import Bundle, read_domain
from da3.runtime.errors import BackendError, TrainingError
from da3.runtime.learning import LearnOptions, learn
from da3.runtime.learning.answering import undecided
from da3.runtime.learning.making import ANSWERS, FORCED, OBSERVATION, STEP, TITLES
from da3.runtime.learning.on_cpu import CpuRunning
from da3.runtime.learning.on_tensorrt import FOLDER, LOSS_SCALE, TensorRTRunning
from da3.runtime.learning.parameters import Parameters
from da3.runtime.training import Reporter
from da3.runtime.training.checkpoint import read
from da3.runtime.trt import graph_plans

CLASSES, PHOTOS, SLICE, SIZE = 4, 5, 3, 32
EXACT = 1e-5  # of a gradient's largest number
# Of a gradient's norm, and in the middle of all tensors. On noise of 32 px many of 17 blocks' activations lie close
# enough to a bend to be rounded across it; with sums and products of the adaptors in float32 it is no less.
HALVED, USUALLY = 0.2, 0.08


@pytest.fixture
def home(backbone_alone, tmp_path):
    return Path(shutil.copytree(backbone_alone, tmp_path / "bundle"))


def domain(bundle, closed=()):
    """The tensors of a domain of random numbers."""
    own = Parameters(bundle.manifest, CLASSES, 0, may_close=bool(closed))
    rng = np.random.RandomState(0)
    for array in own.trained().values():
        array[...] = 0.1 * rng.normal(0, 1, array.shape) + array
    for block in closed:
        own.close(block)
    return {"domain:" + name: array for name, array in own.fold().items()}


def batch(photos=PHOTOS, scaled=1.0):
    rng = np.random.RandomState(1)
    labels = rng.randint(0, CLASSES, photos)
    target = (0.9 * np.eye(CLASSES)[labels] + 0.1 / CLASSES).astype(np.float32)
    image = rng.normal(0, 1, (photos, 3, SIZE, SIZE)).astype(np.float32)
    return {"image": image, "target": target, "scale": np.full((photos, 1), scaled / photos, np.float32)}


def gradients_of(runner, tensors, scaled=1.0):
    """Loss and gradients of a batch in slices, the last of which is smaller."""
    feeds, sums, logits = batch(scaled=scaled), {}, []
    runner.keep(tensors)
    for start in range(0, PHOTOS, SLICE):
        found = runner.run({name: array[start : start + SLICE] for name, array in feeds.items()})
        logits.append(found.pop("logits"))
        for name, array in found.items():
            sums[name] = sums.get(name, 0) + array / scaled
    return np.concatenate(logits), sums


def distance(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("release", "closed"),
    [
        pytest.param(release, closed, id=f"{release}-{'closed' if closed else 'open'}", marks=marks)
        for release in RELEASES
        for closed in ((), (4, 9))
        # What closing leaves out is a part of what every release has to take; all of it, one release shows.
        for marks in [() if release in QUICK and (closed or release == QUICK[-1]) else pytest.mark.slow]
    ],
)
def test_gradients_are_those_of_the_cpu(release, closed, home):
    with Bundle(home) as bundle:
        tensors = domain(bundle, closed)
        logits, expected = gradients_of(CpuRunning("onnxruntime", 1).open(STEP, bundle, CLASSES, closed), tensors)
        for precision, scaled, tolerance in (("fp32", 1.0, EXACT), ("fp16", LOSS_SCALE, HALVED)):
            with simulated(tensorrt=release):
                running = TensorRTRunning(precision, SLICE)
                assert running.loss_scale == scaled
                runner = running.open(STEP, bundle, CLASSES, closed)
                found_logits, found = gradients_of(runner, tensors, scaled)
                runner.close()
            assert found.keys() == expected.keys() and found_logits.shape == logits.shape
            assert np.abs(found_logits - logits).max() <= tolerance * np.abs(logits).max()
            for name, value in expected.items():
                assert found[name].shape == value.shape and found[name].dtype == np.float32
                if precision == "fp32":
                    errors = np.abs(found[name] - value) / np.abs(value).max()
                    assert np.percentile(errors, 95) <= EXACT and errors.max() <= 0.1, name
                else:
                    assert distance(found[name], value) <= HALVED, name
            middle = np.median([distance(found[name], value) for name, value in expected.items()])
            assert 1e-5 < middle <= USUALLY if precision == "fp16" else middle <= 1e-6


def test_the_scale_keeps_small_gradients(home):
    """In float16 the gradients of a batch that is nearly learnt are 0 without it."""
    with Bundle(home) as bundle, simulated(tensorrt="11.4.0"):
        tensors = domain(bundle)
        runner = TensorRTRunning("fp16", PHOTOS).open(STEP, bundle, CLASSES)
        runner.keep(tensors)
        found = []
        for scaled in (1.0, 1e-6, 1e-6 * LOSS_SCALE):
            feeds = batch(scaled=scaled)
            found.append({n: a / scaled for n, a in runner.run(feeds).items() if n.startswith("gradient:")})
        runner.close()
    whole, lost, kept = found
    worst = [max(distance(some[name], whole[name]) for name in whole) for some in (lost, kept)]
    assert worst[0] > 0.5 and worst[1] < 0.1


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_the_other_graphs(release, home):
    """What is measured on photos, what closing a block costs, and the answers, with fewer photos than an engine has."""
    closed = (4, 9)
    with Bundle(home) as bundle:
        tensors, image = domain(bundle, closed), batch(SLICE - 1)["image"]
        own = Parameters(bundle.manifest, CLASSES, 0, may_close=True)
        every = {"domain:" + name: array + 0.01 for name, array in own.fold(every=True).items()}
        runs = {f"run:{i}": np.full(1, i not in closed, np.float32) for i in own.closable}
        for kind, kept, feeds in (
            (OBSERVATION, tensors, {}),
            (ANSWERS, tensors, {}),
            (FORCED, every, runs),
        ):
            found = []
            for make in (lambda: CpuRunning("onnxruntime", 1), lambda: TensorRTRunning("fp16", SLICE)):
                with simulated(tensorrt=release):
                    runner = make().open(kind, bundle, CLASSES, closed)
                    runner.keep(kept)
                    found.append(runner.run({"image": image, **feeds}))
                    runner.close()
            expected, ours = found
            assert expected.keys() == ours.keys() and len(ours) > 3
            for name, value in expected.items():
                assert ours[name].shape == value.shape
                assert np.abs(ours[name] - value).max() <= 1e-4 * np.abs(value).max(), (kind, name)


@pytest.mark.parametrize("cuda", CUDA)
def test_by_every_way_to_cuda(cuda, home):
    """A graph that is opened, run on two domains and closed twice leaves nothing behind."""
    with Bundle(home) as bundle, simulated(tensorrt="10.16.1", cuda=cuda):
        running = TensorRTRunning("fp32", SLICE)
        tensors, image = domain(bundle), batch(SLICE)["image"]
        for _ in range(2):
            runner = running.open(ANSWERS, bundle, CLASSES)
            found = []
            for factor in (1, 2):
                runner.keep({name: array * np.float32(factor) for name, array in tensors.items()})
                found += [runner.run({"image": image})["logits"] for _ in range(2)]
            runner.close()
            assert (found[0] == found[1]).all() and (found[2] == found[3]).all() and (found[0] != found[2]).any()


def test_answers_are_those_of_the_runtime(home):
    closed = (4, 9)
    with Bundle(home) as bundle, simulated(tensorrt="8.2.1"):
        weights = {name[len("domain:") :]: array for name, array in domain(bundle, closed).items()}
        learnt = undecided(bundle.manifest, "d", tuple("abcd"), weights, closed)
        found = []
        for running in (CpuRunning("onnxruntime", 1), TensorRTRunning("fp32", SLICE)):
            answers = running.answers(bundle, CLASSES, closed)
            answers.use(learnt)
            found.append(answers(batch(2)["image"]))
            answers.close()
    assert found[0].shape == (2, 5, CLASSES)
    assert np.abs(found[0] - found[1]).max() <= 1e-4 * np.abs(found[0]).max()


# -- runs


@pytest.fixture
def asked(home, photos, tmp_path):
    def make(**changes):
        options = {
            "domain": "stripes",
            "photos": str(photos),
            "bundle": str(home),
            "runs": str(tmp_path / "runs"),
            "backend": "tensorrt",
            "epochs": 2,
            "batch_size": 8,
            "micro_batch": 3,
            "threads": 1,
            "workers": 1,
        }
        return LearnOptions(**{**options, **changes})

    return make


class Watches(Reporter):
    """Remembers what was built, and asks to stop after a number of steps, as Ctrl-C would."""

    def __init__(self, steps=10**6):
        self.built, self.notes, self.left = [], [], steps

    def building(self, what, seconds, done):
        if done:
            self.built.append(what)

    def note(self, text):
        self.notes.append(text)

    def step(self, *facts):
        self.left -= 1

    def __call__(self):
        return self.left <= 0


class Epochs(Reporter):
    """Remembers what they came to, and asks to stop after a number of them."""

    def __init__(self, most):
        self.most, self.rows = most, []

    def epoch(self, row):
        self.rows.append(row)

    def __call__(self):
        return len(self.rows) >= self.most


@pytest.mark.parametrize(
    ("release", "precision"),
    [
        ("8.2.1", "fp32"),
        pytest.param("11.4.0", "fp16", marks=pytest.mark.slow),
        pytest.param("8.2.1", "fp16", marks=pytest.mark.slow),
        pytest.param("10.16.1", "fp32", marks=pytest.mark.slow),
    ],
)
def test_learns_and_puts_the_domain_into_the_bundle(release, precision, asked, home, tmp_path):
    reporter = Watches()
    with simulated(tensorrt=release):
        done = learn(asked(epochs=8, keep=0.7, precision=precision), reporter)
    assert reporter.built == [TITLES[kind] for kind in (OBSERVATION, STEP, ANSWERS)]
    assert done.best["val_accuracy"] >= 0.9
    assert done.history[-1]["train_loss"] < 0.8 * done.history[0]["train_loss"]
    assert not any("skipped_steps" in row for row in done.history)
    first = Epochs(1)
    learn(asked(backend="onnxruntime", domain="cpu", epochs=8, keep=0.7), first, first)
    tolerance = 2e-4 if precision == "fp32" else 3e-2
    assert done.history[0]["train_loss"] == pytest.approx(first.rows[0]["train_loss"], rel=tolerance)
    assert len([text for text in reporter.notes if "3 photos at once take" in text and "of the GPU's" in text]) == 1
    with Bundle(home) as bundle:
        bundle.verify()
        stored = read_domain(bundle, "stripes").weights
    assert same({name: stored[name] for name in done.domain.weights}, done.domain.weights)
    with Runtime(home, "onnxruntime") as runtime:
        result = runtime.run_batch(np.zeros((1, 3, SIZE, SIZE), np.float32), "stripes")
        assert result.logits.shape == (1, 3)


@pytest.mark.parametrize("precision", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_resumed_equals_uninterrupted_and_builds_nothing(precision, asked):
    with simulated(tensorrt="8.2.1"):
        first = Watches()
        whole = learn(asked(domain="whole", epochs=3, precision=precision), first)
        assert len(first.built) == 3
        for after in (1, 2, 3):
            reporter = Watches(after)
            stopped = learn(asked(epochs=3, resume=after > 1, precision=precision), reporter, reporter)
            assert stopped.domain is None and reporter.built == [], "what another run built of the same is used"
        resumed = learn(asked(resume=True, epochs=None, photos=None, precision=precision), reporter := Watches())
        assert reporter.built == []
    assert untimed(whole.history) == untimed(resumed.history)
    assert same(*(tensors_of(Path(run.folder) / "last.safetensors") for run in (whole, resumed)))
    assert same(whole.domain.weights, resumed.domain.weights)


@pytest.mark.slow
def test_blocks_are_closed_by_engines(asked):
    options = {"keep": 0.45, "epochs": 6, "micro_batch": 8}
    with simulated(tensorrt="8.2.1"):
        done = learn(asked(**options), reporter := Watches())
    cpu = learn(asked(**options, domain="cpu", backend="onnxruntime"), Reporter())
    assert len(done.domain.closed) >= 2 and done.best["val_accuracy"] >= 0.75
    assert len(cpu.domain.closed) == len(done.domain.closed)
    assert reporter.built.count(TITLES[FORCED]) == 1
    assert reporter.built.count(TITLES[STEP]) > 1, "a step without the closed blocks is another engine"


class Overflows:
    """A step's engine whose gradients are infinite in some runs."""

    def __init__(self, runner, runs):
        self.runner, self.runs, self.count = runner, runs, 0

    def __getattr__(self, name):
        return getattr(self.runner, name)

    def run(self, feeds):
        found = self.runner.run(feeds)
        if self.count in self.runs:
            name = next(name for name in found if name.startswith("gradient:"))
            found[name].reshape(-1)[0] = np.inf
        self.count += 1
        return found

    def run_side_by_side(self, feeds):
        return [self.run(few) for few in feeds]


@pytest.fixture
def overflowing(monkeypatch):
    """overflowing(runs): in these runs of each step's engine a gradient is infinite."""

    def make(runs):
        opened = TensorRTRunning.open

        def wrapped(self, kind, *rest):
            runner = opened(self, kind, *rest)
            return Overflows(runner, runs) if kind == STEP else runner

        monkeypatch.setattr(TensorRTRunning, "open", wrapped)

    return make


def test_a_step_that_overflows_is_skipped_and_counted(asked, overflowing):
    whole = {"precision": "fp16", "micro_batch": 8, "batch_size": 8, "epochs": 1}
    with simulated(tensorrt="8.2.1"):
        reporter = Watches(1)
        learn(asked(domain="one", **whole), reporter, reporter)
        overflowing({1})
        reporter = Watches(2)
        stopped = learn(asked(**whole), reporter, reporter)
        folders = Path(asked().runs) / "one", Path(stopped.folder)
        assert same(*(tensors_of(folder / "last.safetensors") for folder in folders)), "the second changes nothing"
        assert read(Path(stopped.folder) / "last.safetensors").progress.sums["skipped"] == 1
        done = learn(asked(**{**whole, "epochs": None}, resume=True), Reporter())
    assert done.domain is not None and np.isfinite(done.history[0]["train_loss"])
    rows = [json.loads(line) for line in (Path(done.folder) / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["skipped_steps"] == done.history[0]["skipped_steps"] == 1


def test_too_many_one_after_the_other_end_the_run(asked, overflowing):
    overflowing(set(range(10**4)))
    with simulated(tensorrt="8.2.1"), pytest.raises(TrainingError, match="20 steps one after.*--precision fp32"):
        learn(asked(precision="fp16", epochs=10), Reporter())
    assert read(Path(asked().folder) / "last.safetensors").progress.sums.get("skipped", 0) < 20


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_in_float32_nothing_is_skipped(asked, overflowing):
    """There the loss tells what goes wrong, and the run ends with advice."""
    overflowing({0})
    with simulated(tensorrt="8.2.1"), pytest.raises(TrainingError, match="the loss became .*: try a lower --lr"):
        learn(asked(), Reporter())


# -- plans


def plans(home):
    return sorted(path.name for path in (home / "engines" / FOLDER).glob("*.plan"))


def opened(home, precision="fp32", photos=SLICE, classes=CLASSES, kind=ANSWERS, building=None):
    """Open and close a graph; what was built for it."""
    built = []

    def tell(what, seconds, done):
        built.extend([what] if done else [])

    with Bundle(home) as bundle:
        running = TensorRTRunning(precision, photos, building=tell)
        running.open(kind, bundle, classes).close()
        running.close()
    return built


def test_a_plan_is_found_by_what_it_was_made_of(home):
    with simulated(tensorrt="8.2.1"):
        assert opened(home) == [TITLES[ANSWERS]] and opened(home) == []
        assert opened(home, photos=1) != [] and opened(home, classes=7) != []
        assert opened(home, kind=STEP) != [] and opened(home, "fp16", kind=STEP) != []
        assert opened(home, "fp16") == [], "the precision is the step's alone"
    with simulated(tensorrt="8.2.1", gpu="Nano", sm=53):
        assert opened(home) != []
    with simulated(tensorrt="8.6.1"):
        assert opened(home) != []
    assert len(plans(home)) == 4 + 2 and len(list((home / "engines").glob("timing-8.2.1*-sm87-*.cache"))) == 1


def test_of_each_graph_a_few_plans_are_kept(home):
    with simulated(tensorrt="8.2.1"):
        for classes in (2, 3, 4, 5):
            opened(home, classes=classes)
        before = plans(home)
        for number, name in enumerate(before):
            os.utime(home / "engines" / FOLDER / name, (number, number))
        assert opened(home, classes=2) == opened(home, classes=3) == opened(home, classes=4) == []
        opened(home, classes=6)
        assert len(plans(home)) == 4 and opened(home, classes=2) == opened(home, classes=6) == []
        assert opened(home, classes=5) != [], "that was used longest ago"


def test_a_damaged_plan_is_built_again(home):
    with simulated(tensorrt="8.2.1"):
        opened(home)
        (path,) = (home / "engines" / FOLDER).glob("*.plan")
        whole = path.read_bytes()
        for damaged in (whole[:-1], whole[:10], b"", whole[:-1] + b"x"):
            path.write_bytes(damaged)
            assert opened(home) != []
        assert opened(home) == []


def test_an_interrupted_build_leaves_nothing(home, monkeypatch):
    def interrupted(*facts):
        raise KeyboardInterrupt

    with simulated(tensorrt="8.2.1"):
        with monkeypatch.context() as patch:
            patch.setattr(graph_plans.Builder, "plan", interrupted)
            with pytest.raises(KeyboardInterrupt):
                opened(home)
        assert plans(home) == [] and opened(home) != []


# -- what goes wrong


def refused(asked, message, **simulation):
    with simulated(**simulation) as device, pytest.raises(BackendError, match=message) as caught:
        learn(asked(), Reporter())
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)
    return device


@pytest.mark.parametrize("cuda", ["pycuda", "cuda-python 12.6"])
def test_no_gpu_and_no_tensorrt(cuda, asked, tmp_path):
    refused(asked, "sees no GPU.*--backend onnxruntime", cuda=cuda, gpu=None)
    refused(asked, "TensorRT cannot be imported", tensorrt=None, cuda=cuda)
    assert not (tmp_path / "runs").exists()


def test_no_engine_builds(asked, home):
    for memory in (1 << 16, 1 << 21):  # too little to build in
        words = "TensorRT 8.2.1.8 does not build what is measured before the first step: .*OUT_OF_MEMORY"
        refused(asked, words, tensorrt="8.2.1", memory=memory)
    assert plans(home) == []


def test_no_memory_for_a_slice(asked, home):
    with simulated(tensorrt="8.2.1", memory=4 << 20), pytest.raises(BackendError) as caught:
        opened(home, kind=OBSERVATION, photos=64)
    assert "GPU's memory is too small for what is measured before the first step" in str(caught.value)
    assert "--micro-batch" in str(caught.value)


def test_a_run_that_fails_on_the_gpu(asked):
    """Nothing is left on the device, and the run goes on from its last checkpoint."""
    with simulated(tensorrt="8.2.1") as device:
        stopped = learn(asked(), reporter := Watches(1), reporter)
        device.fail_run = device.runs + 1
        with pytest.raises(BackendError, match="TensorRT could not run a training step: .*Cask Error"):
            learn(asked(resume=True), Reporter())
        device.fail_run = None
        resumed = learn(asked(resume=True), Reporter())
    assert stopped.domain is None and resumed.domain is not None


def test_a_full_disk(asked, home):
    (home / "engines").write_bytes(b"")  # no folder can be made there
    refused(asked, "an engine cannot be written .*make room on the disk", tensorrt="8.2.1")
