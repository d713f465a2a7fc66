"""A Runtime in long and crowded use: threads, domains that come and go, no memory, closing in the middle."""

import threading

import numpy as np
import pytest
from synthetic_bundle import Backbone, images

from da3.runtime import BackendError, Da3Error, Runtime
from da3.runtime.bundle.bundle import Bundle, read_domain
from da3.runtime.execution.choice import choose

BACKENDS = ("onnxruntime", "reference")


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def only_lane(runtime):
    (lane,) = runtime._open.scheduler._lanes.values()
    return lane


def in_threads(count, work):
    """Run work(number) in so many threads at once; what they raised."""
    failed = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=guarded, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


@pytest.mark.parametrize("backend", BACKENDS)
def test_eight_threads_eight_domains_in_batches(built, weights, backend):
    x = images(12)
    with Runtime(built[0], backend=backend) as runtime:
        source = {name: runtime.load(name) for name in weights}
        expected = {name: Backbone().reference(x, weights[name]) for name in weights}
        for n in range(8):
            name = ("flowers", "signs")[n % 2]
            runtime.load(source[name]._replace(name=f"{name}-{n}"))

        def work(number):
            name = ("flowers", "signs")[number % 2]
            for i in range(12):
                batch = 1 + (number + i) % 5
                result = runtime.run_batch(x[i % 7 : i % 7 + batch], f"{name}-{number}")
                logits, ran = (e[i % 7 : i % 7 + batch] for e in expected[name])
                np.testing.assert_allclose(result.logits, logits, rtol=1e-3, atol=1e-3)
                assert (result.blocks == ran).all() and result.domain.name == f"{name}-{number}"

        assert in_threads(8, work) == []


def test_a_million_switches_take_no_memory(runtime):
    x = images(1)
    for name in ("flowers", "signs"):
        runtime.use(name)
        runtime.run_batch(x)
    before = resident_bytes()
    use = runtime.use
    for _ in range(500_000):
        use("flowers")
        use("signs")
    runtime.run_batch(x)
    assert resident_bytes() - before < 1 << 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_domains_that_come_and_go_take_no_memory(built, backend):
    x = images(2)
    with Runtime(built[0], backend=backend) as runtime:
        source = runtime.load("flowers")

        def cycle(number):
            name = f"guest-{number}"
            runtime.load(source._replace(name=name))
            runtime.run_batch(x, name)
            runtime.unload(name)

        for number in range(300):
            cycle(number)
        grown = []
        for _ in range(3):  # a leak grows in each; what else this process's heap does, hardly ever thrice
            before = resident_bytes()
            for number in range(500):
                cycle(number)
            grown.append(resident_bytes() - before)
        assert min(grown) < 1 << 18, grown
        for pooled in only_lane(runtime)._idle:
            assert not pooled.programs, "programs of domains that are gone"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_domain_added_and_removed_while_others_run(built, weights, backend):
    x = images(4)
    logits, _ = Backbone().reference(x, weights["flowers"])
    stop = threading.Event()
    with Runtime(built[0], backend=backend) as runtime:
        guest = runtime.load("signs")._replace(name="guest")

        def work(number):
            if number == 0:
                for _ in range(150):
                    runtime.load(guest)
                    runtime.unload("guest")
                stop.set()
            while not stop.is_set():
                if number < 4:
                    np.testing.assert_allclose(runtime.run_batch(x, "flowers").logits, logits, rtol=1e-3, atol=1e-3)
                    continue
                try:
                    assert runtime.run_batch(x, "guest").logits.shape == (4, 4)
                except Da3Error as error:
                    assert "unknown domain 'guest'" in str(error)

        assert in_threads(8, work) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_closing_while_others_run(built, backend):
    x = images(1)
    for _ in range(5):
        runtime = Runtime(built[0], backend=backend)
        runtime.load("flowers")
        started = threading.Barrier(5)

        def work(number, runtime=runtime, started=started):
            started.wait()
            if number == 0:
                runtime.close()
                runtime.close()
                return
            try:
                for _ in range(50):
                    assert np.isfinite(runtime.run_batch(x, "flowers").logits).all()
            except BackendError as error:
                assert "this Runtime is closed" in str(error)

        assert in_threads(5, work) == []
        assert runtime._open is None, "nothing is left behind"


def test_a_failed_run_leaves_the_next_one_whole(runtime, weights, monkeypatch):
    x = images(1)
    expected, _ = Backbone().reference(x, weights["flowers"])
    runtime.run_batch(x, "flowers")
    lane = only_lane(runtime)
    context = lane._idle[0].context
    monkeypatch.setattr(context, "read", lambda value: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runtime.run_batch(x, "flowers")
    assert all(pooled.context is not context for pooled in lane._idle)
    np.testing.assert_allclose(runtime.run_batch(x, "flowers").logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", ["open", "weights", "context"])
def test_no_memory_is_one_sentence(built, where):
    backend = choose("reference")

    def full(*_):
        raise MemoryError

    sound = getattr(backend, where)
    setattr(backend, where, full)
    if where == "open":
        with pytest.raises(BackendError, match=r"not enough memory to open .*bundle: close other programs"):
            Runtime(built[0], backend=backend)
        return
    with Runtime(built[0], backend=backend) as runtime:
        what = "load domain flowers" if where == "weights" else "run 1 images"
        with pytest.raises(BackendError, match=f"not enough memory to {what}"):
            runtime.run_batch(images(1), "flowers")
        setattr(backend, where, sound)
        assert runtime.run_batch(images(1), "flowers").logits.shape == (1, 3)


def test_a_domain_record_of_ones_own(built):
    with Bundle(built[0]) as bundle:
        record = read_domain(bundle, "flowers")
    with Runtime(built[0]) as runtime:
        runtime.load(record._replace(name="mine"))
        assert runtime.loaded == ["mine"] and runtime.run_batch(images(1), "mine").domain.name == "mine"
        with pytest.raises(Da3Error, match="lacks the tensor"):
            runtime.load(record._replace(name="half", weights={}))
