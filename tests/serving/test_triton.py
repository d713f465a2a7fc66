"""Domains served by a real Triton, asked by its official client over HTTP and gRPC."""

import concurrent.futures
import contextlib
import os
import shutil
import signal
import threading
import time
import urllib.request

import numpy as np
import pytest
import triton_server
from served_domains import NAMES, encoded, pictures

reason = triton_server.why_not()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(reason is not None, reason=str(reason))]
if reason is None:
    import tritonclient.grpc
    import tritonclient.http
    from synthetic_bundle import random_weights, write_exits_domain
    from tritonclient.utils import InferenceServerException

    from da3.runtime import Runtime
    from da3.runtime.serving import RUNTIME

    PROTOCOLS = {"http": tritonclient.http, "grpc": tritonclient.grpc}

OUTPUTS = (
    "label",
    "index",
    "probability",
    "probabilities",
    "logits",
    "exit",
    "blocks_skipped",
    "flops_share",
)


def client_of(server, protocol="grpc"):
    options = {"concurrency": 8} if protocol == "http" else {}
    return PROTOCOLS[protocol].InferenceServerClient(getattr(server, protocol), **options)


def ask(client, name, given, protocol="grpc", outputs=None, **parameters):
    """given: files' bytes, or uint8 (B, H, W, 3)."""
    module = PROTOCOLS[protocol]
    if isinstance(given, np.ndarray):
        tensor = module.InferInput("pixels", list(given.shape), "UINT8")
        tensor.set_data_from_numpy(given)
    else:
        tensor = module.InferInput("picture", [len(given), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[one] for one in given], np.object_))
    wanted = None if outputs is None else [module.InferRequestedOutput(name, **more) for name, more in outputs.items()]
    return client.infer(name, [tensor], outputs=wanted, parameters=parameters or None)


def expect(answer, predictions, top_k=1):
    """An answer is what the Runtime says of the same pictures."""
    for key in OUTPUTS:
        assert len(answer.as_numpy(key)) == len(predictions), key
    for i, one in enumerate(predictions):
        best = one.top_k(top_k)
        assert [label.decode() for label in answer.as_numpy("label")[i]] == [label for label, _ in best]
        assert [one.classes[n] for n in answer.as_numpy("index")[i]] == [label for label, _ in best]
        np.testing.assert_allclose(answer.as_numpy("probability")[i], [p for _, p in best], atol=1e-6)
        np.testing.assert_allclose(answer.as_numpy("probabilities")[i], one.probabilities, atol=1e-6)
        np.testing.assert_allclose(answer.as_numpy("logits")[i], one.logits, atol=1e-5)
        assert answer.as_numpy("exit")[i] == [-1 if one.exit is None else one.exit]
        assert answer.as_numpy("blocks_skipped")[i] == [one.blocks_skipped]
        assert answer.as_numpy("flops_share")[i] == pytest.approx(one.flops_share)


def counters(server):
    """{(counter, domain): its value} of those that are ours."""
    with urllib.request.urlopen(f"http://{server.metrics}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    found = {}
    for line in lines:
        if line.startswith("da3_"):
            name, _, rest = line.partition('{domain="')
            domain, _, value = rest.partition('"} ')
            found[name, domain] = float(value)
    return found


def wait_for(true, seconds=30):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "it did not come to pass"
        time.sleep(0.1)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_answers_are_those_of_the_runtime(bundle, served, protocol):
    given = pictures(5)
    with Runtime(bundle) as runtime, contextlib.closing(client_of(served, protocol)) as client:
        for name in NAMES:
            assert client.is_model_ready(name)
            predictions = runtime.run(given, domain=name)
            expect(ask(client, name, [encoded(one) for one in given], protocol, top_k=2), predictions, 2)
            expect(ask(client, name, np.stack(given), protocol), predictions)
        left = {one.exit for one in runtime.run(given, domain="flowers")}
    assert len(left) > 1, "no picture left, or all did: nothing is shown"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_domain_that_can_tell_says_what_is_none_of_its_pictures(bundle, served, protocol):
    given = pictures(5)
    client = client_of(served, protocol)
    with Runtime(bundle) as runtime:
        predictions = runtime.run(given, domain="signs")
    answer = ask(client, "signs", np.stack(given), protocol)
    alike = [one.familiarity for one in predictions]
    np.testing.assert_allclose(answer.as_numpy("familiarity")[:, 0], alike, atol=1e-5)
    assert answer.as_numpy("known")[:, 0].tolist() == [one.known for one in predictions]
    limit = float(np.median(alike))
    answer = ask(client, "signs", np.stack(given), protocol, unknown_below=limit if protocol == "grpc" else str(limit))
    assert answer.as_numpy("known").sum() == sum(one >= limit for one in alike)
    with pytest.raises(InferenceServerException, match="familiarity"):
        ask(client, "flowers", np.stack(given), protocol, outputs={"familiarity": {}})


def test_pictures_of_several_sizes_and_many_megabytes(bundle, served):
    """At once: those of one run need not be alike, and the memory that Triton shares with the runtime grows."""
    given = [
        np.stack(pictures(n, size=size)) for n, size in ((1, (20, 24)), (2, (31, 47)), (16, (600, 800)), (64, (9, 9)))
    ]
    with Runtime(bundle) as runtime:
        expected = [runtime.run(list(images), domain="letters") for images in given]
    client = client_of(served)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for i, answer in enumerate(pool.map(lambda i: ask(client, "letters", given[i % 4]), range(16))):
            expect(answer, expected[i % 4])
    with pytest.raises(InferenceServerException, match="64"):
        ask(client, "letters", np.zeros((65, 4, 4, 3), np.uint8))


def test_triton_itself_names_the_best_classes(bundle, served):
    """The protocol's classification extension."""
    given = pictures(2)
    with Runtime(bundle) as runtime:
        predictions = runtime.run(given, domain="signs")
    answer = ask(client_of(served), "signs", np.stack(given), outputs={"probabilities": {"class_count": 2}})
    rows = [[text.decode().split(":")[2] for text in row] for row in answer.as_numpy("probabilities")]
    assert rows == [[label for label, _ in one.top_k(2)] for one in predictions]


def test_parameters(bundle, served):
    given = pictures(4)
    client = client_of(served)
    with Runtime(bundle) as runtime:
        for options in ({"force_all_blocks": True}, {"leave_at": 0}, {"leave_at": 1}):
            expect(ask(client, "flowers", np.stack(given), **options), runtime.run(given, domain="flowers", **options))
    assert ask(client, "flowers", np.stack(given), top_k=99).as_numpy("label").shape == (4, 3)
    for options, words in (
        ({"top_k": 0}, "top_k must be an integer of at least 1"),
        ({"top_k": "many"}, "top_k must be an integer"),
        ({"leave_at": 7}, "exit"),
        ({"force_all_blocks": "yes"}, "must be true or false"),
        ({"unknown_below": "2"}, "unknown_below must be from 0 to 1"),
    ):
        with pytest.raises(InferenceServerException, match=words) as found:
            ask(client, "flowers", np.stack(given), **options)
        assert "\n" not in found.value.message()


def test_a_broken_picture_fails_alone(bundle, served):
    """Those that are answered in the same run are not its business."""
    given = pictures(24, seed=3)
    with Runtime(bundle) as runtime:
        predictions = runtime.run(given, domain="signs")
    client = client_of(served)
    broken = encoded(given[0])[:60]

    def one(i):
        if i % 4 == 3:
            with pytest.raises(InferenceServerException, match="picture 1 of the request.*not a readable picture"):
                ask(client, "signs", [encoded(given[i]), broken])
        else:
            expect(ask(client, "signs", [encoded(given[i])]), predictions[i : i + 1])

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        list(pool.map(one, range(24)))
    with pytest.raises(InferenceServerException, match="not both"):
        ask_both = [tritonclient.grpc.InferInput("picture", [1, 1], "BYTES")]
        ask_both[0].set_data_from_numpy(np.array([[broken]], np.object_))
        ask_both.append(tritonclient.grpc.InferInput("pixels", [1, 2, 2, 3], "UINT8"))
        ask_both[1].set_data_from_numpy(np.zeros((1, 2, 2, 3), np.uint8))
        client.infer("signs", ask_both)
    with pytest.raises(InferenceServerException, match="ask for a domain by its own name"):
        ask(client, RUNTIME, [encoded(given[0])], outputs={"logits": {}})


def test_requests_of_several_domains_share_a_run(served):
    client = client_of(served)

    def executed():
        stats = client.get_inference_statistics(RUNTIME).model_stats[0]
        return stats.execution_count, stats.inference_count

    runs, answered = executed()
    given = [encoded(one) for one in pictures(1)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        list(pool.map(lambda i: ask(client, NAMES[i % 3], given), range(240)))
    wait_for(lambda: executed()[1] - answered >= 240)  # Triton counts when it has answered
    assert executed()[1] - answered == 240
    assert executed()[0] - runs < 120


def test_what_is_skipped_is_in_the_metrics(bundle, served):
    given = pictures(6, seed=5)
    with Runtime(bundle) as runtime:
        predictions = runtime.run(given, domain="flowers")
    client = client_of(served)
    ask(client, "flowers", np.stack(given))
    before = counters(served)
    ask(client, "flowers", np.stack(given))
    with pytest.raises(InferenceServerException):
        ask(client, "flowers", [b"no picture"])
    after = counters(served)
    grown = {name: after[name, "flowers"] - before[name, "flowers"] for name, domain in after if domain == "flowers"}
    skipped = sum(one.blocks_skipped for one in predictions)
    assert skipped > 0
    assert grown == {
        "da3_pictures_total": 6,
        "da3_pictures_refused_total": 1,
        "da3_blocks_total": 18,
        "da3_blocks_skipped_total": skipped,
        "da3_pictures_left_early_total": sum(one.exit is not None for one in predictions),
    }


def test_index_load_and_unload(packed, tmp_path):
    with triton_server.Triton(packed.models, tmp_path) as server:
        for protocol in ("http", "grpc"):
            client = client_of(server, protocol)

            def states(client=client, protocol=protocol):
                rows = client.get_model_repository_index()
                rows = rows if protocol == "http" else [{"name": m.name, "state": m.state} for m in rows.models]
                return {row["name"]: row.get("state", "") for row in rows}

            assert sorted(states()) == sorted((*NAMES, RUNTIME))
            with pytest.raises(InferenceServerException, match="unknown model"):
                ask(client, "signs", np.stack(pictures(1)), protocol)
            client.load_model("signs")
            assert states()["signs"] == states()[RUNTIME] == "READY" and states()["flowers"] != "READY"
            ask(client, "signs", np.stack(pictures(1)), protocol)
            assert len(server.stubs) == 1
            client.load_model("flowers")
            ask(client, "flowers", np.stack(pictures(1)), protocol)
            assert len(server.stubs) == 1, "a domain must not be a process"
            for name in ("signs", "flowers"):
                client.unload_model(name)
            wait_for(lambda states=states: states()["signs"] != "READY")
            assert states()[RUNTIME] == "READY"
            with pytest.raises(InferenceServerException):
                ask(client, "signs", np.stack(pictures(1)), protocol)


@pytest.mark.parametrize(("mode", "options"), [("none", ()), ("explicit", ("--load-model=*",))])
def test_all_domains_are_there_at_the_start(packed, tmp_path, mode, options):
    with triton_server.Triton(packed.models, tmp_path, mode, options) as server:
        client = client_of(server)
        wait_for(client.is_server_ready)
        for name in NAMES:
            ask(client, name, np.stack(pictures(1)))


class Clients:
    """Threads that ask for domains all the time; `failed` has what went wrong."""

    def __init__(self, server, bundle, names, count=4):
        self.failed, self.answered, self._stop = [], 0, threading.Event()
        given = pictures(3, seed=8)
        with Runtime(bundle) as runtime:
            expected = {name: runtime.run(given, domain=name) for name in names}

        def work(number):
            client = client_of(server)
            while not self._stop.is_set():
                name = names[number % len(names)]
                number += 1
                try:
                    expect(ask(client, name, np.stack(given)), expected[name])
                    self.answered += 1
                except Exception as error:
                    self.failed.append(repr(error))
                    return

        self._threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def new_pack(folder, name, seed):
    """A pack's folder, and its weights."""
    weights = random_weights(classes=4, seed=seed)
    write_exits_domain(folder, name, weights)
    return folder


def same(answer, folder, bundle, given):
    """Is this what the domain of a pack's folder answers?"""
    with Runtime(bundle) as runtime:
        name = runtime.load(folder).name
        logits = [one.logits for one in runtime.run(given, domain=name)]
    found = answer.as_numpy("logits")
    return found.shape == np.shape(logits) and bool(np.abs(found - logits).max() < 1e-5)


def test_a_domain_is_added_and_replaced_while_clients_run(bundle, repository, tmp_path):
    """Explicit mode: what is in the repository is served from its `load` on, and not before."""
    given = pictures(3)
    one, other = (new_pack(tmp_path / str(seed), "moss", seed) for seed in (11, 12))
    loads = [f"--load-model={name}" for name in NAMES]
    with triton_server.Triton(repository.models, tmp_path / "work", options=loads) as server:
        client = client_of(server)
        with Clients(server, bundle, NAMES) as clients:
            process = server.stubs
            repository.put(one)
            with pytest.raises(InferenceServerException, match="unknown model"):
                ask(client, "moss", np.stack(given))
            client.load_model("moss")
            assert same(ask(client, "moss", np.stack(given)), one, bundle, given)
            assert repository.put(other).done == "replaced"
            assert same(ask(client, "moss", np.stack(given)), one, bundle, given), "before its load"
            client.load_model("moss")
            assert same(ask(client, "moss", np.stack(given)), other, bundle, given)
            repository.remove("moss")
            client.unload_model("moss")
            wait_for(lambda: not client.is_model_ready("moss"))
            answered = clients.answered
            wait_for(lambda: clients.answered > answered + 20)
            assert server.stubs == process
        assert clients.failed == []


def test_a_server_that_polls_sees_what_changes(bundle, repository, tmp_path):
    given = pictures(3)
    one, other = (new_pack(tmp_path / str(seed), "moss", seed) for seed in (11, 12))
    options = ["--repository-poll-secs=1"]
    with triton_server.Triton(repository.models, tmp_path / "work", "poll", options) as server:
        client = client_of(server)
        with Clients(server, bundle, NAMES) as clients:
            process = server.stubs
            repository.put(one)
            wait_for(lambda: client.is_model_ready("moss"))
            assert same(ask(client, "moss", np.stack(given)), one, bundle, given)
            repository.put(other)
            wait_for(lambda: same(ask(client, "moss", np.stack(given)), other, bundle, given))
            repository.remove("moss")
            wait_for(lambda: not client.is_model_ready("moss"))
            assert server.stubs == process
        assert clients.failed == [] and clients.answered > 0
        assert "Poll failed" not in server.text()


@pytest.mark.parametrize("mode", ["explicit", "poll"])
def test_a_runtime_whose_process_was_killed_is_back_when_its_file_is_touched(bundle, repository, tmp_path, mode):
    """Triton from 24.06 on starts none again: github.com/triton-inference-server/server/issues/8604."""
    given = pictures(2)
    options = [f"--load-model={name}" for name in NAMES] if mode == "explicit" else ["--repository-poll-secs=1"]
    with triton_server.Triton(repository.models, tmp_path / "work", mode, options) as server:
        client = client_of(server)
        wait_for(lambda: client.is_model_ready("letters"))
        ask(client, "letters", np.stack(given))
        (process,) = server.stubs
        os.kill(process, signal.SIGKILL)
        with pytest.raises(InferenceServerException, match="not healthy"):
            ask(client, "letters", np.stack(given))
        os.utime(os.path.join(repository.models, RUNTIME, "1", "model.py"))
        if mode == "explicit":
            client.load_model(RUNTIME)

        def answers():
            try:
                return ask(client, "letters", np.stack(given))
            except InferenceServerException:
                return None

        wait_for(lambda: answers() is not None)
        with Runtime(bundle) as runtime:
            expect(answers(), runtime.run(given, domain="letters"))


def test_other_settings_while_clients_run(bundle, repository, tmp_path):
    with triton_server.Triton(repository.models, tmp_path / "work", "poll", ["--repository-poll-secs=1"]) as server:
        client = client_of(server)
        wait_for(lambda: all(client.is_model_ready(name) for name in NAMES))
        with Clients(server, bundle, NAMES) as clients:
            before = server.stubs
            time.sleep(2.5)
            assert server.stubs == before, "the runtime was loaded again, and nothing had changed"
            with open(os.path.join(repository.models, RUNTIME, "1", "run_engine.pyz"), "rb") as file:
                repository.write_runtime(None, repository.settings._replace(batch_size=2), file.read())
            wait_for(lambda: server.stubs and not set(server.stubs) & set(before))
            answered = clients.answered
            wait_for(lambda: clients.failed or clients.answered > answered + 20)
        assert clients.failed == []


def refusal(server, name="signs"):
    with pytest.raises(InferenceServerException) as found:
        client_of(server).load_model(name)
    return found.value.message()


def test_what_a_server_lacks_is_said_in_a_line(packed, tmp_path, monkeypatch):
    alone = shutil.copytree(packed.models, tmp_path / "alone" / "models")
    with triton_server.Triton(alone, tmp_path / "one") as server:
        refusal(server)
        assert "there is no folder store beside models/" in server.text()
    # A Python with numpy and nothing else.
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("numpy", "numpy.libs"):
        (bare / name).symlink_to(os.path.join(os.path.dirname(np.__file__), "..", name))
    monkeypatch.setenv("PYTHONNOUSERSITE", "1")
    with triton_server.Triton(packed.models, tmp_path / "two", packages=bare) as server:
        refusal(server)
        assert "has no onnxruntime: pip install onnxruntime pillow" in server.text()


def test_a_domain_whose_pack_is_damaged_or_gone(repository, tmp_path):
    packs = os.path.join(repository.store, "packs")
    numbers = {name: repository._numbers(name).number for name in NAMES}
    with open(os.path.join(packs, f"{numbers['signs']}.da3"), "r+b") as file:
        file.seek(-2000, os.SEEK_END)
        file.write(b"\0" * 100)
    os.remove(os.path.join(packs, f"{numbers['letters']}.da3"))
    loads = [f"--load-model={name}" for name in NAMES]
    with triton_server.Triton(repository.models, tmp_path / "work", options=loads) as server:
        client = client_of(server)
        with pytest.raises(InferenceServerException, match="removed or replaced"):
            ask(client, "letters", np.stack(pictures(1)))
        with pytest.raises(InferenceServerException, match=r"sha256|damaged|CRC|not the file"):
            ask(client, "signs", np.stack(pictures(1)))
        ask(client, "flowers", np.stack(pictures(1)))
