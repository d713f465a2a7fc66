"""The TensorRT backend, end to end, on simulated releases of TensorRT and CUDA: see tests/simulation/README.md.

A simulation asserts by itself, when it ends, that nothing was misused and nothing was left behind.
"""

import gc
import json
import threading
from pathlib import Path

import numpy as np
import pytest
import synthetic_bundle
from simulation import CUDA, simulated
from simulation.device.memory import Fault
from trt_answers import DOMAINS, INSTALLED, NEWEST, PYTHON, TOLERANCE, check, inferences

from da3.runtime import Da3Error, Runtime
from da3.runtime.errors import BackendError
from da3.runtime.trt.api import Library
from da3.runtime.trt.backend import TensorRTBackend
from da3.runtime.trt.build import build_engines

pytest_plugins = ["trt_fixtures"]

# -- answers


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("release, cuda", INSTALLED)
def test_answers_are_those_of_the_cpu(release, cuda, precision, engines, opened, answers):
    engines(release, precision)
    with simulated(tensorrt=release, cuda=cuda), opened(release, precision) as runtime:
        for rows in ([0, 1, 2], [3], [4], [2, 1, 0], [5]):
            for domain in DOMAINS:
                check(runtime, answers, domain, rows, precision)


@pytest.mark.parametrize("sm, layout", [(53, "CHW2"), (62, "CHW2"), (72, "HWC8"), (87, "HWC8")])
def test_features_lie_as_the_gpu_wants_them(sm, layout, engines, opened, answers):
    folder = engines("8.2.1", "fp16", sm)
    (index,) = Path(folder).glob("*/engines.json")
    layouts = [entry["layouts"] for entry in json.loads(index.read_text())["engines"].values()]
    assert layout in {name for entry in layouts for name in entry.values()}
    with simulated(tensorrt="8.2.1", sm=sm), opened("8.2.1", "fp16", sm) as runtime:
        check(runtime, answers, "signs", [0, 1, 2], "fp16")


@pytest.mark.parametrize("release", ["8.2.1", NEWEST])
def test_gates_can_be_overruled(release, engines, opened, built, answers):
    engines(release)
    images = synthetic_bundle.images(3)
    with simulated(tensorrt=release), opened(release) as runtime, Runtime(built[0], backend="reference") as cpu:
        for gates in ({1: False}, {1: True, 2: False}, {2: True}):
            got, expected = (r.run_batch(images, "flowers", gates=gates) for r in (runtime, cpu))
            assert (got.blocks == expected.blocks).all()
            np.testing.assert_allclose(got.logits, expected.logits, atol=1e-4)
        assert runtime.run_batch(images, "flowers", force_all_blocks=True).blocks.all()
        for theta, runs in ((-1e9, True), (1e9, False)):
            runtime.set_theta("flowers", theta)
            assert (runtime.run_batch(images, "flowers").blocks[:, 1:] == runs).all()


# -- speed: what the hot loop does


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), ("10.16.1", "pycuda"), (NEWEST, PYTHON)])
def test_a_run_allocates_nothing_and_waits_for_gates_only(release, cuda, engines, opened, answers):
    engines(release)
    with simulated(tensorrt=release, cuda=cuda) as device, opened(release) as runtime:
        for count in (1, 3):
            for _ in range(4):
                check(runtime, answers, "flowers", list(range(count)))
            made, seen = device.store.made, len(device.timeline.waits)
            for _ in range(3):
                check(runtime, answers, "flowers", list(range(count)))
            assert device.store.made == made
            waits = device.timeline.waits[seen:]
            assert waits == ["event"] * (2 + 1) * 3  # two gates, and the features that the head reads on the host
        assert device.executables  # graphs


@pytest.mark.parametrize("integrated", [True, False])
@pytest.mark.parametrize("release, cuda", [("8.2.1", "libcuda 10.2"), (NEWEST, "libcuda 13.0")])
def test_what_a_run_pins_is_part_of_a_jetsons_memory(release, cuda, integrated, engines, opened):
    engines(release)
    with simulated(tensorrt=release, cuda=cuda, integrated=integrated) as device, opened(release) as runtime:
        runtime.run_batch(synthetic_bundle.images(3), "flowers")
        held = device.store.account
        assert held["pinned"] >= synthetic_bundle.images(3).nbytes and held["library"] == 0
        assert device.store.used == held["device"] + held["private"] + (held["pinned"] if integrated else 0)
        assert device.store.peak >= device.store.used


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), ("8.5.3", PYTHON), ("8.6.1", "pycuda")])
def test_another_batch_size_loads_no_engine_again(release, cuda, engines, opened, answers, monkeypatch):
    """Before profiles could be shared, too, where an engine has one engine context: that is lent to who runs."""
    engines(release)
    loads = []
    load = Library.engine
    monkeypatch.setattr(Library, "engine", lambda self, plan, name: loads.append(name) or load(self, plan, name))
    with simulated(tensorrt=release, cuda=cuda), opened(release) as runtime:
        first = len(loads)
        for rows in ([0], [0, 1, 2], [0, 1], [2, 1, 0, 3], [4], [1, 2]):
            for domain in DOMAINS:
                check(runtime, answers, domain, rows)
        assert len(loads) == first == len(set(loads)) == 7
        held = [[] for _ in range(3)]  # runs at a time take a copy each
        (lane,) = runtime._open.scheduler._lanes.values()
        for number, context in enumerate(lane._backend.context(batch) for batch in (1, 2, 3)):
            context.begin(synthetic_bundle.images(number + 1))
            held[number] = context
        for context in held:
            context.end()
            context.close()
        shared = release == "8.6.1"
        assert len(loads) == (7 if shared else 3 * 7)
        check(runtime, answers, "signs", [0, 1, 2])
        assert len(loads) == (7 if shared else 3 * 7)


@pytest.mark.parametrize("release", ["8.2.1", "8.5.3", "8.6.1", NEWEST])
def test_graphs_are_recorded_on_every_release_where_cuda_has_them(release, engines, opened, answers):
    """One picture at a time is a graph from the third time on; some rows of a batch are not."""
    engines(release)
    with simulated(tensorrt=release, cuda=PYTHON) as device, opened(release) as runtime:
        for _ in range(5):
            check(runtime, answers, "flowers", [0])
        graphs = len(device.executables)
        assert graphs >= 4
        runs = device.runs
        check(runtime, answers, "flowers", [0])
        assert device.runs == runs, "enqueued without a graph"
        for _ in range(5):
            check(runtime, answers, "flowers", [0, 1, 2])
            check(runtime, answers, "flowers", [0])


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), ("8.6.1", PYTHON), (NEWEST, PYTHON)])
def test_a_gate_that_rows_write_in_two_calls(release, cuda, bundle):
    """Behind a block that some images run and others skip, both write their rows of the next gate, which is copied to
    the host after each: the second waits for the first copy."""
    manifest = synthetic_bundle.read_manifest(bundle)
    (last,) = [step for step in manifest["plan"] if step["segment"] == "block_2"]
    last["gate"] = "g3"  # of the adaptor behind block 1
    synthetic_bundle.write_manifest(bundle, manifest)
    images = synthetic_bundle.images(6)
    with Runtime(bundle, "reference") as cpu:
        expected = {name: cpu.run_batch(images, name) for name in DOMAINS}
    with simulated(tensorrt=release, cuda=cuda):
        build_engines(bundle, "fp32", (1, 4))
        with Runtime(bundle, "tensorrt") as runtime:
            for domain in DOMAINS:
                ran = expected[domain].blocks[:, 1]
                mixed = [*np.flatnonzero(ran)[:2], *np.flatnonzero(~ran)[:2]]
                assert len(mixed) > 2 and len(set(ran[mixed])) == 2
                for rows in (mixed, mixed[::-1]):
                    check(runtime, expected, domain, rows)


def test_switching_domains_makes_nothing(engines, opened, answers):
    engines(NEWEST)
    with simulated(tensorrt=NEWEST, cuda=PYTHON) as device, opened(NEWEST) as runtime:
        for _ in range(4):
            for domain in DOMAINS:
                check(runtime, answers, domain, [0])
        made, used = device.store.made, device.store.used
        for number in range(100):
            runtime.use(DOMAINS[number % 2])
            runtime.run_batch(synthetic_bundle.images(1))
        assert (device.store.made, device.store.used) == (made, used)


@pytest.mark.parametrize("cuda", CUDA)
def test_graphs_belong_to_one_domain(cuda, engines, opened, answers):
    engines(NEWEST)
    with simulated(tensorrt=NEWEST, cuda=cuda), opened(NEWEST) as runtime:
        for letter in "ffffssfssssffsf":
            domain = {"f": "flowers", "s": "signs"}[letter]
            for rows in ([0], [0, 1, 2], [3]):
                check(runtime, answers, domain, rows)


# -- threads, and domains that come and go


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), ("8.6.1", "pycuda"), (NEWEST, PYTHON)])
def test_many_threads_share_a_runtime(release, cuda, engines, opened, answers):
    engines(release)
    problems = []

    def work(number):
        try:
            for turn in range(5):
                rows = [(number + turn) % 6] if turn % 2 else [(number + i) % 6 for i in range(3)]
                check(runtime, answers, DOMAINS[(number + turn) % 2], rows)
        except BaseException as error:
            problems.append(error)

    with simulated(tensorrt=release, cuda=cuda), opened(release) as runtime:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []


def test_domains_come_and_go_while_others_run(engines, opened, answers):
    engines(NEWEST)
    problems, stop = [], threading.Event()

    def work():
        try:
            while not stop.is_set():
                check(runtime, answers, "flowers", [0, 1, 2])
        except BaseException as error:
            problems.append(error)

    with simulated(tensorrt=NEWEST, cuda=PYTHON) as device, opened(NEWEST) as runtime:
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(8):
            check(runtime, answers, "signs", [0])
            runtime.unload("signs")
        stop.set()
        for thread in threads:
            thread.join()
        used = []
        for _ in range(4):
            check(runtime, answers, "signs", [0])
            runtime.unload("signs")
            used.append(device.store.used)
        assert problems == [] and len(set(used)) == 1


@pytest.mark.parametrize("cuda", ["pycuda", PYTHON])
def test_closing_while_others_run(cuda, engines, opened, answers):
    engines(NEWEST)
    problems, started = [], threading.Event()

    def work():
        try:
            while True:
                check(runtime, answers, "signs", [0, 1, 2])
                started.set()
        except Da3Error as error:
            problems.append(str(error))
        except BaseException as error:
            problems.append(error)

    with simulated(tensorrt=NEWEST, cuda=cuda):
        runtime = opened(NEWEST)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        started.wait(20)
        runtime.close()
        for thread in threads:
            thread.join()
        runtime.close()
        assert len(problems) == 3 and all("closed" in str(p) for p in problems)
        with pytest.raises(BackendError, match="closed"):
            runtime.run_batch(synthetic_bundle.images(1), "signs")


# -- runs that fail


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), (NEWEST, "pycuda"), (NEWEST, PYTHON)])
def test_a_run_that_fails_spoils_no_other(release, cuda, engines, opened, answers):
    engines(release)
    with simulated(tensorrt=release, cuda=cuda) as device, opened(release) as runtime:
        for number in range(12):
            device.fail_run = device.runs + number
            rows = [0, 1, 2] if number % 2 else [0]
            try:
                check(runtime, answers, "flowers", rows)
                assert device.runs <= device.fail_run  # the rest ran as graphs, or there is no rest
            except BackendError as error:
                assert "a test asked for it" in str(error)
            device.fail_run = None
            check(runtime, answers, "signs", rows)


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), (NEWEST, PYTHON)])
def test_a_broken_gpu_is_an_error_and_no_crash(release, cuda, engines, opened, answers):
    engines(release)
    with simulated(tensorrt=release, cuda=cuda, leaks=False) as device:
        runtime = opened(release)
        check(runtime, answers, "flowers", [0, 1, 2])
        device.timeline.fault = Fault("ILLEGAL_ADDRESS", "a test asked for it")
        for rows in ([0, 1, 2], [0]):
            with pytest.raises(BackendError, match="illegal memory access"):
                check(runtime, answers, "flowers", rows)
        try:
            runtime.close()
        except BackendError as error:
            assert "illegal memory access" in str(error)
        device.errors.clear()


# -- memory


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), (NEWEST, PYTHON)])
def test_any_allocation_may_fail(release, cuda, built, engines, answers):
    """At each allocation in turn: a BackendError that says what to do, nothing left behind, and it works afterwards."""
    folder = engines(release)
    with simulated(tensorrt=release, cuda=cuda) as device:
        failed, number = 0, 0
        while True:
            device.store.fail_at = device.store.made + number
            runtime = None
            try:
                runtime = Runtime(built[0], TensorRTBackend(folder))
                check(runtime, answers, "flowers", [0, 1, 2])
            except BackendError as error:
                failed += 1
                assert "memory" in str(error), error
            finally:
                done = device.store.made <= device.store.fail_at
                device.store.fail_at = None
                if runtime is not None:
                    check(runtime, answers, "signs", [0, 1, 2])
                    runtime.close()
            if device.left():
                gc.collect()
            assert device.left() == []
            if done:
                break
            number += 1
        assert failed == number > 5


def test_too_little_memory_is_said_in_a_sentence(built, engines):
    folder = engines(NEWEST)
    with simulated(tensorrt=NEWEST, cuda=PYTHON) as device, Runtime(built[0], TensorRTBackend(folder)) as runtime:
        runtime.run_batch(synthetic_bundle.images(1), "flowers")
        device.store.limit = device.store.used
        with pytest.raises(BackendError, match=r"the GPU's memory is too small for a run of 4 images: .* asked for"):
            runtime.run_batch(synthetic_bundle.images(4), "flowers")
        with pytest.raises(BackendError, match="too small for domain signs"):
            runtime.load("signs")
        assert runtime.run_batch(synthetic_bundle.images(1), "flowers").logits.shape == (1, 3)


@pytest.mark.parametrize("release", ["8.2.1", "10.16.1", NEWEST])
def test_a_gate_that_overflows_is_named(release, engines, opened, built):
    """Above 65504 in float16: infinity, and NaN would skip the block."""
    x = synthetic_bundle.images(3)
    for precision in ("fp32", "fp16"):
        engines(release, precision)
        with simulated(tensorrt=release), opened(release, precision) as runtime:
            domain = runtime.load("flowers")
            name = "adaptors.0.gate_weight"
            weights = {**domain.weights, name: domain.weights[name] * 1e6}
            runtime.load(domain._replace(name="large", weights=weights))
            for rows in ([0], [0, 1, 2]):
                if precision == "fp32":
                    assert np.isfinite(runtime.run_batch(x[rows], "large").logits).all()
                else:
                    words = "domain large, the gate of block 1: NaN or infinity: float16 holds nothing beyond 65504"
                    with pytest.raises(BackendError, match=words):
                        runtime.run_batch(x[rows], "large")
                assert np.isfinite(runtime.run_batch(x[rows], "flowers").logits).all()


# -- values inside


def test_values_inside_can_be_read_or_are_refused(engines, opened, built):
    engines("10.16.1", "fp16")
    images = synthetic_bundle.images(3)
    with simulated(tensorrt="10.16.1"), opened("10.16.1", "fp16") as runtime, Runtime(built[0], "reference") as cpu:
        got, expected = (r.trace(images, ["g1", "g2"], "flowers")[1] for r in (runtime, cpu))
        for name in expected:
            np.testing.assert_allclose(got[name], expected[name], atol=0.05)
        try:
            got, expected = (r.trace(images, ["x1", "x2"], "flowers")[1] for r in (runtime, cpu))
        except BackendError as error:
            assert "trace with the backend onnxruntime or reference" in str(error)
        else:
            for name in expected:
                np.testing.assert_allclose(got[name], expected[name], atol=0.05)


# -- real networks


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet50"])
def test_real_networks(arch, small_run, tmp_path, monkeypatch):
    """As trained and exported, and forced out at each exit: of no more than 8 calls of the device, however far."""
    from da3.export.exporter import export_domain
    from da3.toolchain.training.progress import SilentReporter
    from da3.toolchain.training.train import train

    result = train(small_run("signs", backbone=arch, keep=0.6, epochs=1, size=32), SilentReporter())
    bundle = tmp_path / "bundle"
    export_domain("signs", result.folder.parent, bundle)
    images = np.random.RandomState(0).normal(0, 1, (5, 3, 32, 32)).astype(np.float32)
    with Runtime(bundle, "onnxruntime") as cpu:
        exits = len(cpu.load("signs").exits)
        cases = [{"force_all_blocks": True}, *({"leave_at": exit} for exit in range(exits))]
        assert 2 <= exits <= 7
        expected = [cpu.run_batch(images, "signs", **options) for options in cases]
    for release, cuda in (("8.2.1", "pycuda"), (NEWEST, PYTHON)):
        for precision in ("fp32", "fp16"):
            with simulated(tensorrt=release, cuda=cuda) as device:
                build_engines(bundle, precision, (1, 4))
                with Runtime(bundle, TensorRTBackend(precision=precision)) as runtime:
                    calls = inferences(device, monkeypatch)
                    for rows in ([0], [1, 2, 3], [4]):
                        for options, wanted in zip(cases, expected, strict=True):
                            calls.clear()
                            got = runtime.run_batch(images[rows], "signs", **options)
                            assert len(calls) == options.get("leave_at", exits) + 1
                            assert (got.blocks == wanted.blocks[rows]).all() and (got.left == wanted.left[rows]).all()
                            np.testing.assert_allclose(got.logits, wanted.logits[rows], atol=TOLERANCE[precision])
