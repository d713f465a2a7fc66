"""How good a domain is: photos and labels in, answers, scores, comparisons and records out."""

import json
import threading

import numpy as np
import pytest
from labelled_photos import write_labelled
from scipy.stats import binomtest
from sklearn import metrics

from da3.runtime import Runtime
from da3.runtime.bundle import update_domain
from da3.runtime.calibration import BINS, gap_error, reliability
from da3.runtime.errors import DataError, ImageError
from da3.runtime.evaluation import (
    FORMAT,
    Verdict,
    as_csv,
    as_record,
    compare,
    describe,
    evaluate,
    exact_mcnemar,
    read_labelled,
    read_record,
    score,
    verdicts,
    wilson_interval,
)
from da3.runtime.records import ExitRule

CLASSES = ("flowers_0", "flowers_1", "flowers_2")
RULES = (ExitRule(0.99, 0.5), ExitRule(0.385, 2.0))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    write_labelled(folder, CLASSES, each=7)
    return folder


@pytest.fixture
def runtime(exits_bundle):
    """A bundle whose first domain has exits at which some leave."""
    update_domain(exits_bundle, "flowers", exits=RULES, closed=[1])
    with Runtime(exits_bundle, backend="reference") as opened:
        opened.use("flowers")
        yield opened


@pytest.fixture
def evaluated(runtime, photos):
    return evaluate(runtime, read_labelled(photos, CLASSES), runtime.domain)


# -- labelled photos


def test_a_folder_and_its_val(photos, tmp_path):
    found = read_labelled(photos, CLASSES)
    assert len(found.photos) == 21 and found.photos[7] == (str(photos / "flowers_1" / "0.png"), 1)
    assert found.name(found.photos[7][0]) == "flowers_1/0.png"
    (tmp_path / "val").symlink_to(photos)
    (tmp_path / "train").mkdir()
    inner = read_labelled(tmp_path, CLASSES)
    assert inner.source == str(tmp_path / "val") and inner.sha256() == found.sha256()
    assert found._replace(photos=found.photos[1:]).sha256() != found.sha256()
    with pytest.raises(ImageError, match="unknown class folder 'flowers_2'; known: flowers_0, flowers_1"):
        read_labelled(photos, CLASSES[:2])


@pytest.mark.parametrize(
    "text",
    [
        "flowers_1/0.png,flowers_1\nflowers_0/3.png,flowers_0\n",
        "\ufeffPath,Label\nflowers_1/0.png,flowers_1\n\nflowers_0/3.png , flowers_0\n",
        "id;class;file\r\n1;flowers_1;flowers_1/0.png\r\n2;flowers_0;flowers_0/3.png\r\n",
        "path\tprobability\tlabel\n'flowers_1/0.png'\t0.5\tflowers_1\nflowers_0/3.png\t\tflowers_0\n".replace("'", '"'),
    ],
)
def test_a_csv(photos, tmp_path, text):
    path = photos / "labels.csv"
    path.write_bytes(text.encode())
    found = read_labelled(path, CLASSES)
    path.unlink()
    assert found.photos == ((f"{photos}/flowers_1/0.png", 1), (f"{photos}/flowers_0/3.png", 0))
    assert [found.name(p) for p, _ in found.photos] == ["flowers_1/0.png", "flowers_0/3.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels.csv has no rows: put a path and a label in each"),
        ("path,label\n", "has a header and no photos"),
        ("path,size\n0.png,3\n", "its header names no column 'label', only: path, size"),
        ("0.png\n", "labels.csv, line 1: expected a path and a label, separated by a comma, not '0.png'"),
        ("path,label\n0.png,b\n", "labels.csv, line 2: unknown class 'b'; known: a"),
        ("0.png,a\n\n1.png,a\n", "labels.csv, line 3: there is no photo at"),
        ("0.png,a\n0.png,a\n", "labels.csv, line 2: 0.png is in line 1 too"),
        ("\0\1", "labels.csv is no text"),
    ],
)
def test_a_csv_that_is_wrong(tmp_path, text, message):
    (tmp_path / "0.png").write_bytes(b"")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError) as error:
        read_labelled(tmp_path / "labels.csv", ("a",))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_photos_at_all(tmp_path):
    with pytest.raises(DataError, match="no photos at .*gone: name a folder with a sub-folder per class, or a CSV"):
        read_labelled(tmp_path / "gone", CLASSES)


# -- answers


def test_answers_are_those_of_the_runtime(runtime, evaluated, photos):
    predictions = runtime.run([path for path, _ in evaluated.photos.photos])
    assert len({p.exit for p in predictions}) == 3 and len({p.index for p in predictions}) > 1, "choose other rules"
    labels = np.repeat(np.arange(3), 7)
    for row, prediction, label in zip(evaluated.answered, predictions, labels, strict=True):
        assert (row.label, row.answer, row.exit) == (label, prediction.index, prediction.exit)
        assert row.probability == pytest.approx(prediction.probability, rel=1e-4)
        assert row.label_probability == pytest.approx(float(prediction.probabilities[label]), rel=1e-4)
        order = [name for name, _ in prediction.top_k(3)]
        assert row.rank == 1 + order.index(CLASSES[label]) and row.correct == (row.rank == 1)
        assert (row.blocks_run, row.flops_share) == (prediction.blocks_run, prediction.flops_share)
        assert row.engine_s > 0
    ran = np.array([p.blocks for p in predictions])
    assert (evaluated.blocks == [ran[labels == label].sum(0) for label in range(3)]).all()
    assert len(evaluated.batch_s) == 21 and evaluated.settings.precision == "fp32"


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (4, 2), (100, 1)])
def test_batches_and_threads_change_no_answer(runtime, evaluated, batch_size, workers):
    again = evaluate(runtime, evaluated.photos, runtime.domain, batch_size=batch_size, workers=workers)
    for one, other in zip(evaluated.answered, again.answered, strict=True):
        assert one[:3] == other[:3] and one.exit == other.exit
        assert other.probability == pytest.approx(one.probability, abs=1e-5)
    assert (again.blocks == evaluated.blocks).all() and len(again.batch_s) == -(-21 // batch_size)


def test_all_blocks(runtime, evaluated):
    everything = evaluate(runtime, evaluated.photos, runtime.domain, force_all_blocks=True)
    assert all(row.exit is None and row.flops_share == 1 for row in everything.answered)
    assert score(evaluated).flops_share < 1


def test_photos_are_decoded_beside_the_engine_and_not_far_ahead(runtime, evaluated, monkeypatch):
    """The engine waits until more has been decoded than it was given: without threads it would wait for ever."""
    decoded, ahead = [], threading.Event()
    load = type(runtime.preprocessing).load

    def counted(self, path):
        decoded.append(path)
        if len(decoded) >= 5:
            ahead.set()
        return load(self, path)

    def run(run_batch, batch):
        assert ahead.wait(20), "nothing is decoded while the engine runs"
        taken.append(len(decoded))
        return run_once(run_batch, batch)

    from da3.runtime.execution.timing import run_once

    taken = []
    monkeypatch.setattr(type(runtime.preprocessing), "load", counted)
    evaluate(runtime, evaluated.photos, runtime.domain, batch_size=2, workers=1, run=run)
    assert all(count <= 2 * (number + 1) + 2 + 2 for number, count in enumerate(taken))


def test_photos_that_cannot_be_read(runtime, photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    rows = [f"{photos}/flowers_2/0.png,flowers_2", "bad.jpg,flowers_0", f"{photos}/flowers_1/0.png,flowers_1"]
    (tmp_path / "some.csv").write_text("\n".join(rows))
    seen = []
    done = evaluate(
        runtime, read_labelled(tmp_path / "some.csv", CLASSES), runtime.domain, on_progress=lambda *of: seen.append(of)
    )
    assert [row.label for row in done.answered] == [2, 1] and seen == [(1, 0, 3), (2, 1, 3)]
    ((path, reason),) = done.unreadable
    assert path == str(tmp_path / "bad.jpg") and "is not a readable picture" in reason
    (tmp_path / "some.csv").write_text("bad.jpg,flowers_0")
    with pytest.raises(ImageError, match="none of the 1 photos could be read: .*bad.jpg is not a readable picture"):
        evaluate(runtime, read_labelled(tmp_path / "some.csv", CLASSES), runtime.domain)


# -- scores


def test_scores_are_those_of_scikit_learn(evaluated):
    found = score(evaluated)
    labels = [row.label for row in evaluated.answered]
    answers = [row.answer for row in evaluated.answered]
    assert (found.confusion == metrics.confusion_matrix(labels, answers, labels=[0, 1, 2])).all()
    precision, recall, f1, photos = metrics.precision_recall_fscore_support(
        labels, answers, labels=[0, 1, 2], zero_division=0
    )
    for number, one in enumerate(found.classes):
        assert (one.precision or 0.0) == pytest.approx(precision[number])
        assert one.recall == pytest.approx(recall[number]) and one.f1 == pytest.approx(f1[number])
        assert one.photos == photos[number] and one.name == CLASSES[number]
        assert sum(one.exits) == one.photos
    assert found.top1 == metrics.accuracy_score(labels, answers) and found.correct == sum(found.confusion.diagonal())
    assert found.balanced_accuracy == pytest.approx(metrics.balanced_accuracy_score(labels, answers))
    assert found.macro_f1 == pytest.approx(metrics.f1_score(labels, answers, average="macro"))
    assert found.top5 == 1.0 and found.interval[0] < found.top1 < found.interval[1]


def test_scores_by_exit_and_by_class_add_up(evaluated):
    found = score(evaluated)
    assert [one.exit for one in found.exits] == [0, 1, None] and sum(one.photos for one in found.exits) == 21
    right = sum(one.photos * one.accuracy for one in found.exits if one.photos)
    assert right == pytest.approx(found.correct)
    for costs in (found.exits, found.classes):
        share = sum(one.photos * one.flops_share for one in costs if one.photos) / 21
        assert share == pytest.approx(found.flops_share)
    assert [sum(one.exits[k] for one in found.classes) for k in range(3)] == [one.photos for one in found.exits]
    mean = sum(one.photos * one.latency_ms for one in found.classes) / 21
    assert mean == pytest.approx(found.mean_latency_ms) and found.mean_latency_ms > 0
    assert all(one.blocks[0] == 1 and one.blocks[1] == 0 for one in found.classes)  # block 1 is closed


def test_classes_without_photos_or_answers(evaluated):
    rows = tuple(row._replace(answer=0, rank=2 - (row.label == 0)) for row in evaluated.answered if row.label < 2)
    found = score(evaluated._replace(answered=rows))
    first, second, third = found.classes
    assert (first.precision, first.recall) == (0.5, 1.0)
    assert (second.precision, second.recall, second.f1) == (None, 0.0, 0.0)
    assert (third.photos, third.recall, third.f1, third.latency_ms, third.blocks) == (0, None, None, None, ())
    assert found.balanced_accuracy == 0.5  # of the classes that have photos


def test_top_5(evaluated):
    ranks = [1, 5, 6, 2, 9]
    rows = tuple(row._replace(rank=rank) for row, rank in zip(evaluated.answered, ranks, strict=False))
    assert score(evaluated._replace(answered=rows)).top5 == 3 / 5


@pytest.mark.parametrize(
    ("found", "of", "low", "high"),  # of Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval(found, of, low, high):
    assert wilson_interval(found, of) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(of - found, of) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_reliability_bins():
    sure = np.array([0.0, 0.05, 0.5, 0.999, 1.0])
    bins = reliability(sure, np.array([False, True, True, True, False]))
    assert len(bins) == BINS and [one.photos for one in bins if one.photos] == [2, 1, 2]
    assert bins[0].confidence == pytest.approx(0.025) and bins[0].accuracy == 0.5
    assert (bins[-1].low, bins[-1].high) == (14 / 15, 1.0) and bins[-1].accuracy == 0.5
    assert bins[1].accuracy is None and bins[1].confidence is None
    assert gap_error(bins) == pytest.approx((2 * 0.475 + 1 * 0.5 + 2 * 0.4995) / 5)


# -- comparisons


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (2, 9), (13, 1), (30, 60), (700, 900)])
def test_mcnemar_is_the_binomial_test(b, c):
    wanted = binomtest(b, b + c, 0.5).pvalue if b + c else 1.0
    assert exact_mcnemar(b, c) == pytest.approx(wanted) and exact_mcnemar(c, b) == exact_mcnemar(b, c)


def test_mcnemar_of_many_photos():
    assert exact_mcnemar(2500, 2500) == 1.0 and 0 < exact_mcnemar(2400, 2600) < 0.006


def test_two_sets_of_answers_are_paired():
    labels, answers, others = "aabbb", "abbab", "ababa"
    first = {str(i): Verdict(*pair) for i, pair in enumerate(zip(labels, answers, strict=True))}
    second = {str(i): Verdict(*pair) for i, pair in enumerate(zip(labels, others, strict=True))}
    second["9"] = Verdict("a", "a")
    found = compare(first, second)
    assert found[:6] == (5, 1, 2, 1, 1, 2)  # photos, both, only_first, only_second, neither, same_answer
    assert found.difference == pytest.approx(0.2) and found.p == 1.0
    paired = np.array([0, 0, 1, -1, 1])
    assert found.standard_error == pytest.approx(paired.std() / np.sqrt(5))
    assert compare(second, first).difference == pytest.approx(-0.2)
    with pytest.raises(DataError, match="no photo in common"):
        compare(first, {"7": Verdict("a", "a")})
    with pytest.raises(DataError, match="2 is labelled 'b' in one evaluation and 'a' in the other"):
        compare(first, {"2": Verdict("a", "a")})


def test_photos_that_only_share_a_name_are_not_paired():
    first = {"a/1.jpg": Verdict("a", "a", 10), "a/2.jpg": Verdict("a", "b", 20), "a/3.jpg": Verdict("a", "a", None)}
    second = {"a/1.jpg": Verdict("a", "a", 11), "a/2.jpg": Verdict("a", "a", 20), "a/3.jpg": Verdict("a", "a", 7)}
    assert compare(first, second)[:4] == (2, 1, 0, 1)
    with pytest.raises(DataError, match="no photo in common"):
        compare({"a/1.jpg": first["a/1.jpg"]}, second)


# -- records


def test_a_record_is_read_again(evaluated, tmp_path):
    path = tmp_path / "flowers.json"
    path.write_text(json.dumps(as_record([describe(evaluated)]), allow_nan=False))
    earlier = read_record(str(path))
    assert earlier.verdicts == verdicts(evaluated) and len(earlier.verdicts) == 21
    same = compare(verdicts(evaluated), earlier.verdicts)
    assert (same.photos, same.same_answer, same.difference, same.p) == (21, 21, 0.0, 1.0)


def test_what_a_record_says(evaluated, photos, runtime):
    record = json.loads(json.dumps(as_record([describe(evaluated)], compare(*[verdicts(evaluated)] * 2))))
    assert record["format"] == FORMAT and record["kind"] == "da3 evaluation" and record["comparison"]["p"] == 1.0
    assert {"da3", "python", "numpy", "machine", "onnxruntime"} <= set(record["versions"])
    (one,) = record["evaluations"]
    assert one["domain"]["classes"] == list(CLASSES) and one["domain"]["closed"] == [1]
    assert one["domain"]["exits"] == [rule._asdict() for rule in RULES]
    assert one["bundle"]["blocks"] == ["b0", "b1", "b2"] and one["bundle"]["backbone"] == "synthetic"
    assert one["settings"]["backend"] == "reference" and one["data"]["folder"] == str(photos)
    found = score(evaluated)
    assert one["scores"]["top1"] == found.top1 and one["confusion"] == found.confusion.tolist()
    assert set(one["timing"]["batch_ms"]) == {"p50", "p90", "p99"} and one["timing"]["beside_decoding"] is True
    row, answered = one["photos"][8], evaluated.answered[8]
    assert (photos / row["path"]).is_file() and row["label"] == "flowers_1"
    assert (
        row["bytes"] == (photos / row["path"]).stat().st_size
        and row["correct"] == answered.correct
        and row["exit"] == answered.exit
    )
    assert row["engine_ms"] == pytest.approx(1e3 * answered.engine_s)
    assert sum(n["photos"] for n in one["reliability"]) == sum(n["photos"] for n in one["exits"]) == 21


def test_a_domain_is_known_by_what_it_answers_with(evaluated, runtime):
    def identity():
        return describe(evaluated._replace(domain=runtime.domain))["domain"]["sha256"]

    first = identity()
    runtime.use("flowers")
    assert identity() == first
    runtime.set_exits("flowers", exits=[RULES[0], RULES[1]._replace(threshold=0.7)])
    assert identity() != first
    runtime.set_exits("flowers", exits=RULES)
    assert identity() == first
    weights = dict(runtime.domain.weights, **{"head.bias": runtime.domain.weights["head.bias"] + 1})
    assert describe(evaluated._replace(domain=runtime.domain._replace(weights=weights)))["domain"]["sha256"] != first


def test_what_is_no_record(evaluated, tmp_path):
    record = as_record([describe(evaluated)])
    path = tmp_path / "x.json"
    for text, message in (
        ("{", "x.json is not valid JSON"),
        ("[]", "must be an object"),
        (
            json.dumps(dict(record, kind="other")),
            "x.json is no evaluation: name a file that `da3 evaluate --json` wrote",
        ),
        (json.dumps(dict(record, format=FORMAT + 1)), "written by a newer da3"),
        (json.dumps(dict(record, evaluations=[])), "holds no evaluation"),
        (json.dumps(dict(record, evaluations=[{"photos": [{"path": "a"}]}])), "label is missing"),
    ):
        path.write_text(text)
        with pytest.raises(DataError) as error:
            read_record(str(path))
        assert message in str(error.value)
    with pytest.raises(DataError, match="cannot read"):
        read_record(str(tmp_path / "gone.json"))


def test_rows_as_csv(evaluated, runtime):
    lines = as_csv(evaluated).decode().splitlines()
    assert len(lines) == 22 and lines[0].startswith("path,label,answer,correct,probability,")
    cells = dict(zip(lines[0].split(","), lines[3].split(","), strict=True))
    row = evaluated.answered[2]
    assert cells["path"] == "flowers_0/2.png" and cells["correct"] == str(int(row.correct))
    assert cells["exit"] == ("" if row.exit is None else str(row.exit)) and cells["rank"] == str(row.rank)
    assert float(cells["probability"]) == pytest.approx(row.probability, rel=1e-5)
    other = evaluate(runtime, evaluated.photos, runtime.domain, force_all_blocks=True)
    lines = as_csv(evaluated, other._replace(answered=other.answered[1:])).decode().splitlines()
    cells = [dict(zip(lines[0].split(","), line.split(","), strict=True)) for line in lines[1:3]]
    assert cells[0]["against_answer"] == "" and cells[1]["against_flops_share"] == "1"
    assert cells[1]["against_answer"] == CLASSES[other.answered[1].answer]
