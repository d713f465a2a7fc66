"""The engine against the numpy reference: gates, batches, switching, threads, closing."""

import sys
import threading
import time

import numpy as np
import pytest
from synthetic_bundle import BLOCKS, SIZE, Backbone, images, write_domain

from da3.runtime import BackendError, Bundle, DomainError, ImageError, Runtime
from da3.runtime.backends.onnxruntime import OrtBackend
from da3.runtime.execution import choice
from da3.runtime.onnx_graph.joining import subgraph_model
from da3.runtime.schedule.layout import join_plan


class CountingBackend(OrtBackend):
    """Counts the calls of every subgraph by the names of its segments."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def context(self, batch):
        context = super().context(batch)
        bind = context.bind

        def counting(subgraph, weights):
            call = bind(subgraph, weights)

            def counted():
                for step in subgraph.steps:
                    self.calls[step.segment] = self.calls.get(step.segment, 0) + 1
                call()

            return counted

        context.bind = counting
        return context


def share(ran):
    done = sum(b["flops"] if r else b["skip_flops"] for b, r in zip(BLOCKS, ran, strict=True))
    return done / sum(b["flops"] for b in BLOCKS)


@pytest.mark.parametrize("domain", ["flowers", "signs"])
@pytest.mark.parametrize("batch", [1, 2, 16])
def test_equals_the_reference(runtime, weights, domain, batch):
    x = images(32)
    expected, ran = Backbone().reference(x, weights[domain])
    assert 0 < ran[:, 1].sum() < 32 and 0 < ran[:, 2].sum() < 32, "the gates must disagree for this to test anything"
    predictions = runtime.run(x, domain=domain, batch_size=batch)
    assert [p.blocks for p in predictions] == [tuple(r) for r in ran]
    np.testing.assert_allclose([p.logits for p in predictions], expected, rtol=1e-4, atol=1e-4)
    for prediction, row, logits in zip(predictions, ran, expected, strict=True):
        assert prediction.index == logits.argmax()
        assert prediction.label == f"{domain}_{prediction.index}"
        assert prediction.blocks_run == row.sum() and prediction.blocks_skipped == 3 - row.sum()
        assert prediction.flops_share == pytest.approx(share(row))
        assert prediction.probabilities.sum() == pytest.approx(1)
        assert prediction.probability == prediction.probabilities.max()
        assert prediction.top_k(2)[0] == (prediction.label, prediction.probability)
        assert len(prediction.top_k(99)) == len(logits)


def test_a_skipped_block_is_never_called(built):
    x = images(32)
    backend = CountingBackend()
    with Runtime(built[0], backend=backend) as runtime:
        ran = np.array([runtime.run_batch(x[i : i + 1], "flowers").blocks[0] for i in range(32)])
        for block in (1, 2):
            assert backend.calls[f"block_{block}"] == ran[:, block].sum() < 32
        assert (backend.calls["skip"], backend.calls["shifted"]) == tuple((~ran[:, 1:]).sum(0))
        backend.calls.clear()
        runtime.run_batch(x, "flowers", gates={1: False, 2: False})
        assert "block_1" not in backend.calls and "block_2" not in backend.calls


def test_a_subgraph_that_skips_holds_nothing_of_its_block(built):
    bundle = Bundle(built[0])
    for looks_ahead in (False, True):
        layout = join_plan(bundle.manifest, looks_ahead)
        gated = [call for call in layout.calls if call.gate is not None]
        assert [call.block for call in gated] == [1, 2]
        for call in gated:
            assert "Conv" in [node.op for node in subgraph_model(call.subgraph, bundle).nodes]
            assert "Conv" not in [node.op for node in subgraph_model(call.skip, bundle).nodes]


def test_force_all_blocks(runtime, weights):
    x = images(8)
    expected, _ = Backbone().reference(x, weights["flowers"], gated=False)
    for batch_size in (1, 8):
        predictions = runtime.run(x, "flowers", force_all_blocks=True, batch_size=batch_size)
        np.testing.assert_allclose([p.logits for p in predictions], expected, rtol=1e-4, atol=1e-4)
        assert all(p.blocks == (True, True, True) and p.flops_share == 1.0 for p in predictions)


@pytest.mark.parametrize("gates", [{1: True}, {2: False}, {1: False, 2: True}])
def test_gates_can_be_overruled(runtime, weights, gates):
    x = images(8)
    expected, ran = Backbone().reference(x, weights["flowers"], gates=gates)
    result = runtime.run_batch(x, "flowers", gates=gates)
    np.testing.assert_allclose(result.logits, expected, rtol=1e-4, atol=1e-4)
    assert (result.blocks == ran).all()


def test_a_block_without_a_gate_cannot_be_skipped(runtime):
    with pytest.raises(DomainError, match="block 0 cannot be skipped; gateable blocks: 1, 2"):
        runtime.run_batch(images(1), "flowers", gates={0: False})


def test_an_ungated_domain_runs_all_blocks(bundle, weights):
    write_domain(bundle / "domains" / "plain", "plain", weights["flowers"], gated=False)
    with Runtime(bundle) as runtime:
        assert runtime.run_batch(images(16), "plain").blocks.all()


def test_answers_are_named_for_the_domain_that_gave_them(runtime):
    """Whatever was named before, and as the domain was when it answered."""
    x = images(16)
    flowers, signs = (runtime.run_batch(x, name) for name in ("flowers", "signs"))
    runtime.set_theta("flowers", 1e9)
    shut = runtime.run_batch(x, "flowers")
    runtime.set_exits("flowers", temperature=3.0)
    cooler = runtime.run_batch(x, "flowers")
    for result in (flowers, signs, flowers, shut, cooler, flowers):
        named = runtime.predictions(result)
        assert [p.label for p in named] == [result.domain.classes[i] for i in result.logits.argmax(1)]
        assert [p.blocks for p in named] == [tuple(row) for row in result.blocks]
        assert [p.flops_share for p in named] == pytest.approx([share(row) for row in result.blocks])
        assert {p.domain for p in named} == {result.domain.name}
        exact = np.exp(result.logits / result.domain.temperature)
        np.testing.assert_allclose([p.probabilities for p in named], exact / exact.sum(1)[:, None], rtol=1e-4)
    assert not np.allclose(runtime.predictions(cooler)[0].probabilities, runtime.predictions(shut)[0].probabilities)


def test_theta(runtime, weights):
    x = images(16)
    assert runtime.set_theta("flowers", 1e9).theta == 1e9
    assert not runtime.run_batch(x, "flowers").blocks[:, 1:].any()
    runtime.set_theta("flowers", 0.25)
    _, ran = Backbone().reference(x, weights["flowers"], theta=0.25)
    assert (runtime.run_batch(x, "flowers").blocks == ran).all()
    runtime.use("flowers")
    runtime.set_theta("flowers", -1e9)
    assert runtime.run_batch(x).blocks.all()


def test_trace_gives_the_values_that_are_asked_for(runtime):
    x = images(4)
    plain = runtime.run_batch(x, "flowers")
    result, values = runtime.trace(x, ("x0", "g1", "features", "image"), "flowers")
    np.testing.assert_array_equal(result.logits, plain.logits)
    assert {k: v.shape for k, v in values.items()} == {
        "x0": (4, 4, SIZE // 2, SIZE // 2),
        "g1": (4,),
        "features": (4, 4),
        "image": (4, 3, SIZE, SIZE),
    }
    assert ((values["g1"] > 0) == result.blocks[:, 1]).all()
    with pytest.raises(DomainError, match="no value 'nope'"):
        runtime.trace(x, ["nope"], "flowers")


def test_switching_rebinds_and_is_fast(runtime, weights):
    x = images(1)
    expected = {name: Backbone().reference(x, weights[name])[0] for name in weights}
    for name in ("flowers", "signs", "flowers"):
        runtime.use(name)
        assert runtime.domain.name == name
        np.testing.assert_allclose(runtime.run_batch(x).logits, expected[name], rtol=1e-4, atol=1e-4)
    times = []
    for i in range(200):
        start = time.perf_counter()
        runtime.use(("flowers", "signs")[i % 2])
        times.append(time.perf_counter() - start)
    assert sorted(times)[100] < 0.001


def test_which_domain(runtime, bundle):
    with pytest.raises(DomainError, match=r"which domain\? This bundle has: flowers, signs"):
        runtime.run(images(1))
    with pytest.raises(DomainError, match="unknown domain 'flwers'; this bundle has: flowers, signs"):
        runtime.run(images(1), "flwers")
    with pytest.raises(DomainError, match="unknown domain 'flwers'"):
        runtime.use("flwers")
    with pytest.raises(DomainError, match="unknown domain 'flwers'"):
        runtime.load("flwers")
    import shutil

    shutil.rmtree(bundle / "domains" / "signs")
    with Runtime(bundle) as one:
        assert one.run(images(1))[0].domain == "flowers"


def test_unload(runtime):
    runtime.use("flowers")
    runtime.load("signs")
    assert runtime.loaded == ["flowers", "signs"]
    runtime.unload("flowers")
    assert runtime.loaded == ["signs"] and runtime.domain is None
    with pytest.raises(DomainError, match="'flowers' is not loaded; loaded: signs"):
        runtime.unload("flowers")


def test_eight_threads_two_domains(built, weights):
    x = images(16)
    expected = {name: Backbone().reference(x, weights[name])[0] for name in weights}
    wrong, done = [], []

    def work(number):
        name = ("flowers", "signs")[number % 2]
        for i in range(40):
            logits = runtime.run_batch(x[i % 16 :], name).logits
            if not np.allclose(logits, expected[name][i % 16 :], rtol=1e-3, atol=1e-3):
                wrong.append((number, i))
        done.append(number)

    with Runtime(built[0]) as runtime:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for i in range(50):  # the current domain changes under their feet
            runtime.use(("flowers", "signs")[i % 2])
        for thread in threads:
            thread.join()
    assert not wrong and sorted(done) == list(range(8))


def test_close(built):
    runtime = Runtime(built[0])
    runtime.use("flowers")
    runtime.close()
    runtime.close()
    for call in (lambda: runtime.run(images(1)), lambda: runtime.use("flowers"), lambda: runtime.domains):
        with pytest.raises(BackendError, match="this Runtime is closed"):
            call()


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 8, 8), np.float32),
        np.zeros((0, 3, SIZE, SIZE), np.float32),
        np.zeros((SIZE, SIZE), np.uint8),
        np.zeros((1, 3, SIZE, SIZE), np.int64),
        np.full((1, 3, SIZE, SIZE), np.nan, np.float32),
        [],
    ],
)
def test_wrong_arrays(runtime, wrong):
    with pytest.raises(ImageError):
        runtime.run(wrong, "flowers")


def test_uint8_images_of_any_size(runtime):
    rng = np.random.RandomState(0)
    pictures = [
        rng.randint(0, 255, (40, 30, 3)).astype(np.uint8),
        rng.randint(0, 255, (16, 60, 3)).astype(np.uint8),
    ]
    together = runtime.run(pictures, "flowers", force_all_blocks=True)
    for picture, prediction in zip(pictures, together, strict=True):
        alone = runtime.run(picture, "flowers", force_all_blocks=True)[0]
        np.testing.assert_allclose(alone.logits, prediction.logits, rtol=1e-4, atol=1e-4)
        x = runtime.preprocessing.normalise(runtime.preprocessing.resize_and_crop(picture)[None])
        np.testing.assert_array_equal(runtime.run(x, "flowers", force_all_blocks=True)[0].logits, alone.logits)


def test_auto_takes_the_best_there_is(built, monkeypatch, tmp_path):
    installed = set()
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: name if name in installed else None)
    for name in ("tensorrt", "onnxruntime"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with Bundle(built[0]) as bundle:
        with pytest.raises(BackendError, match=r"no engine is installed: pip install 'da3\[cpu\]', or take --backend"):
            choice.choose("auto", bundle)
        installed.add("tensorrt")
        assert choice.choose("auto", bundle).name == "tensorrt"
        installed.add("onnxruntime")
        assert choice._best(bundle, None) == "onnxruntime"
        monkeypatch.setattr("da3.runtime.trt.store.read_sets", lambda folder: [folder == str(tmp_path)])
        assert choice._best(bundle, str(tmp_path)) == "tensorrt"
        assert choice.choose("reference", bundle).name == "reference"
        with pytest.raises(BackendError, match="unknown backend 'cuda'; known: auto, onnxruntime, tensorrt, reference"):
            choice.choose("cuda", bundle)
