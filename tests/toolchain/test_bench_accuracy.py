"""``da3 bench accuracy``: ordinary runs, trained once, summed up as numpy sums them up."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import save_file
from typer.testing import CliRunner

from da3.runtime.calibration import Answers, Goal, best_static, cross_fit
from da3.runtime.training.checkpoint import read
from da3.runtime.training.config import MemorySettings
from da3.toolchain.backbones import load_weights, random_weights
from da3.toolchain.bench import accuracy, parallel_runs
from da3.toolchain.bench.accuracy import bench_accuracy
from da3.toolchain.bench.accuracy_plan import AccuracyPlan, domains_in
from da3.toolchain.bench.earlier_runs import differences
from da3.toolchain.bench.learning_rates import choose_rates, reported
from da3.toolchain.bench.progress import SilentBenchReporter
from da3.toolchain.bench.scores import Key, Leaving, Point, Score, summarise, with_best_static
from da3.toolchain.bench.tables import accuracy_table
from da3.toolchain.bench.trained import Trained
from da3.toolchain.bench.variants import parse
from da3.toolchain.cli.commands import app
from da3.toolchain.errors import CheckpointError, DataError, TrainingError
from da3.toolchain.process.worker import WorkerError
from da3.toolchain.training.options import TrainOptions
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

SILENT = SilentBenchReporter()


@pytest.fixture(scope="module")
def root(photos, tmp_path_factory):
    """Two domains side by side, and folders that are none."""
    folder = tmp_path_factory.mktemp("domains")
    for name in ("letters", "signs"):
        (folder / name).symlink_to(photos)
    (folder / "notes").mkdir()
    (folder / ".hidden" / "train").mkdir(parents=True)
    (folder / "README.md").write_text("no domain")
    return folder


@pytest.fixture
def plan(root, weights_files, tmp_path):
    def make(words=("linear",), **changes):
        settings = {"seeds": 2, "epochs": 2, "size": 32, "batch_size": 8, "domains": ["letters", "signs"], **changes}
        weights = {"weights": str(weights_files["mobilenet_v2"]), **changes}["weights"]
        places = {"data": root, "out": tmp_path / "out"}
        return AccuracyPlan(**places, variants=parse(words, learning_rates=True), **{**settings, "weights": weights})

    return make


@pytest.fixture
def here(monkeypatch):
    """Runs the workers' work in this process, which saves their start; lists what was asked for."""
    asked = []

    class Here:
        def __init__(self, module, request, threads):
            options = request["options"]
            self.options = TrainOptions(**{**options, "runs": Path(options["runs"])})
            asked.append(self.options)

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            pass

        def answers(self):
            yield {"done": 0.5}
            yield {"finished": train(self.options, SilentReporter()).finished}

        def ask_to_stop(self):
            pass

    monkeypatch.setattr(parallel_runs, "Worker", Here)
    # Most of the time of runs this small would be spent on the picture of their results.
    monkeypatch.setattr(accuracy, "draw_accuracy", lambda report: b"")
    return asked


def test_the_command_trains_once_and_refuses_other_options(root, weights_files, tmp_path):
    """In real processes, from the command line."""
    words = ["--data", root, "--domains", "signs", "--methods", "linear", "--seeds", 1, "--epochs", 1, "--size", 32]
    words += ["--weights", weights_files["mobilenet_v2"], "--no-flip", "signs", "--out", tmp_path / "out"]

    def call(*more):
        return CliRunner().invoke(app, ["bench", "accuracy", *map(str, (*words, *more))])

    first = call("--json", "--plot", tmp_path / "copy.png")
    assert first.exit_code == 0, (first.output, first.exception)
    report = json.loads(first.stdout)
    last = tmp_path / "out" / "runs" / "linear" / "seed-0" / "signs" / "last.safetensors"
    trained = last.stat().st_mtime_ns
    assert read(last).config.flip is False
    (row,) = report["rows"]
    assert (row["method"], row["domain"], row["seeds"], row["last_std"]) == ("linear", "signs", [0], None)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == report
    picture = (tmp_path / "out" / "results.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and (tmp_path / "copy.png").read_bytes() == picture

    again = call()
    assert again.exit_code == 0 and "1 of 1 runs are there already" in again.stderr
    assert last.stat().st_mtime_ns == trained

    other = call("--epochs", 2)
    assert other.exit_code == 1 and isinstance(other.exception, TrainingError)
    assert "epochs was 1, now 2" in str(other.exception) and "--overwrite" in str(other.exception)


def test_means_and_deviations_are_numpys(plan, here):
    words = ["linear,linear:micro-batch=3"]  # of each, two seeds on two domains
    report = bench_accuracy(plan(words), SILENT)
    assert len(here) == 8 and report["remaining"] == 0 and report["failed"] == []
    assert {(row["method"], row["domain"]) for row in report["rows"]} == {
        (m, d) for m in ("linear", "linear:micro-batch=3") for d in ("letters", "signs")
    }
    values = {}
    for row in report["rows"]:
        folder = plan(words).out / "runs" / row["method"].replace(":", "-").replace("=", "-")
        for which in ("last", "best"):
            found = []
            for seed in (0, 1):
                history = [
                    json.loads(line)["val_accuracy"]
                    for line in (folder / f"seed-{seed}" / row["domain"] / "metrics.jsonl").open()
                ]
                found.append(history[-1] if which == "last" else max(history))
            assert row[which] == found
            assert row[f"{which}_mean"] == pytest.approx(np.mean(found))
            assert row[f"{which}_std"] == pytest.approx(np.std(found, ddof=1))
            values[row["method"], row["domain"], which] = found
    for row in report["overall"]:
        means = np.mean([values[row["method"], d, "last"] for d in ("letters", "signs")], 0)
        assert row["last"] == pytest.approx(list(means))
        assert row["last_mean"] == pytest.approx(means.mean())
        assert row["last_std"] == pytest.approx(means.std(ddof=1))
    text = text_of(report)
    assert "best static" not in text and "mean of the domains" in text and "letters" in text
    first = report["rows"][0]
    assert f"{100 * first['last_mean']:.1f} +- {100 * first['last_std']:.1f} %" in text


def text_of(report):
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(accuracy_table(report))
    return console.export_text()


def test_photos_that_leave_need_no_network_of_their_own(plan, here):
    words = ["da3,da3:keep=0.7,da3:keep=0.5"]
    report = bench_accuracy(plan(words, domains=["signs"], seeds=2, against="da3"), SILENT)
    assert [(o.folder.parts[-3], o.keep) for o in here] == [("da3", 1.0), ("da3-keep-0.5", 0.5)] * 2
    rows = {row["method"]: row for row in report["rows"]}
    answers = {}
    for option in here:
        with np.load(option.folder / "validation.npz") as arrays:
            answers[option.keep, option.seed] = Answers(arrays["logits"], arrays["labels"], arrays["cost"])
    last = [answers[1.0, seed].right()[:, -1].mean() for seed in (0, 1)]
    assert rows["da3"]["last"] == pytest.approx(last) and rows["da3"]["gated"] is None and rows["da3"]["best"]
    for label, trained, keep in (("da3:keep=0.7", 1.0, 0.7), ("da3:keep=0.5", 0.5, 0.5)):
        row, gated = rows[label], rows[label]["gated"]
        fits = [cross_fit(answers[trained, seed], Goal(most_cost=keep)) for seed in (0, 1)]
        assert row["last"] == [fit.accuracy for fit in fits] and row["best"] is None
        assert row["flops_share"] == pytest.approx(np.mean([fit.cost for fit in fits])) and row["flops_share"] < 0.85
        assert gated["permuted"] == [fit.permuted for fit in fits]
        assert gated["left"] == pytest.approx(list(np.mean([fit.left for fit in fits], 0)))
        static = []
        for seed in (0, 1):
            both = [answers[network, seed] for network in (1.0, 0.5)]
            costs = np.concatenate([one.costs for one in both])
            static.append(best_static(costs, np.concatenate([one.right().mean(0) for one in both]), fits[seed].cost))
        assert gated["static"] == pytest.approx(static) and gated["static_mean"] == pytest.approx(np.mean(static))
        differences = np.subtract(row["last"], last)
        assert row["against"]["mean"] == pytest.approx(differences.mean()) and row["against"]["pairs"] == 2
        assert row["against"]["error"] == pytest.approx(differences.std(ddof=1) / 2**0.5)
        over = np.subtract(row["last"], static)
        assert gated["over_static"]["mean"] == pytest.approx(over.mean())
    assert report["against"] == "da3" and rows["da3"]["against"] is None
    text = text_of(report)
    assert "best static" in text and "over da3" in text
    json.dumps(report)


def test_training_does_not_depend_on_a_share_that_closes_no_block(small_run):
    found = {}
    for keep in (1.0, 0.7):
        result = train(small_run(f"keep{keep * 10:.0f}", keep=keep), SilentReporter())
        found[keep] = (result.folder / "validation.npz").read_bytes()
    assert found[1.0] == found[0.7]


@pytest.mark.parametrize("word", ["da3:keep=0.5", pytest.param("finetune", marks=pytest.mark.slow)])
def test_validating_the_last_epoch_alone_changes_nothing(plan, here, word):
    found = {}
    for last_only in (False, True):
        asked = plan([word], domains=["signs"], seeds=1, epochs=3, last_only=last_only)
        (row,) = bench_accuracy(replace(asked, out=asked.out / str(last_only)), SILENT)["rows"]
        folder = here[-1].folder
        last = read(folder / "last.safetensors")
        validated = ["val_accuracy" in epoch for epoch in last.progress.history]
        assert validated == [not last_only, not last_only, True] and (folder / "best.safetensors").exists()
        found[last_only] = row["last"], (folder / "validation.npz").read_bytes(), last.model
    assert found[False][:2] == found[True][:2]
    for name, tensor in found[False][2].items():
        np.testing.assert_array_equal(tensor, found[True][2][name])


def test_a_finished_run_without_its_answers_is_named(plan, here):
    asked = plan(["da3:keep=0.8"], domains=["signs"], seeds=1, epochs=1)
    bench_accuracy(asked, SILENT)
    (answers,) = asked.out.rglob("validation.npz")
    whole = answers.read_bytes()
    with np.load(answers) as arrays:
        other = {**arrays, "labels": (arrays["labels"] + 1) % 3}
    for damage, message in (
        (answers.unlink, "no .*validation.npz"),
        (lambda: answers.write_bytes(whole[:100]), "is damaged"),
        (lambda: np.savez(answers, **{**other, "cost": np.ones(1)}), "do not fit together"),
        (lambda: np.savez(answers, **other), "not of one run"),
        (lambda: np.savez(answers, **{**other, "logits": other["logits"] * np.nan}), "NaN"),
    ):
        damage()
        with pytest.raises(CheckpointError, match=message) as raised:
            bench_accuracy(asked, SILENT)
        assert "\n" not in str(raised.value)
    assert bench_accuracy(replace(asked, overwrite=True), SILENT)["remaining"] == 0 and len(here) == 2


def test_one_validation_photo_is_too_few_to_choose_by():
    run = Trained(1.0, 1.0, 1.0, Answers(np.zeros((1, 2, 3)), np.zeros(1, int), np.array([0.5, 1.0])))
    assert Score.of(run, 1.0).answers == (Point(0.5, 1.0), Point(1.0, 1.0))
    with pytest.raises(TrainingError, match="too few"):
        Score.of(run, 0.7)


@pytest.mark.parametrize("looks", [True, False])
def test_decisions_that_do_not_look_at_the_picture_gain_nothing_over_chance(looks):
    """A confidence that says nothing of the picture is found out: dealt at random, its decisions are as good."""
    random = np.random.RandomState(0)
    labels = random.randint(4, size=4000)
    easy = random.rand(4000) < 0.5
    logits = random.normal(0, 0.5, (4000, 2, 4))
    right = random.rand(4000, 2) < np.array([np.where(easy, 0.95, 0.45), np.where(easy, 0.98, 0.9)]).T
    answered = np.where(right, labels[:, None], (labels[:, None] + 1) % 4)
    sure = easy if looks else random.permutation(easy)
    for number, strength in enumerate((np.where(sure, 6.0, 3.0), np.full(4000, 6.0))):
        logits[np.arange(4000), number, answered[:, number]] += strength
    score = Score.of(Trained(0.9, 0.9, 1.0, Answers(logits, labels, np.array([0.4, 1.0]))), 0.7)
    row = summarise(["da3"], ["x"], {Key("da3", "x", 0): score})["rows"][0]
    gained = row["gated"]["over_permuted"]["mean"]
    assert row["flops_share"] == pytest.approx(0.7, abs=0.02)
    assert gained > 0.08 if looks else abs(gained) < 0.02


def test_the_best_static_choice_is_looked_for_in_all_networks():
    gated = Score(0.8, None, 0.7, Leaving((0.5, 0.5), 0.6, 0.5), (Point(0.5, 0.6), Point(1.0, 0.9)))
    closed = Score(0.85, 0.85, 0.7, None, (Point(0.4, 0.5), Point(0.7, 0.85)))
    scores = {Key("a", "x", 0): gated, Key("b", "x", 0): closed, Key("b", "y", 0): replace(closed, last=1.0)}
    found = with_best_static(scores)
    assert found[Key("a", "x", 0)].leaving == Leaving((0.5, 0.5), 0.85, 0.5)
    alone = with_best_static({Key("a", "x", 0): gated, Key("b", "x", 1): closed})
    assert alone[Key("a", "x", 0)].leaving.static == pytest.approx(0.72)  # by lot, 0.4 of the photos run all
    assert {key: score for key, score in found.items() if key.method == "b"} == {
        key: score for key, score in scores.items() if key.method == "b"
    }


def test_the_best_learning_rate_is_reported_and_the_others_are_listed(plan, here):
    words = ["linear:lr=1e-6/4e-3/1e-5,linear"]
    report = bench_accuracy(plan(words, domains=["signs"], against="linear:lr=1e-6/4e-3/1e-5"), SILENT)
    assert [(o.lr, o.folder.parts[-3]) for o in here[:3]] == [
        (1e-6, "linear-lr-1e-06"),
        (None, "linear"),  # the method's own: one run serves both
        (1e-5, "linear-lr-1e-05"),
    ] and len(here) == 6  # fmt: skip
    assert [row["method"] for row in report["rows"]] == ["linear:lr=4e-3", "linear"]
    (choice,) = report["choices"]
    assert choice["asked"] == "linear:lr=1e-6/4e-3/1e-5" and choice["reported"] == "linear:lr=4e-3"
    assert choice["runs"] == 2 and set(choice["means"]) == {"linear:lr=1e-6", "linear:lr=4e-3", "linear:lr=1e-5"}
    assert report["against"] == "linear:lr=4e-3"
    assert report["rows"][1]["against"] == {"mean": 0.0, "error": 0.0, "pairs": 2}
    assert "is the best of linear:lr=1e-6/4e-3/1e-5 on 2 runs of each" in text_of(report)


def test_learning_rates_are_compared_on_runs_that_all_have():
    variants = parse(["finetune:lr=1e-4/1e-3,linear"], learning_rates=True)
    low, high = (lambda domain: Key("finetune:lr=1e-4", domain, 0)), (lambda domain: Key("finetune:lr=1e-3", domain, 0))
    scores = {low("x"): Score(0.9, 0.9, 1.0)}
    (choice,) = choose_rates(variants, scores)
    assert (choice["reported"], choice["means"], choice["runs"]) == ("finetune:lr=1e-4", {}, 0)
    scores |= {low("y"): Score(0.5, 0.5, 1.0), high("y"): Score(0.6, 0.6, 1.0)}
    choices = choose_rates(variants, scores)
    assert choices[0]["reported"] == "finetune:lr=1e-3" and choices[0]["means"]["finetune:lr=1e-4"] == 0.5
    assert reported(variants, choices) == ["finetune:lr=1e-3", "linear"]


@pytest.mark.parametrize(
    ("against", "labels"),
    [
        (None, []),
        ("da3", ["da3"]),
        ("da3:keep=0.7", ["da3:keep=0.7"]),
        ("finetune", ["finetune:lr=1e-4", "finetune:lr=1e-3"]),
        ("finetune:lr=1e-4/1e-3", ["finetune:lr=1e-4", "finetune:lr=1e-3"]),
    ],
)
def test_a_baseline_is_a_label_a_choice_or_a_method(plan, against, labels):
    asked = replace(plan(), variants=parse(["da3,da3:keep=0.7,finetune:lr=1e-4/1e-3"], learning_rates=True))
    assert replace(asked, against=against).baseline() == labels
    with pytest.raises(TrainingError, match="--against linear: must be one of .* or finetune:lr=1e-4/1e-3"):
        replace(asked, against="linear").runs()


def test_a_stopped_run_is_resumed_and_nothing_is_trained_twice(plan, here):
    whole = plan(domains=["signs"], seeds=1)
    ((options, _),) = whole.runs().values()
    steps = iter(range(100))
    assert not train(options, SilentReporter(), lambda: next(steps) > 2).finished
    bench_accuracy(whole, SILENT)
    assert [o.resume for o in here] == [True]
    score = bench_accuracy(whole, SILENT)["rows"][0]["last"]
    assert len(here) == 1
    straight = train(replace(options, runs=whole.out / "straight"), SilentReporter())
    assert score == [straight.history[-1]["val_accuracy"]]


@pytest.mark.slow
def test_an_engine_trains_beside_pytorch_and_is_scored_alike(plan):
    words = ("da3,da3:keep=0.8,da3:engine=onnxruntime,da3:engine=onnxruntime,keep=0.8",)
    both = plan(words, domains=["signs"], seeds=1, epochs=1, against="da3")
    report = bench_accuracy(both, SILENT)
    assert report["failed"] == [] and report["remaining"] == 0
    rows = {row["method"]: row for row in report["rows"]}
    assert rows["da3:engine=onnxruntime,keep=0.8"]["flops_share"] < 0.9
    assert rows["da3:engine=onnxruntime"]["against"]["pairs"] == 1
    last = read(both.out / "runs" / "da3-engine-onnxruntime" / "seed-0" / "signs" / "last.safetensors")
    assert last.config.memory.keep_precision == "fp32"  # as only an engine's run has it
    written = last.path
    before = Path(written).stat().st_mtime_ns
    assert bench_accuracy(both, SILENT)["rows"] == report["rows"] and Path(written).stat().st_mtime_ns == before
    with pytest.raises(TrainingError, match="--device cuda: onnxruntime learns on the CPU"):
        bench_accuracy(replace(both, device="cuda"), SILENT)


def test_other_options_are_refused_before_anything_is_trained(plan, here, weights_files, tmp_path):
    bench_accuracy(plan(domains=["signs"], seeds=1), SILENT)
    here.clear()
    weights = random_weights("mobilenet_v2", 0.35, seed=1)
    other = tmp_path / "other.safetensors"
    save_file(weights.state, other, weights.metadata("mobilenet_v2"))
    for changes, message in (
        ({"epochs": 3}, "epochs was 2, now 3"),
        ({"size": 64}, "size was 32, now 64"),
        ({"batch_size": 4}, "batch-size was 8, now 4"),
        ({"no_flip": ("signs",)}, "flip was True, now False"),
        ({"weights": str(other)}, "weights-sha256 was"),
    ):
        with pytest.raises(TrainingError, match=message) as raised:
            bench_accuracy(plan(seeds=1, **changes), SILENT)
        assert "\n" not in str(raised.value)
    assert here == []
    report = bench_accuracy(plan(seeds=1, epochs=1, overwrite=True), SILENT)
    assert {o.domain: o.overwrite for o in here} == {"letters": False, "signs": True} and report["remaining"] == 0


def test_a_damaged_run_is_refused_or_replaced(plan, here):
    asked = plan(domains=["signs"], seeds=1, epochs=1)
    last = asked.out / "runs" / "linear" / "seed-0" / "signs" / "last.safetensors"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="damaged"):
        bench_accuracy(asked, SILENT)
    assert bench_accuracy(plan(domains=["signs"], seeds=1, epochs=1, overwrite=True), SILENT)["remaining"] == 0


def test_memory_settings_count_only_where_they_mean_something(small_run, weights_files):
    weights = load_weights(str(weights_files["mobilenet_v2"]), "mobilenet_v2")
    for name, count in (("finetune", 0), ("linear", 0), ("da3", 2)):
        config = small_run(method=name).config(weights, ("a", "b"), 10)
        other = config._replace(memory=MemorySettings("fp32", gradient="skip-path"))
        assert len(differences(config, other)) == count
        assert differences(config, config) == []
    grid = config._replace(adaptor=config.adaptor._replace(grid=4))
    assert "adaptor" in differences(grid, config)[0]


def test_a_run_that_fails_is_named_and_the_others_go_on(plan, here, monkeypatch):
    fine = parallel_runs.Worker.answers

    def answers(self):
        if self.options.domain == "letters":
            raise WorkerError("its process was killed by SIGKILL")
        yield from fine(self)

    monkeypatch.setattr(parallel_runs.Worker, "answers", answers)
    report = bench_accuracy(plan(seeds=1, epochs=1, jobs=2), SILENT)
    assert [row["domain"] for row in report["rows"]] == ["signs"] and report["overall"] == []
    assert report["failed"] == [
        {"method": "linear", "domain": "letters", "seed": 0, "error": "its process was killed by SIGKILL"}
    ]
    assert report["remaining"] == 1


def test_a_wish_to_stop_leaves_the_rest_for_later(plan, here):
    asked = plan(seeds=1, epochs=1)
    report = bench_accuracy(asked, SILENT, stop=lambda: len(here) >= 1)
    assert [row["domain"] for row in report["rows"]] == ["letters"]
    assert report["remaining"] == 1 and report["failed"] == []
    assert bench_accuracy(asked, SILENT)["remaining"] == 0 and len(here) == 2


def test_incomplete_seeds_are_left_out_of_the_overall_mean():
    scores = {
        Key("a", "x", 0): Score(0.5, 0.6, 1.0),
        Key("a", "y", 0): Score(0.7, 0.7, 0.5),
        Key("a", "x", 1): Score(0.9, 0.9, 1.0),
    }
    found = summarise(["a", "b"], ["x", "y"], scores)
    (overall,) = found["overall"]
    assert overall["seeds"] == [0] and overall["last"] == [pytest.approx(0.6)] and overall["last_std"] is None
    assert overall["flops_share"] == 0.75
    assert [row["seeds"] for row in found["rows"]] == [[0, 1], [0]]


def test_domains_are_found_or_named(root, photos, tmp_path):
    assert domains_in(root) == ["letters", "signs"]
    assert domains_in(root, "signs, letters,signs") == ["signs", "letters"]
    for folder, names, message in (
        (root, "signz", "there are letters, signs"),
        (photos, None, "pass the folder above"),
        (tmp_path / "nowhere", None, "no such folder"),
    ):
        with pytest.raises(DataError, match=message):
            domains_in(folder, names)


def test_no_flip_names_a_domain(plan):
    with pytest.raises(TrainingError, match="--no-flip signz"):
        plan(no_flip=("signz",)).runs()
