"""Pictures that leave at exits and blocks that domains close: the engine against the numpy reference."""

import threading

import numpy as np
import pytest
from synthetic_bundle import (
    ADAPTOR,
    BLOCKS,
    EXITS,
    SIZE,
    Backbone,
    confidence,
    expected,
    images,
    write_domain,
    write_exits_domain,
)
from test_engine import CountingBackend
from test_exits_format import EXIT_TENSORS
from test_schedule import Files

from da3.runtime import BackendError, Bundle, DomainError, ImageError, Runtime
from da3.runtime.backends.onnxruntime import OrtBackend
from da3.runtime.backends.reference import ReferenceBackend
from da3.runtime.bundle.bundle import read_domain
from da3.runtime.execution import scheduler as scheduling
from da3.runtime.onnx_graph.joining import subgraph_model
from da3.runtime.records import ExitRule
from da3.runtime.schedule.decisions import leaves, leaving, spread_one
from da3.runtime.schedule.layout import join_plan, whole_plan
from da3.runtime.schedule.walk import walk

BACKENDS = ("onnxruntime", "reference")
COUNT = 32


@pytest.fixture
def weights(built_with_exits):
    return built_with_exits[1]


def medians(answers):
    """Thresholds at which about half of those that are there leave at each exit."""
    first = np.median(confidence(answers[0]))
    stays = confidence(answers[0]) <= first
    return [float(np.float32(first)), float(np.float32(np.median(confidence(answers[1])[stays])))]


def rules(thresholds):
    return [ExitRule(t) for t in thresholds]


def check(result, answers, thresholds, closed=()):
    logits, ran, left = expected(answers, thresholds, closed)
    np.testing.assert_array_equal(result.left, left)
    np.testing.assert_array_equal(result.blocks, ran)
    np.testing.assert_allclose(result.logits, logits, rtol=1e-4, atol=1e-4)
    assert result.left.dtype == np.int64 and result.logits.dtype == np.float32
    return left


def share(ran, left):
    """What the records say of a block that was skipped, and of one that was not come by."""
    last = [*EXITS, len(BLOCKS)][left]
    done = sum(
        b["flops"] if r else (b["skip_flops"] or 0) if i <= last else 0
        for i, (b, r) in enumerate(zip(BLOCKS, ran, strict=True))
    )
    return done / sum(b["flops"] for b in BLOCKS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("batch", [1, 3, COUNT])
@pytest.mark.parametrize("closed", [(), (1,), (1, 2)])
def test_equals_the_reference(built_with_exits, weights, backend, batch, closed):
    x = images(COUNT)
    with Runtime(built_with_exits[0], backend=backend) as runtime:
        for name in ("flowers", "signs", "flowers"):
            answers = Backbone().answers(x, weights[name], closed)
            thresholds = medians(answers)
            runtime.load(name)
            runtime.set_exits(name, rules(thresholds), closed=closed)
            left = check(runtime.run_batch(x, name), answers, thresholds, closed)
            assert set(left) == {0, 1, 2}, "pictures must leave everywhere for this to test anything"
            logits, ran, left = expected(answers, thresholds, closed)
            predictions = runtime.run(x, name, batch_size=batch)
            assert [p.exit for p in predictions] == [None if n == 2 else n for n in left]
            assert [p.blocks for p in predictions] == [tuple(r) for r in ran]
            assert [p.blocks_run for p in predictions] == ran.sum(1).tolist()
            np.testing.assert_allclose([p.logits for p in predictions], logits, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(
                [p.flops_share for p in predictions], [share(*r) for r in zip(ran, left, strict=True)]
            )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_is_its_images_one_by_one(built_with_exits, weights, backend):
    x = images(9)
    with Runtime(built_with_exits[0], backend=backend) as runtime:
        runtime.load("flowers")
        for thresholds in ([0.0, None], [None, 0.0], [1.0, 1.0], medians(Backbone().answers(x, weights["flowers"]))):
            runtime.set_exits("flowers", rules(thresholds))
            many = runtime.run_batch(x, "flowers")
            single = [runtime.run_batch(one[None], "flowers") for one in x]
            np.testing.assert_array_equal(many.left, np.concatenate([one.left for one in single]))
            np.testing.assert_array_equal(many.blocks, np.concatenate([one.blocks for one in single]))
            np.testing.assert_allclose(
                many.logits, np.concatenate([one.logits for one in single]), rtol=1e-5, atol=1e-5
            )


def test_temperatures(built_with_exits, weights):
    x = images(COUNT)
    answers = Backbone().answers(x, weights["flowers"])
    with Runtime(built_with_exits[0]) as runtime:
        runtime.load("flowers")
        threshold = float(np.median(confidence(answers[0], 2.5)))
        runtime.set_exits("flowers", [ExitRule(threshold, 2.5), ExitRule(None, 9.0)], temperature=0.5)
        predictions = runtime.run(x, "flowers")
        assert [p.exit == 0 for p in predictions] == (confidence(answers[0], 2.5) > threshold).tolist()
        for prediction in predictions:
            scaled = prediction.logits / (2.5 if prediction.exit == 0 else 0.5)
            wanted = np.exp(scaled - scaled.max()) / np.exp(scaled - scaled.max()).sum()
            np.testing.assert_allclose(prediction.probabilities, wanted, rtol=1e-4, atol=1e-6)
            assert prediction.probability == prediction.probabilities.max()


@pytest.mark.parametrize("classes", [3, 250])
def test_the_rule(classes):
    inf, nan = np.inf, np.nan
    rows = [
        [2, 1, 0],
        [0, 0, 0],
        [nan, 5, 0],
        [5, nan, 0],
        [inf, 0, 0],
        [0, 0, inf],
        [9, -inf, 0],
        [-inf] * 3,
        [nan] * 3,
    ]
    logits = np.full((len(rows), classes), -20, np.float32)
    logits[:, :3] = rows
    logits[7:] = np.array([[-inf], [nan]])
    for temperature in (0.5, 1.0, 3.0):
        with np.errstate(invalid="ignore"):
            sure = confidence(logits, temperature)
        for threshold in (None, 0.0, 0.3, 0.5, 0.9, 1.0):
            rule = ExitRule(threshold, temperature)
            wanted = [False] * len(rows) if threshold is None else (sure > threshold).tolist()
            assert leaves(logits, rule).tolist() == wanted
            scale, limit = leaving(rule)
            assert [spread_one(row[None], scale) < limit for row in logits] == wanted


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_number_is_named(built_with_exits, backend):
    """A NaN would be passed by at an exit, and only make what follows NaN too; nobody may leave at it unseen."""
    with Runtime(built_with_exits[0], backend=backend) as runtime:
        domain = runtime.load("flowers")
        for value, name, thresholds, where in (
            (np.nan, "exits.0.bias", [0.0, 0.0], "the logits of exit 0"),
            (np.nan, "exits.1.bias", [1.0, 0.0], "the logits of exit 1"),
            (np.inf, "exits.0.bias", [0.0, 0.0], "the logits of exit 0"),
            (np.nan, "exits.0.bias", [None, None], "the last logits"),
            (-np.inf, "head.bias", [None, None], "the last logits"),
        ):
            weights = {**domain.weights, name: np.full_like(domain.weights[name], value)}
            runtime.load(domain._replace(name="broken", weights=weights, exits=tuple(rules(thresholds))))
            for batch in (1, 4):
                with pytest.raises(BackendError) as error:
                    runtime.run_batch(images(batch), "broken")
                assert str(error.value) == (
                    f"domain broken, {where}: NaN or infinity: numbers grow beyond what float32 holds up to there: "
                    "train or export the domain again"
                )
            assert not np.isfinite(runtime.trace(images(1), ["logits"], "broken")[1]["logits"]).all()
        wrong = images(4)
        wrong[2, 0, 3, 3] = np.nan
        for rows in ([2], [0, 1, 2, 3]):
            with pytest.raises(ImageError, match="NaN or infinity in the images"):
                runtime.run_batch(wrong[rows], "flowers")
        assert np.isfinite(runtime.run_batch(images(4), "flowers").logits).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gate_that_is_no_number_is_named(built, backend):
    """A NaN is above no threshold, so its block would be skipped."""
    with Runtime(built[0], backend=backend) as runtime:
        domain = runtime.load("flowers")
        for value in (np.nan, np.inf, -np.inf):
            for number in (0, 1):
                name = f"adaptors.{number}.gate_bias"
                weights = {**domain.weights, name: np.full_like(domain.weights[name], value)}
                runtime.load(domain._replace(name="broken", weights=weights))
                for batch in (1, 3):
                    with pytest.raises(
                        BackendError, match=f"domain broken, the gate of block {number + 1}: NaN or inf"
                    ):
                        runtime.run_batch(images(batch), "broken")
                    # Where no gate is asked, none is looked at.
                    assert np.isfinite(runtime.run_batch(images(batch), "broken", force_all_blocks=True).logits).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_caller_decides(built_with_exits, weights, backend):
    x = images(6)
    with Runtime(built_with_exits[0], backend=backend) as runtime:
        runtime.load("flowers")
        answers = Backbone().answers(x, weights["flowers"])
        for exit in (0, 1):
            assert (
                check(
                    runtime.run_batch(x, "flowers", leave_at=exit),
                    answers,
                    [0.0 if exit == i else None for i in (0, 1)],
                )[0]
                == exit
            )
        runtime.set_exits("flowers", rules([0.0, 0.0]), closed=[2])
        check(runtime.run_batch(x, "flowers", force_all_blocks=True), answers, [None, None])
        check(runtime.run_batch(x, "flowers"), answers, [0.0, 0.0], closed=[2])
        runtime.set_exits("flowers", rules([None, None]))
        for gates, closed in (
            ({}, [2]),
            ({2: True}, []),
            ({1: False}, [1, 2]),
            ({1: False, 2: True}, [1]),
            ({0: True}, [2]),
        ):
            answers = Backbone().answers(x, weights["flowers"], closed)
            check(runtime.run_batch(x, "flowers", gates=gates), answers, [None, None], closed)
            check(runtime.run_batch(x, "flowers", gates=gates, leave_at=1), answers, [None, 0.0], closed)
        with pytest.raises(DomainError, match="block 0 cannot be skipped; gateable blocks: 1, 2"):
            runtime.run_batch(x, "flowers", gates={0: False})
        for wrong in (2, -1):
            with pytest.raises(DomainError, match=f"can leave at exit {wrong}; it has 2 exits, counted from 0"):
                runtime.run_batch(x, "flowers", leave_at=wrong)
        with pytest.raises(DomainError, match="can leave at exit 0: all blocks are to run"):
            runtime.run_batch(x, "flowers", leave_at=0, force_all_blocks=True)
        with pytest.raises(DomainError, match="closes block 0"):
            runtime.set_exits("flowers", closed=[0])
        with pytest.raises(DomainError, match="rules for 1 exits"):
            runtime.set_exits("flowers", [ExitRule(0.5)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_domains_with_and_without_exits_beside_each_other(exits_bundle, weights, backend):
    x = images(COUNT)
    answers = Backbone().answers(x, weights["flowers"])
    thresholds = medians(answers)
    folder = exits_bundle / "domains"
    exits = [{"threshold": t, "temperature": 1.0} for t in thresholds]
    write_exits_domain(folder / "sure", "sure", weights["flowers"], exits=exits)
    write_exits_domain(folder / "shut", "shut", weights["flowers"], closed=[1])
    bare = {k: v for k, v in weights["flowers"].items() if k not in EXIT_TENSORS}
    write_domain(folder / "old", "old", bare, gated=False)
    write_domain(folder / "gated", "gated", bare)
    write_exits_domain(folder / "bare", "bare", bare, exits=[], adaptor=ADAPTOR, closed=[2])
    nothing = {k: v * 0 if k in EXIT_TENSORS else v for k, v in weights["flowers"].items()}
    cases = {
        "flowers": (answers, [None, None], ()),
        "sure": (answers, thresholds, ()),
        "shut": (Backbone().answers(x, weights["flowers"], [1]), [None, None], [1]),
        "old": (Backbone().answers(x, nothing), [None, None], ()),
        "gated": (Backbone().answers(x, nothing), [None, None], ()),
        "bare": (Backbone().answers(x, nothing, [2]), [None, None], [2]),
    }
    with Runtime(exits_bundle, backend=backend) as runtime:
        for name in [*cases, *reversed(cases)]:
            check(runtime.run_batch(x, name), *cases[name])
            check(runtime.run_batch(x[:1], name), cases[name][0][:, :1], *cases[name][1:])
        with pytest.raises(DomainError, match="it has 0 exits"):
            runtime.run_batch(x, "old", leave_at=0)
        assert len(runtime._open.scheduler._lanes) == 4
        assert runtime.run(x[:2], "old")[0].exit is None


class Opening(ReferenceBackend):
    """Counts the backends that were opened and closed."""

    opened, closed = (), ()

    def open(self, layout, bundle):
        self.opened.append(self)
        super().open(layout, bundle)

    def another(self):
        return Opening(self.precision)

    def close(self):
        self.closed.append(self)
        super().close()


@pytest.fixture
def opening(monkeypatch):
    monkeypatch.setattr(Opening, "opened", [])
    monkeypatch.setattr(Opening, "closed", [])
    return Opening()


def test_lanes_are_opened_once_when_they_are_needed(built_with_exits, opening):
    x = images(2)
    with Runtime(built_with_exits[0], backend=opening) as runtime:
        assert not opening.opened
        runtime.load("flowers")
        assert opening.opened == [opening]
        for _ in range(3):
            runtime.run_batch(x, "flowers")
            runtime.run_batch(x, "flowers", force_all_blocks=True)
            runtime.run_batch(x, "signs")
        assert len(opening.opened) == 1
        runtime.set_exits("flowers", rules([0.5, None]))
        assert len(opening.opened) == 2
        runtime.run_batch(x, "flowers")
        runtime.run_batch(x, "signs", leave_at=1)
        runtime.run_batch(x, "signs", gates={2: False})
        runtime.unload("flowers")
        assert len(opening.opened) == 3 and not opening.closed
    assert sorted(map(id, opening.closed)) == sorted(map(id, opening.opened))


def test_the_lane_that_was_used_longest_ago_makes_room(built_with_exits, opening, monkeypatch):
    monkeypatch.setattr(scheduling, "_MAX_LANES", 2)
    x = images(1)
    with Runtime(built_with_exits[0], backend=opening) as runtime:
        for gates in ({}, {1: False}, {}, {2: False}, {}, {1: False}):
            runtime.run_batch(x, "flowers", gates=gates)
        assert len(opening.opened) == 4 and opening.closed == opening.opened[1:3]


@pytest.mark.parametrize("most", [1, 16])
def test_threads_with_lanes_that_come_and_go(built_with_exits, weights, most, monkeypatch):
    monkeypatch.setattr(scheduling, "_MAX_LANES", most)
    x = images(8)
    all_on = {name: Backbone().answers(x, weights[name]) for name in weights}
    cases, wrong = [], []

    def work(number):
        for i in range(10):
            name, source, answers, closed = cases[(number + i) % len(cases)]
            try:
                check(runtime.run_batch(x, name), answers, medians(answers), closed)
                check(runtime.run_batch(x[:1], name, force_all_blocks=True), all_on[source][:, :1], [None, None])
            except BaseException as error:
                wrong.append(error)

    with Runtime(built_with_exits[0], backend="reference") as runtime:
        for source in weights:
            for closed in ((), (1,), (2,)):
                answers = Backbone().answers(x, weights[source], closed)
                domain = runtime.load(source)._replace(name=f"guest-{len(cases)}", closed=closed)
                runtime.load(domain._replace(exits=tuple(rules(medians(answers)))))
                cases.append((domain.name, source, answers, closed))
        threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(runtime._open.scheduler._lanes) <= most
    assert not wrong


def test_nothing_behind_an_exit_is_called_for_those_that_left(built_with_exits):
    backend = CountingBackend()
    with Runtime(built_with_exits[0], backend=backend) as runtime:
        domain = runtime.load(read(built_with_exits[0], "flowers")._replace(exits=tuple(rules([0.0, None]))))
        runtime.run_batch(images(3), domain.name)
        assert backend.calls == {"stem": 3, "adaptor": 3, "block_0": 3, "exit": 3, "classifier": 3}


def read(folder, name):
    with Bundle(folder) as bundle:
        return read_domain(bundle, name)


def test_exits_can_be_watched_without_leaving(built_with_exits, weights):
    x = images(5)
    answers = Backbone().answers(x, weights["flowers"])
    for backend in (OrtBackend(), ReferenceBackend()):
        with Runtime(built_with_exits[0], backend=backend) as runtime:
            runtime.load("flowers")
            runtime.set_exits("flowers", rules([0.0, 0.0]))
            opened = len(runtime._open.scheduler._lanes)
            result, values = runtime.trace(x, ["logits0", "logits1"], "flowers")
            assert len(runtime._open.scheduler._lanes) == opened
            np.testing.assert_allclose(
                [values["logits0"], values["logits1"], result.logits], answers, rtol=1e-4, atol=1e-4
            )
            assert result.left.tolist() == [2] * 5 and result.blocks.all()
            result, values = runtime.trace(x, ["x1", "e1", "features", "logits0"], "flowers", gates={1: False})
            assert values["x1"].shape == (5, 4, SIZE // 2, SIZE // 2) and values["e1"].shape == (5, 6)
            np.testing.assert_allclose(values["logits0"], answers[0], rtol=1e-4, atol=1e-4)
            assert result.blocks.tolist() == [[True, False, True]] * 5


# -- layouts


def names(subgraph):
    return [step.segment for step in subgraph.steps]


PARTS = [
    ["stem", "adaptor", "block_0", "exit", "classifier"],
    ["adaptor", "block_1", "exit", "classifier_carry"],
    ["adaptor", "block_2", "tail", "head_carry"],
]


def test_parts_end_behind_exits(built_with_exits):
    with Bundle(built_with_exits[0]) as bundle:
        layout = join_plan(bundle.manifest, False)
        assert [names(call.subgraph) for call in layout.calls] == PARTS
        assert [(c.exit, c.answer) for c in layout.calls] == [(0, "logits0"), (1, "logits1"), (None, "logits")]
        assert layout.gates == ("logits0", "logits1") and layout.fetched == ["logits0", "logits1"]
        assert not layout.on_host
        (call,) = join_plan(bundle.manifest, False, leaves=False).calls
        assert call.subgraph == whole_plan(bundle.manifest) and call.exit is None


def test_what_closed_blocks_leave_is_joined(built_with_exits):
    with Bundle(built_with_exits[0]) as bundle:
        layout = join_plan(bundle.manifest, False, closed={1, 2})
        assert [names(call.subgraph) for call in layout.calls] == [
            PARTS[0],
            ["adaptor", "skip", "exit", "classifier_carry"],
            ["adaptor", "shifted", "tail", "head_carry"],
        ]
        for call in layout.calls[1:]:
            assert "Conv" not in [node.op for node in subgraph_model(call.subgraph, bundle).nodes]
        with pytest.raises(DomainError, match="block 0 cannot be skipped"):
            join_plan(bundle.manifest, False, closed={0})


def test_a_device_that_looks_ahead_has_classifiers_on_the_host(built_with_exits):
    with Bundle(built_with_exits[0]) as bundle:
        layout = join_plan(bundle.manifest, True)
        one = join_plan(bundle.manifest, True, leaves=False)
    assert [(names(call.subgraph), call.subgraph.host, call.exit) for call in layout.calls] == [
        (PARTS[0][:-1], False, None),
        (["classifier"], True, 0),
        (PARTS[1][:-1], False, None),
        (["classifier_carry"], True, 1),
        (PARTS[2][:-1], False, None),
        (["head_carry"], True, None),
    ]
    assert layout.on_host == {"logits0", "logits1", "logits"} and layout.fetched == ["e0", "e1", "features"]
    assert [(len(call.subgraph.steps), call.subgraph.host) for call in one.calls] == [(10, False), (3, True)]
    for found in (layout, one):
        for subgraph in found.subgraphs:
            free = [
                n for v in subgraph.segment.inputs + subgraph.segment.outputs for n in v.shape if isinstance(n, str)
            ]
            assert subgraph.host or set(free) == {"batch"}


def test_a_walk_closes_what_the_domain_closes_and_goes_to_the_end(built_with_exits, weights):
    x = images(4)
    with Bundle(built_with_exits[0]) as bundle:
        run_step = Files(bundle)
        for overrides, closed in ((None, [2]), ({1: False, 2: True}, [1]), ({2: True}, [])):
            domain = read_domain(bundle, "flowers")._replace(closed=(2,), exits=tuple(rules([0.0, 0.0])))
            values = {}
            for visit in walk(bundle.manifest, domain, x, run_step, overrides):
                values.update(visit.written)
                assert visit.ran.tolist() == [visit.step.block not in closed] * 4
            answers = Backbone().answers(x, weights["flowers"], closed)
            found = [values[name] for name in ("logits0", "logits1", "logits")]
            np.testing.assert_allclose(found, answers, rtol=1e-4, atol=1e-4)
