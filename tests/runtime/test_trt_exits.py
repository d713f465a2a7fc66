"""Exits and closed blocks on the TensorRT backend, on simulated releases: see tests/simulation/README.md."""

import gc
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
from simulation import simulated
from simulation.device.memory import Fault
from synthetic_bundle import (
    Backbone,
    images,
    random_weights,
    write_exits_domain,
)
from test_exits import check, medians, read, rules
from trt_answers import EVERY_RELEASE, INSTALLED, NEWEST, PYTHON, inferences

from da3.runtime import Bundle, Runtime
from da3.runtime.bundle.plan import exit_steps
from da3.runtime.errors import BackendError
from da3.runtime.execution.program import BoundCall, Exits, in_order
from da3.runtime.records import ExitRule
from da3.runtime.schedule.decisions import leaving
from da3.runtime.schedule.layout import join_plan
from da3.runtime.schedule.look_ahead import WAIT, starts_ahead
from da3.runtime.trt.backend import TensorRTBackend
from da3.runtime.trt.build import build_engines

COUNT = 12
CLOSED = ((), (1,), (1, 2))
LATEST = ("8.2.1", "pycuda"), (NEWEST, PYTHON)
PARTS = 3


@pytest.fixture(scope="session")
def closing(built_with_exits, tmp_path_factory):
    """A bundle with a domain for each of CLOSED beside the others, where somebody leaves at each exit."""
    folder = shutil.copytree(built_with_exits[0], tmp_path_factory.mktemp("closing") / "bundle")
    for closed in CLOSED:
        name = "closes" + "".join(map(str, closed))
        weights = built_with_exits[1]["signs"]
        thresholds = medians(Backbone().answers(images(COUNT), weights, closed))
        write_exits_domain(folder / "domains" / name, name, weights, thresholds=thresholds, closed=list(closed))
    return folder


@pytest.fixture(scope="session")
def engines(closing, tmp_path_factory):
    """engines(release, precision) -> the folder of engines that the simulated release builds; built once."""
    folders = {}

    def make(release, precision="fp32"):
        key = (release, precision)
        if key not in folders:
            folders[key] = str(tmp_path_factory.mktemp("engines"))
            with simulated(tensorrt=release):
                build_engines(closing, precision, (1, 4), engines=folders[key])
        return folders[key]

    return make


@pytest.fixture
def opened(closing, engines):
    """opened(release, precision) -> a Runtime on TensorRT; to be used inside a simulation."""
    return lambda release, precision="fp32": Runtime(closing, TensorRTBackend(engines(release, precision), precision))


@pytest.fixture
def answers(built_with_exits):
    """answers(domain's weights, closed) -> what every exit answers, and the end."""
    return lambda name, closed=(): Backbone().answers(images(COUNT), built_with_exits[1][name], closed)


def photos(left):
    """A domain's `calibration`, with the share of photos that left at each exit."""
    return {"cross_fit": {"left": left}}


# -- answers


@pytest.mark.parametrize("release, cuda", INSTALLED)
def test_answers_are_those_of_the_cpu(release, cuda, engines, opened, answers):
    engines(release)
    x = images(COUNT)
    with simulated(tensorrt=release, cuda=cuda), opened(release) as runtime:
        for closed in CLOSED:
            name, expected = "closes" + "".join(map(str, closed)), answers("signs", closed)
            thresholds = medians(expected)
            for rows in ([0, 1, 2, 3], [4], [5], [6, 7, 8], [0]):
                check(runtime.run_batch(x[rows], name), expected[:, rows], thresholds, closed)
            left = check(runtime.run_batch(x, name), expected, thresholds, closed)
            assert set(left) == {0, 1, 2}, "pictures must leave everywhere for this to test anything"
        check(runtime.run_batch(x[:3], "flowers"), answers("flowers")[:, :3], [None, None])


@pytest.mark.parametrize("release", EVERY_RELEASE)
def test_half_precision(release, engines, opened, closing):
    """With all exits given, no decision hangs on a rounding."""
    engines(release, "fp16")
    x = images(4)
    with simulated(tensorrt=release), opened(release, "fp16") as runtime, Runtime(closing, "reference") as cpu:
        for name in ("flowers", "closes12", "closes"):
            for exit in (0, 1, None):
                options = {"force_all_blocks": True} if exit is None else {"leave_at": exit}
                got, expected = (r.run_batch(x, name, **options) for r in (runtime, cpu))
                assert (got.left == expected.left).all() and (got.blocks == expected.blocks).all()
                np.testing.assert_allclose(got.logits, expected.logits, atol=0.05)
    for entry in entries(engines(release, "fp16")):
        for tensor, layout in entry["layouts"].items():
            assert layout == "LINEAR" or tensor not in ("e0", "e1", "features")


def entries(folder):
    (index,) = Path(folder).glob("*/engines.json")
    return list(json.loads(index.read_text())["engines"].values())


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_the_host_reads_lies_in_plain_rows_and_no_dimension_is_free(precision, typed, closing):
    """It is float32 where TensorRT converts."""
    from da3.runtime.trt.engines import EngineOptions, engine_specs

    with Bundle(closing) as bundle:
        for closed in CLOSED:
            layout = join_plan(bundle.manifest, True, closed=closed)
            options = EngineOptions(precision, (1, 4))
            specs = engine_specs(layout, bundle.manifest, options, sm=87, typed=typed)
            assert len(specs) == PARTS
            ends = {t.value: (t.dtype, t.layout) for spec in specs for t in spec.tensors}
            kind = "float16" if typed and precision == "fp16" else "float32"
            assert {ends[name] for name in ("e0", "e1", "features", "image")} == {(kind, "LINEAR")}
            assert ends["x1"] == (("float16", "HWC8") if precision == "fp16" else ("float32", "LINEAR"))
            assert {n for spec in specs for t in spec.tensors for n in t.shape if isinstance(n, str)} == {"batch"}


def test_a_plan_without_exits_has_its_head_on_the_host(closing):
    with Bundle(closing) as bundle:
        manifest = bundle.manifest
        names = [
            step.outputs[0] for step in manifest.plan if step.segment in ("exit", "classifier", "classifier_carry")
        ]
        plan = [step for step in manifest.plan if step.outputs[0] not in names]
        plan[-1] = plan[-1]._replace(segment="head", inputs=plan[-1].inputs[:-1])
        head = manifest.segments["head_carry"]
        segments = dict(manifest.segments, head=head._replace(inputs=head.inputs[:-1]))
        for number in (2, 1):
            layout = join_plan(manifest._replace(format=number, plan=tuple(plan), segments=segments), True)
            assert [call.subgraph.host for call in layout.calls] == [False, True]


def test_nothing_overwrites_what_is_copied_to_the_host(closing):
    with Bundle(closing) as bundle:
        layout = join_plan(bundle.manifest, True)
    numbers = list(layout.buffers.values())
    assert layout.fetched == ["e0", "e1", "features"]
    assert all(numbers.count(layout.buffers[name]) == 1 for name in layout.fetched)


@pytest.mark.parametrize("release, cuda", LATEST)
@pytest.mark.parametrize("left", [None, [0.01, 0.01, 0.98], [0.9, 0.05, 0.05]])
def test_a_batch_is_its_images_one_by_one(release, cuda, left, engines, opened, answers, closing):
    """Whether or not the next part is started before it is known who leaves."""
    engines(release)
    x = images(COUNT)
    with simulated(tensorrt=release, cuda=cuda), opened(release) as runtime:
        calibration = {} if left is None else photos(left)
        runtime.load(read(closing, "closes")._replace(name="guest", calibration=calibration))
        for thresholds in (medians(answers("signs")), [None, 0.0], [0.0, None], [1.0, 1.0], [None, 0.5]):
            runtime.set_exits("guest", rules(thresholds))
            for rows in [slice(0, 4), slice(4, 7), *(slice(i, i + 1) for i in range(COUNT))]:
                check(runtime.run_batch(x[rows], "guest"), answers("signs")[:, rows], thresholds)


@pytest.mark.parametrize("release, cuda", LATEST)
def test_what_the_caller_decides(release, cuda, engines, opened, answers):
    engines(release)
    x = images(4)
    with simulated(tensorrt=release, cuda=cuda), opened(release) as runtime:
        for name, closed in (("closes", ()), ("closes1", (1,))):
            every, own = answers("signs")[:, :4], answers("signs", closed)[:, :4]
            for batch in (1, 4):
                check(runtime.run_batch(x[:batch], name, leave_at=1), own[:, :batch], [None, 0.0], closed)
                check(runtime.run_batch(x[:batch], name, force_all_blocks=True), every[:, :batch], [None, None])
        for block in (1, 2):  # no domain closes block 2 alone, but the parts for it are there
            own = answers("flowers", [block])[:, :4]
            check(runtime.run_batch(x, "flowers", gates={block: False}, leave_at=1), own, [None, 0.0], [block])
        result, values = runtime.trace(x, ["logits0", "logits1", "e1", "x1"], "closes")
        np.testing.assert_allclose(values["logits0"], answers("signs")[0, :4], rtol=1e-4, atol=1e-4)
        assert result.left.tolist() == [2] * 4 and values["e1"].shape == (4, 6) and values["x1"].shape == (4, 4, 8, 8)


# -- calls and waits


@pytest.mark.parametrize("release, cuda", [*LATEST, ("10.16.1", "pycuda")])
def test_calls_of_a_picture(release, cuda, engines, opened, monkeypatch):
    """An engine for each part that it comes to, and a wait for each part's features."""
    engines(release)
    with simulated(tensorrt=release, cuda=cuda) as device, opened(release) as runtime:
        x = images(1)
        cases = [("flowers", {}, 3), ("closes12", {"force_all_blocks": True}, 3), ("closes12", {"leave_at": 0}, 1),
                 ("closes1", {"leave_at": 1}, 2)]  # fmt: skip
        for name, options, _ in cases:
            for _ in range(4):
                runtime.run_batch(x, name, **options)
        found = inferences(device, monkeypatch)
        for name, options, calls in cases:
            made, seen = device.store.made, len(device.timeline.waits)
            found.clear()
            runtime.run_batch(x, name, **options)
            assert len(found) == calls and device.store.made == made
            assert device.timeline.waits[seen:] == ["event"] * calls


def test_a_mobilenet_takes_five_calls(backbone_alone):
    """Of the device, all exits passed; each exit's classifier and the head are the host's."""
    with Bundle(backbone_alone) as bundle:
        layout = join_plan(bundle.manifest, True)
        exits = len(exit_steps(bundle.manifest.plan))
    hosts = [call.subgraph.host for call in layout.calls]
    assert hosts == [False, True] * (exits + 1) and hosts.count(False) <= 5


def test_nothing_is_waited_for_where_nobody_leaves(engines, opened, monkeypatch):
    """All parts are given to the device before the host first waits."""
    engines(NEWEST)
    with simulated(tensorrt=NEWEST, cuda=PYTHON) as device, opened(NEWEST) as runtime:
        found, at = inferences(device, monkeypatch), []
        wait = type(device.timeline).wait_event
        monkeypatch.setattr(type(device.timeline), "wait_event", lambda *a: (at.append(len(found)), wait(*a)))
        runtime.run_batch(images(1), "flowers")
        assert at == [PARTS] * 3
        for left, expected in ((None, [1, 2, 3]), ([0.001, 0.001, 0.998], [2, 3, 3]), ([0.001, 0.9, 0.099], [2, 2, 3])):
            found.clear(), at.clear()
            domain = read(runtime.bundle.path, "flowers")
            domain = domain._replace(calibration=photos(left) if left else {}, exits=tuple(rules([1.0, 1.0])))
            runtime.load(domain)
            runtime.run_batch(images(1), "flowers")
            assert at == expected


@pytest.mark.parametrize("machine", ["integrated", "integrated, not mapped", "with memory of its own"])
@pytest.mark.parametrize("release, cuda", [*LATEST, ("10.16.1", "libcuda 12.6")])
def test_an_integrated_gpu_writes_features_where_the_host_reads_them(
    release, cuda, machine, engines, opened, answers, monkeypatch
):
    """One record and one wait for each exit, and no copy."""
    engines(release)
    with simulated(tensorrt=release, cuda=cuda, integrated=machine.startswith("integrated")) as device:
        if "not mapped" in machine:
            monkeypatch.setattr(device, "mapped_address", refuse_to_map)
        with opened(release) as runtime:
            expected = answers("signs", (1, 2))
            for rows in (slice(0, 4), slice(4, 8), *(slice(number, number + 1) for number in range(4))):
                found = runtime.run_batch(images(COUNT)[rows], "closes12")
                check(found, expected[:, rows], medians(expected), (1, 2))
            for _ in range(4):
                runtime.run_batch(images(1), "closes12", force_all_blocks=True)
            seen = []
            for name in ("record", "stream_waits", "wait_event", "submit"):
                own = getattr(type(device.timeline), name)

                def noting(timeline, *given, own=own, name=name):
                    seen.append(name if name != "submit" else given[1].name[:9])
                    return own(timeline, *given)

                monkeypatch.setattr(type(device.timeline), name, noting)
            runtime.run_batch(images(1), "closes12", force_all_blocks=True)
            counted = [seen.count(name) for name in ("record", "stream_waits", "copy DtoH", "wait_event")]
        assert counted == ([3, 0, 0, 3] if machine == "integrated" else [6, 3, 3, 3])


def refuse_to_map(address):
    raise Fault("INVALID_VALUE", f"{address:#x} is not mapped")


# -- threads and failures


@pytest.mark.parametrize("release, cuda", [("8.2.1", "pycuda"), ("8.6.1", "pycuda"), (NEWEST, PYTHON)])
def test_many_threads_share_a_runtime(release, cuda, engines, opened, answers):
    engines(release)
    problems = []
    expected = {closed: answers("signs", closed) for closed in CLOSED}

    def work(number):
        try:
            for turn in range(5):
                closed = CLOSED[(number + turn) % 3]
                rows = [(number + turn) % COUNT] if turn % 2 else [(number + i) % COUNT for i in range(3)]
                name = "closes" + "".join(map(str, closed))
                check(
                    runtime.run_batch(images(COUNT)[rows], name),
                    expected[closed][:, rows],
                    medians(expected[closed]),
                    closed,
                )
        except BaseException as error:
            problems.append(error)

    with simulated(tensorrt=release, cuda=cuda), opened(release) as runtime:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []


@pytest.mark.parametrize("release, cuda", LATEST)
def test_a_run_that_fails_spoils_no_other(release, cuda, engines, opened, answers):
    engines(release)
    x, failed = images(COUNT), 0
    with simulated(tensorrt=release, cuda=cuda) as device, opened(release) as runtime:
        runtime.load(read(runtime.bundle.path, "closes")._replace(name="ahead", calibration=photos([0.0, 0.0, 1.0])))
        for number in range(9):
            for name in ("closes", "ahead"):
                rows = slice(0, 4) if number % 2 else slice(number, number + 1)
                for fail in (device.runs + number % 3, None):
                    device.fail_run = fail
                    try:
                        check(runtime.run_batch(x[rows], name), answers("signs")[:, rows], medians(answers("signs")))
                    except BackendError as error:
                        assert "a test asked for it" in str(error) and fail is not None
                        failed += 1
        assert failed > 4


@pytest.mark.parametrize("release, cuda", LATEST)
def test_any_allocation_may_fail(release, cuda, engines, closing, answers):
    """At each in turn, with two lanes: an error that says so, nothing left behind, and it works afterwards."""
    folder, x, failed, done = engines(release), images(4), 0, False
    cases = [(name, answers("signs", closed), closed) for name, closed in (("closes", ()), ("closes1", (1,)))]
    with simulated(tensorrt=release, cuda=cuda) as device:
        while not done:
            device.store.fail_at = device.store.made + failed
            with Runtime(closing, TensorRTBackend(folder)) as runtime:
                for _ in range(2):
                    try:
                        for name, expected, closed in cases:
                            check(runtime.run_batch(x, name), expected[:, :4], medians(expected), closed)
                        done = done or device.store.fail_at is not None
                    except BackendError as error:
                        assert "memory" in str(error) and device.store.fail_at is not None
                        failed += 1
                    device.store.fail_at = None
            if device.left():
                gc.collect()
            assert device.left() == []
    assert failed > 8


@pytest.mark.parametrize("release, cuda", LATEST)
def test_lanes_share_engines(release, cuda, engines, opened):
    """Where one engine can have several engine contexts, parts that domains have in common are in memory once."""
    engines(release)
    with simulated(tensorrt=release, cuda=cuda) as device, opened(release) as runtime:
        weights = []
        for name in ("flowers", "closes12", "closes1", "closes"):
            runtime.run_batch(images(1), name)
            weights.append(sum("an engine's weights" in str(a) for a in device.store.alive()))
        shared = release != "8.2.1"
        assert weights == ([3, 5, 5, 5] if shared else [3, 6, 9, 9])


# -- building


def installed(release=NEWEST):
    return simulated(tensorrt=release, cuda=PYTHON if release == NEWEST else "pycuda")


def test_parts_are_built_and_what_domains_close(exits_bundle, built_with_exits):
    weights = built_with_exits[1]["flowers"]
    domains = exits_bundle / "domains"
    with installed():
        first = build_engines(exits_bundle, "fp32")
        assert first.built == PARTS
        for number, (closed, built) in enumerate([([], 0), ([1], 1), ([1, 2], 1), ([2], 0)]):
            name = f"d{number}"
            write_exits_domain(domains / name, name, weights, closed=closed)
            with Runtime(exits_bundle, "tensorrt") as runtime:
                if built:
                    with pytest.raises(BackendError) as error:
                        runtime.load(name)
                    words = "block 1" if len(closed) == 1 else "blocks 1, 2"
                    assert str(error.value) == (
                        f"{exits_bundle}: its engines are not built yet for a domain that closes {words}: "
                        "run `da3 build` again, which adds what is missing"
                    )
                else:
                    runtime.load(name)
                runtime.load("flowers")
                if built and len(closed) == 1:
                    with pytest.raises(BackendError, match="for a domain that closes block 1: run"):
                        runtime.run_batch(images(1), "flowers", gates={1: False})
            again = build_engines(exits_bundle, "fp32")
            assert (again.built, again.folder) == (built, first.folder)
            with Runtime(exits_bundle, "tensorrt") as runtime:
                check(
                    runtime.run_batch(images(4), name),
                    Backbone().answers(images(4), weights, closed),
                    [None, None],
                    closed,
                )
        for number in range(4):
            shutil.rmtree(domains / f"d{number}")
        last = build_engines(exits_bundle, "fp32")
        assert (last.built, last.reused, last.folder) == (0, PARTS, first.folder)
        assert len(list((exits_bundle / "engines").rglob("*.plan"))) == PARTS


def test_an_interrupted_build_goes_on(exits_bundle):
    def interrupt(step):
        if step.number == 3 and step.seconds is None:
            raise KeyboardInterrupt

    with installed():
        with pytest.raises(KeyboardInterrupt):
            build_engines(exits_bundle, "fp32", progress=interrupt)
        with Runtime(exits_bundle, "tensorrt") as runtime, pytest.raises(BackendError, match="2 of its 3 engines are"):
            runtime.load("flowers")
        assert build_engines(exits_bundle, "fp32").built == 1


def test_a_damaged_domain_does_not_stop_a_build(exits_bundle):
    (exits_bundle / "domains" / "signs" / "domain.json").write_text("{")
    with installed():
        assert build_engines(exits_bundle, "fp32").built == PARTS


def test_one_build_serves_any_number_of_classes(exits_bundle):
    many = random_weights(classes=20000, seed=3)
    write_exits_domain(exits_bundle / "domains" / "many", "many", many, thresholds=[0.0, None])
    with installed():
        build_engines(exits_bundle, "fp32")
        with Runtime(exits_bundle, "tensorrt") as runtime:
            for name, classes in (("many", 20000), ("signs", 4), ("many", 20000)):
                for batch in (1, 3):
                    assert runtime.run_batch(images(batch), name).logits.shape == (batch, classes)


# -- what is started ahead


def call(name, host=False, exit=-1):
    return BoundCall(name, None, name, host=host, exit=exit, answer=None if exit < 0 else name)


PLAN = [call("d0"), call("h0", True, 0), call("d1"), call("h1", True, 1), call("d2"), call("head", True)]


@pytest.mark.parametrize(
    "thresholds, ahead, order",
    [
        ([0.9, 0.9], [False, False], "d0 h0 d1 h1 d2 head"),
        ([None, None], [False, False], "d0 d1 d2 h0 h1 head"),
        ([None, 0.9], [False, False], "d0 d1 h0 h1 d2 head"),
        ([0.9, None], [False, False], "d0 h0 d1 d2 h1 head"),
        ([0.9, 0.9], [True, True], "d0 d1 h0 d2 h1 head"),
        ([0.9, 0.9], [True, False], "d0 d1 h0 h1 d2 head"),
        ([0.9, None], [True, False], "d0 d1 h0 d2 h1 head"),
        ([None, 0.9], [False, True], "d0 d1 d2 h0 h1 head"),
    ],
)
def test_the_order_of_calls(thresholds, ahead, order):
    found = in_order(PLAN, Exits([leaving(ExitRule(t)) for t in thresholds], ahead))
    assert " ".join(str(one.run) for one in found) == order


def test_where_little_is_lost_the_next_part_is_started_ahead(closing):
    with Bundle(closing) as bundle:
        domain = read(closing, "closes")
        shares = np.array([200, 300]) / 600  # of the blocks' FLOPs, behind each exit
        for first in (0.0, 0.02, 0.08, 0.2, 0.9):
            left = [first, 0.01, 1 - first - 0.01]
            found = starts_ahead(bundle.manifest, domain._replace(calibration=photos(left)))
            wanted = [first * shares[0] < (1 - first) * WAIT, 0.01 * shares[1] < (1 - first - 0.01) * WAIT]
            assert list(found) == wanted
        odd = [photos(left) for left in ([0.5, 0.5], "abc", [0, 0, None], [0, 0, -1], [True, 0, 0], None)]
        for calibration in (*odd, {}, {"cross_fit": 3}):
            assert starts_ahead(bundle.manifest, domain._replace(calibration=calibration)) == (False, False)
