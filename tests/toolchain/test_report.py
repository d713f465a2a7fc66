"""``da3 report``: what a page says, that it is right, and that nothing foreign gets out of its place."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pytest
import report_sources
import synthetic_bundle
from report_page import Page
from typer.testing import CliRunner

from da3.runtime.bundle import update_domain, write_pack
from da3.runtime.calibration import decide
from da3.runtime.errors import Da3Error
from da3.runtime.training import AdaptorSpec, Progress, Validation, checkpoint
from da3.toolchain.cli.commands import app
from da3.toolchain.errors import ReportError
from da3.toolchain.report import figures, write, write_report
from da3.toolchain.report.drawing import Svg
from da3.toolchain.report.run_folder import read_run
from da3.toolchain.report.sources import read_source
from da3.toolchain.report.words import listed, printable

HOSTILE = ("<script>alert(1)</script>", '"onmouseover="alert(1)', "$\\frac{1}{0}$ \u202egpj.exe \x1b[2J")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Paths of an evaluation of two, a bundle and two runs; shared, so never write into them."""
    return report_sources.write_everything(tmp_path_factory.mktemp("everything"))


@pytest.fixture(scope="module")
def page(made, tmp_path_factory):
    """A function: paths -> the page of their report. A page is made once."""
    pages, folder = {}, tmp_path_factory.mktemp("pages")

    def of(*paths, **options):
        key = (paths, tuple(options.items()))
        if key not in pages:
            to = write_report([str(path) for path in paths], folder / f"{len(pages)}.html", **options)
            pages[key] = Page(to.read_text(encoding="utf-8"))
        return pages[key]

    return of


@pytest.fixture(scope="module")
def everything(made, page):
    return page(*made, pictures=3)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are empty in this test: drawing them takes most of the time."""
    monkeypatch.setattr(figures, "draw", lambda paint, **size: Svg(Element("svg")))


@pytest.fixture
def record(made, tmp_path):
    """The evaluation's record, to be changed, and a function that writes it."""
    found = json.loads(made[0].read_text())

    def put(name="changed.json"):
        path = tmp_path / name
        path.write_text(json.dumps(found))
        return path

    return found, put


# -- every section, and what is in it


def test_an_evaluation_has_every_section(made, page, record):
    found, put = record
    del found["evaluations"][1]
    alone = page(put())
    assert [text for level, text in alone.headings if level == 2] == [
        "Contents",
        "Summary",
        "Right and wrong",
        "How far confidence can be trusted",
        "What answers cost",
        "Exits and blocks by class",
        "Photos",
        "Settings and versions",
    ]
    assert alone.headings[0] == (1, "Evaluation of flowers")
    drawn = {one["aria-label"].split(".")[0] for one in alone.all("div") if one["class"] == "drawing"}
    assert drawn == {
        "Reliability",
        "If only the surest are answered",
        "Accuracy against FLOPs",
        "Accuracy against latency",
        "Latency by exit",
    }


def test_runs_and_bundles_have_theirs(everything):
    titles = Counter(text for level, text in everything.headings if level == 3)
    for title in ("Training curves", "Memory and speed", "What exits can give", "Where photos leave"):
        assert titles[title] == 2, title  # of two runs
    for title in ("Figures side by side", "Runs compared", "Backbone", "Domain flowers", "Domain signs"):
        assert titles[title] == 1, title
    figures = [text for level, text in everything.headings if level == 4]
    for title in (
        "Loss",
        "Accuracy",
        "Share of the block FLOPs",
        "Memory over time",
        "Photos a second",
        "Where the work is",
    ):
        assert title in figures, title
    contents = [one["href"] for one in everything.all("a") if one["href"] and one["href"] != "#main"]
    ids = {one["id"] for one in everything.elements}
    assert len(contents) > 40 and {href[1:] for href in contents} <= ids


def test_figures_are_those_of_the_record(made, page, record, undrawn):
    found, put = record
    one = found["evaluations"][0]
    del found["evaluations"][1]
    shown = page(put("figures.json"), pictures=3)
    scores = one["scores"]
    assert f"{scores['correct']} of 21 photos are named right: {100 * scores['top1']:.1f} %" in shown.text
    matrix = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in shown.table("Confusion matrix")[1:]]
    assert matrix == one["confusion"]
    for row, expected in zip(shown.table("By class")[1:], one["classes"], strict=True):
        assert row[0] == expected["name"] and row[3] == f"{100 * expected['recall']:.1f} %"
        assert row[5] == f"{100 * expected['flops_share']:.1f} %"
    blocks = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in shown.table("Blocks by class")[1:]]
    assert blocks == [[round(100 * share) for share in row["blocks"]] for row in one["classes"]]
    assert any(row[1] == 0 for row in blocks) and len({tuple(row) for row in blocks}) > 1
    left = [int(row[2]) for row in shown.table("Where photos leave")[1:]]
    assert left == [row["photos"] for row in one["exits"]] and sum(left) == 21
    bins = [row for row in one["reliability"] if row["photos"]]
    shown_bins = shown.table("Photos by confidence")[1:]
    assert [(int(row[1]), row[3]) for row in shown_bins] == [
        (b["photos"], f"{100 * b['accuracy']:.1f} %") for b in bins
    ]


def test_what_looks_strange_is_told(page, record, undrawn):
    found, put = record
    one = found["evaluations"][0]
    foreign = {"source": "others", "photos": 40, "known": 4, "area_under_curve": 0.9712, "unreadable": []}
    for unknown, told in (
        (None, None),
        ({"limit": 0.05, "photos": 3, "correct": 2, "foreign": None}, "14.3 % of the photos are said to be unknown"),
        ({"limit": 0.05, "photos": 3, "correct": 2, "foreign": foreign}, "90.0 % are said to be unknown (area under"),
    ):
        one["unknown"] = unknown
        shown = page(put(f"{len(told or '')}.json"), pictures=0).text.replace("\u00a0", " ")
        assert ("unknown" in shown) == (told is not None)
        assert told is None or told in shown
    assert "the curve 0.971)" in shown


def test_a_runs_answers_are_those_of_its_last_epoch(made, page, undrawn):
    facts = read_run(str(made[2]), Path("runs"))
    validation = report_sources.run_answers()
    calibrated = validation.calibrated(0.7)
    left = decide(validation.logits, calibrated.exits)
    assert len(set(left.tolist())) > 1  # or nothing is compared
    rows = facts.judged.evaluation.answered
    assert [2 if row.exit is None else row.exit for row in rows] == left.tolist()
    right = validation.logits.argmax(axis=2)[np.arange(len(left)), left] == validation.labels
    assert [row.correct for row in rows] == right.tolist()
    assert facts.levels.chosen.accuracy == pytest.approx(right.mean())
    cheapest = min(point.cost for point in facts.levels.curve if point.accuracy >= facts.levels.answers[-1].accuracy)
    assert f"loses nothing on these photos runs {100 * cheapest:.1f} %" in page(made[2], pictures=0).text
    assert facts.levels.chosen.flops_share == pytest.approx(report_sources.COSTS[left].mean())
    # Block 2 is closed; blocks behind an exit run for those alone that did not leave there.
    ran = facts.judged.evaluation.blocks.sum(axis=0)
    assert ran[2] == 0 and ran[0] == ran[5] == len(left)
    assert ran[6] == ran[9] == (left > 0).sum() and ran[10] == ran[16] == (left > 1).sum()
    assert [row.blocks_run for row in rows] == [[5, 9, 16][where] for where in left]
    assert rows[0].path == "val/daisy/0.png" and facts.judged.folder == str(made[2].parents[1] / "run-photos")


def test_the_worst_mistakes_come_first(made, page, record, undrawn):
    found, put = record
    del found["evaluations"][1]
    shown = page(put("worst.json"), pictures=48)
    wrong = [row for row in found["evaluations"][0]["photos"] if not row["correct"]]
    wrong.sort(key=lambda row: (row["label_probability"] - row["probability"], row["path"]))
    items = [one.text.replace("\u00a0", " ") for one in shown.all("li") if one["class"] == "wrong"]
    first = items[: len(wrong)]
    assert len(wrong) > 3 and all(row["path"] in text for row, text in zip(wrong, first, strict=True))
    assert f"{wrong[0]['answer']} {100 * wrong[0]['probability']:.1f} %" in first[0]
    galleries = [one for one in shown.all("ul") if one["class"] == "gallery"]
    assert len(galleries) == 3
    assert all(one["src"].startswith("data:image/jpeg;base64,") for one in shown.all("img"))


def test_side_by_side(made, everything, record):
    found, _ = record
    paired, (first, second) = found["comparison"], found["evaluations"]
    told = everything.text
    if paired["only_first"] == paired["only_second"] == 0:
        assert "have the same 21 photos right" in told
    else:
        assert f"only the first has {paired['only_first']} right, only the second {paired['only_second']}" in told
        assert f"p = {paired['p']:.3f}" in told
    rows = {row[0]: row[1:] for row in everything.table("Figures")}
    assert [cell.split(" ")[0] for cell in rows["right"]] == [
        f"{100 * one['scores']['top1']:.1f}" for one in (first, second)
    ]
    assert rows["block FLOPs run"][0].endswith("★") and rows["block FLOPs run"][1] == "100.0 %"
    assert ["force all blocks", "no", "yes"] in everything.table("Settings that differ")
    runs = Page(everything.html[everything.html.index(">Runs compared</bdi></h3>") :])
    assert ["lr", "0.004", "0.001"] in runs.table("Settings that differ")


def test_a_bundle_tells_what_was_calibrated(made, page, undrawn):
    shown = page(made[1], pictures=0)
    assert "With exits 80.0 % at 70.0 % of the block FLOPs, -2.0 points from every block." in shown.text
    assert "75.0 % at the same cost" in shown.text and "3.21 ms" in shown.text
    assert shown.table("Exits")[2][2:4] == ["0.3850", "30.0 %"]
    rows = shown.table("Blocks")
    assert [row[0] for row in rows[1:] if row[4] == "closed"] == ["1"]


def test_a_pack_is_told_of_without_its_backbone(made, page, tmp_path, undrawn):
    pack = write_pack(made[1], "flowers", tmp_path)
    shown = page(pack)
    assert shown.headings[0] == (1, "Pack flowers.da3") and "Backbone" not in [text for _, text in shown.headings]
    assert shown.table("Exits")[1][2] == "0.9900"


def test_a_zipped_bundle_and_one_of_before_there_were_exits(page, tmp_path, undrawn):
    report_sources.write_bundle(tmp_path / "new")
    synthetic_bundle.write_bundle(tmp_path / "old", domains=("flowers",))
    shown = page(shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path / "new"))
    assert "serves 2 domains: flowers and signs" in shown.text
    shown = page(tmp_path / "old")
    assert "flowers: 50.0 % of its validation photos are named right" in shown.text
    assert [one.text for one in shown.all("caption") if one.text == "Exits"] == []


def test_a_run_of_another_method(tmp_path, page, undrawn):
    """No exits, and no blocks that could be closed."""
    answers = report_sources.run_answers()
    run = report_sources.write_run(tmp_path / "run", tmp_path / "photos", method="finetune", adaptor=AdaptorSpec())
    last = Validation(answers.logits[:, -1:], answers.labels, np.ones(1))
    (run / "validation.npz").write_bytes(last.file())
    facts = checkpoint.read_facts(run / "last.safetensors")
    facts.progress.calibration = None
    for name in ("last.safetensors", "best.safetensors"):
        checkpoint.write(run / name, facts.config, facts.progress, {"weight": np.zeros(2, np.float32)}, {})
    shown = page(run, pictures=1)
    right = 100 * last.scores()["val_accuracy"]
    assert f"reached {right:.1f} % on its validation photos" in shown.text and len(shown.all("img")) >= 2
    titles = [text for _, text in shown.headings]
    assert "Exits and blocks by class" not in titles and "What exits can give" not in titles


def test_a_run_that_has_just_begun(tmp_path, page, undrawn):
    run = report_sources.write_run(tmp_path / "run", tmp_path / "photos")
    config = checkpoint.read_facts(run / "last.safetensors").config
    shutil.rmtree(run)
    checkpoint.write(run / "last.safetensors", config, Progress(), {"closed": np.zeros(2, np.float32)}, {})
    shown = page(run)
    assert "No epoch of flowers is finished and good for deployment yet: 0 of 3 are done." in shown.text
    assert "its last epoch is not finished" in shown.text


def test_a_name_that_is_several_things(made, tmp_path, monkeypatch, undrawn):
    """What is at the path itself goes before the run of that name, and a folder of photos is neither."""
    monkeypatch.chdir(tmp_path)
    report_sources.write_run(tmp_path / "runs" / "flowers", tmp_path / "photos", epochs=2)
    report_sources.write_run(tmp_path / "flowers", tmp_path / "photos", epochs=5)
    assert read_source("flowers", Path("runs")).found.run.config.epochs == 5
    shutil.rmtree(tmp_path / "flowers")
    (tmp_path / "flowers").mkdir()
    assert read_source("flowers", Path("runs")).found.run.config.epochs == 2


def test_many_photos(made, record, page, tmp_path):
    """A hundred times as many photos make no larger page."""
    found, put = record
    del found["evaluations"][1]
    few = page(put("few.json"), pictures=1)
    rows = found["evaluations"][0]["photos"]
    random = np.random.RandomState(0)
    found["evaluations"][0]["photos"] = [
        dict(row, path=f"{i}/{row['path']}", probability=float(random.uniform()), engine_ms=float(random.uniform()))
        for i in range(200)
        for row in rows
    ]
    many = page(put("many.json"), pictures=1)
    assert "of 4,200 photos are named right" in many.text and len(many.html) < 2 * len(few.html)


def test_many_classes(page, record):
    """Then the matrix is a figure, and the commonest mistakes are listed."""
    found, put = record
    one = found["evaluations"][0]
    del found["evaluations"][1]
    one["domain"]["classes"] += [f"extra {i}" for i in range(300)]
    one["classes"] += [dict(one["classes"][0], name=f"extra {i}", photos=0, blocks=[]) for i in range(300)]
    shown = page(put("many.json"), pictures=0)
    drawn = [one["aria-label"] for one in shown.all("div") if one["class"] == "drawing"]
    assert any(text.startswith("Confusion matrix") for text in drawn) and len(shown.html) < 600_000
    assert len(shown.table("By class")) == 201 and "The 200 classes with the most photos, of 303" in shown.text
    assert len(shown.table("Commonest mistakes")) > 1


# -- whoever reads it, with whatever


def test_ids_are_unique_and_lead_somewhere(everything):
    ids = [one["id"] for one in everything.elements if one["id"]]
    assert len(ids) > 100 and [name for name, times in Counter(ids).items() if times > 1] == []
    for one in everything.elements:
        for name in ("aria-labelledby", "href", "clip-path"):
            target = one[name]
            if target and not target.startswith("data:"):
                target = target.removeprefix("url(").removesuffix(")").removeprefix("#")
                assert target in ids, (one.tag, name, target)


def test_headings_are_in_order(everything, page, made):
    for shown in (everything, page(made[1], pictures=0)):
        levels = [level for level, _ in shown.headings]
        assert levels.count(1) == 1 and levels[0] == 1
        assert [(a, b) for a, b in pairwise(levels) if b > a + 1] == []
        assert all(text for _, text in shown.headings)


def test_a_screen_reader_is_told_everything(everything):
    assert everything.all("html")[0]["lang"] == "en"
    for one in everything.elements:
        if one["role"] in ("img", "region"):
            assert one["aria-label"] or one["aria-labelledby"], one.attributes
        if one.tag == "img":
            assert len(one["alt"]) > 10 and one["width"] and one["height"]
        if one.tag == "th":
            assert one["scope"] in ("col", "row")
        if one["class"] and one["class"].startswith("scroll"):
            assert one["tabindex"] == "0"
    for one in everything.all("div"):
        if one["class"] == "drawing":
            assert one["aria-label"].count(".") >= 2 and any(c.isdigit() for c in one["aria-label"])
    assert len(everything.all("caption")) == len(everything.all("table")) > 20


def test_it_asks_nobody_for_anything(everything):
    html = everything.html
    assert "http:" not in html and "https:" not in html and "url(//" not in html and "@import" not in html
    assert everything.all("script", "iframe", "object", "embed", "form") == []
    assert [one["href"] for one in everything.all("link")] == ["data:,"]
    policy = next(one["content"] for one in everything.all("meta") if one["http-equiv"])
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert {one["src"].split(":")[0] for one in everything.all("img")} == {"data"}


def test_the_same_input_gives_the_same_bytes(made, tmp_path):
    """In another process too: nothing hangs on the order of a set, on the clock, or on a user's matplotlibrc."""
    first = write_report([str(made[1])], tmp_path / "a.html").read_bytes()
    (tmp_path / "matplotlibrc").write_text("axes.linewidth: 9\nsvg.fonttype: path\n")
    code = "import sys, pathlib; from da3.toolchain.report import write_report\n"
    code += "write_report([sys.argv[1]], pathlib.Path(sys.argv[2])); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(made[1]), str(tmp_path / "b.html")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path)},
    )
    assert done.stdout == "False\n", done.stderr  # no PyTorch
    assert (tmp_path / "b.html").read_bytes() == first


# -- foreign names, and files that are not what they should be


def test_hostile_names_stay_text(page, record, undrawn):
    found, put = record
    text = json.dumps(found)
    for name, hostile in zip(report_sources.CLASSES, HOSTILE, strict=True):
        text = text.replace(json.dumps(name), json.dumps(hostile))
    path = put("hostile.json")
    changed = json.loads(text)
    changed["evaluations"][0]["photos"][0]["path"] = "<img src=x onerror=alert(1)>.png"
    changed["evaluations"][0]["settings"]["backend"] = "<b>x</b>"
    path.write_text(json.dumps(changed))
    shown = page(path)
    assert shown.all("script", "b") == [] and not any(
        name.startswith("on") for e in shown.elements for name in e.attributes
    )
    assert HOSTILE[0] in shown.text and HOSTILE[1] in shown.text and "<b>x</b>" in shown.text
    assert "$\\frac{1}{0}$ \\u202egpj.exe \\x1b[2J" in shown.text
    assert "\u202e" not in shown.html and "\x1b" not in shown.html


def test_hostile_names_in_figures():
    """matplotlib takes $ for mathematics, SVG may be broken out of, and an id be taken for another's."""
    names = ["$\\bad{$ </svg><b>", 'id="f1-0" #f1-0']
    drawn = Page(
        f"<body>{figures.lines([figures.Line(name, [1, 2], [3, 4]) for name in names], 'x', 'y').markup('f1-')}"
    )
    assert drawn.all("b", "style") == [] and set(names) <= {one.text for one in drawn.all("text")}
    assert "DejaVu" not in drawn.html and "#0101" not in drawn.html  # fonts and colours are the page's


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda e: e["photos"][0].update(label="none"), "photos[0]: label 'none' is none of the domain's classes"),
        (lambda e: e["photos"][0].update(probability=1.5), "probability must be from 0 to 1, not 1.5"),
        (lambda e: e["photos"][0].update(probability=10**400), "too large a number"),
        (lambda e: e["photos"][0].update(exit=9), "exit must be from 0 to 1, not 9"),
        (lambda e: e["photos"][0].update(rank=0), "rank must be from 1 to 3, not 0"),
        (lambda e: e["photos"][0].update(engine_ms=-1), "engine_ms must be a finite number, not below 0"),
        (lambda e: e["photos"].clear(), "photos is empty"),
        (lambda e: e["domain"].update(classes=["a", "a"]), "classes must be different names"),
        (lambda e: e["classes"].pop(), "classes must have an entry for each of the domain's 3 classes"),
        (lambda e: e["classes"][0].update(blocks=[1]), "blocks must hold a share, 0 to 1, for each of the 5 blocks"),
        (lambda e: e["classes"][0].update(blocks=["x"] * 5), "blocks must hold a share"),
        (lambda e: e.update(timing=3), "timing must be an object, not 3"),
        (lambda e: e.pop("bundle"), "bundle is missing"),
        (
            lambda e: e.update(unknown={"limit": 0.05, "photos": 22, "correct": 0}),
            "photos must be from 0 to 21, not 22",
        ),
    ],
)
def test_a_wrong_record_ends_in_one_line(change, told, record, tmp_path):
    found, put = record
    change(found["evaluations"][0])
    with pytest.raises(Da3Error) as caught:
        write_report([str(put())], tmp_path / "x.html")
    assert told in str(caught.value).replace("the 3 blocks", "the 5 blocks") and "\n" not in str(caught.value)
    assert not (tmp_path / "x.html").exists()


def test_what_is_no_answers_of_a_run(made, tmp_path, undrawn):
    run = report_sources.write_run(tmp_path / "run", tmp_path / "photos")
    answers = run / "validation.npz"
    good = answers.read_bytes()
    for bad in (b"", b"no zip", good[: len(good) // 2]):
        answers.write_bytes(bad)
        with pytest.raises(Da3Error, match=r"validation\.npz is damaged: train again, or delete it"):
            write_report([str(run)], tmp_path / "x.html")
    for change in ({"logits": np.zeros((3, 3, 9), "f4")}, {"labels": np.full(30, 7)}, {"cost": np.array([np.nan] * 3)}):
        with np.load(made[2] / "validation.npz") as arrays:
            np.savez(answers, **{**arrays, **change})
        with pytest.raises(Da3Error, match="is damaged"):
            write_report([str(run)], tmp_path / "x.html")
    answers.unlink()
    shown = Page(write_report([str(run)], tmp_path / "x.html").read_text())
    assert "There are no answers to validation photos to look at: validation.npz is not in its folder." in shown.text


def test_photos_that_are_gone_are_said(made, page, record, tmp_path, undrawn):
    found, put = record
    del found["evaluations"][1]
    folder = found["evaluations"][0]["data"]["folder"]
    found["evaluations"][0]["data"]["folder"] = str(tmp_path / "gone")
    path = put("gone.json")
    shown = page(path, pictures=2)
    assert shown.all("img") == [] and "photos cannot be shown (there is no photo at " in shown.text
    assert "no photo at hand" in shown.text
    assert len(page(path, pictures=2, photos=folder).all("img")) >= 5
    assert page(path, pictures=0).all("img") == []


def test_only_photos_are_opened(record, page, tmp_path, undrawn):
    """A record names files: a pipe would wait for ever, and a device never end."""
    found, put = record
    del found["evaluations"][1]
    one = found["evaluations"][0]
    os.mkfifo(tmp_path / "pipe.png")
    one["data"]["folder"] = str(tmp_path)
    names = ["pipe.png", "/dev/zero", "nul\0.png", "changed.json"]
    one["photos"] = [dict(row, path=name) for row, name in zip(one["photos"], names, strict=False)]
    shown = page(put(), pictures=9)
    assert shown.all("img") == [] and "4 photos cannot be shown" in shown.text


def test_other_photos_than_a_run_was_validated_on(made, tmp_path, page, undrawn):
    photos = tmp_path / "photos"
    run = report_sources.write_run(tmp_path / "run", photos)
    (photos / "val" / "daisy" / "0.png").unlink()
    shown = page(run, pictures=2)
    assert "are not those that the run was validated on" in shown.text and shown.all("img") == []
    assert len(page(run, pictures=2, photos=str(made[2].parents[1] / "run-photos")).all("img")) >= 4


# -- the command


def da3(*words):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["report", *map(str, words)])


def test_the_command(made, tmp_path, undrawn):
    done = da3("flowers", "--runs", made[2].parent, "--out", tmp_path / "new" / "x.html", "--pictures", 1)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"wrote {tmp_path / 'new' / 'x.html'} (0.")
    assert os.listdir(tmp_path / "new") == ["x.html"]  # nothing half-written beside it


def test_what_cannot_be_reported_of(made, tmp_path):
    out = tmp_path / "x.html"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.json").write_text("no JSON")
    (tmp_path / "other.json").write_text('{"format": 1}')
    for path, told in (
        (tmp_path / "nowhere", "there is nothing at .*nowhere, and no run of that name in runs: name a run's folder"),
        (tmp_path / "empty", "nothing to report of in the folder .*empty: name a run's folder"),
        (made[2].parent, "nothing to report of .*; in it there are flowers, longer$"),
        (tmp_path / "text.json", "is not valid JSON"),
        (tmp_path / "other.json", "is no evaluation: name a file that `da3 evaluate --json` wrote"),
    ):
        with pytest.raises(Da3Error, match=told):
            write_report([str(path)], out)
    for options, told in (
        ({"pictures": 99}, "--pictures 99: use a number from 0 to 48"),
        ({"pictures": -1}, "--pictures -1"),
    ):
        with pytest.raises(ReportError, match=told):
            write_report([str(made[1])], out, **options)
    with pytest.raises(ReportError, match=r"--out .* is a folder: name a file in it, such as .*report\.html"):
        write_report([str(made[1])], tmp_path)
    with pytest.raises(ReportError, match="is what the report is of: name another file"):
        write_report([str(made[0])], made[0])
    assert not out.exists()


def test_a_domain_that_cannot_be_read_hides_no_other(tmp_path, page, undrawn):
    bundle = report_sources.write_bundle(tmp_path / "bundle")
    (bundle / "domains" / "signs" / "weights.safetensors").write_bytes(b"damaged")
    shown = page(bundle)
    assert "Not told of: " in shown.text and "flowers: 50.0 % of its validation photos" in shown.text


def test_a_report_that_fails_leaves_the_old_one(made, tmp_path, monkeypatch):
    out = tmp_path / "x.html"
    out.write_text("old")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "render", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report([str(made[1])], out)
    assert out.read_text() == "old" and os.listdir(tmp_path) == ["x.html"]


@pytest.mark.parametrize("missing", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named(missing, made, tmp_path, monkeypatch):
    find = write.importlib.util.find_spec
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(ReportError, match=rf"a report needs {missing}: pip install 'da3\[report\]'"):
        write_report([str(made[1])], tmp_path / "x.html")


def test_a_domain_of_odd_metrics(tmp_path, page, undrawn):
    """A pack says what its maker wrote."""
    bundle = report_sources.write_bundle(tmp_path / "bundle")
    odd = {"cross_fit": {"accuracy": "high", "left": 3, "calibration_errors": [None]}, "goal": 7, "photos": {}}
    update_domain(bundle, "flowers", calibration=odd, metrics={"val_accuracy": [1], "<i>": "<u>"})
    shown = page(bundle)
    assert "its accuracy was not written down" in shown.text and shown.all("i", "u") == []


def test_words():
    assert listed([]) == "" and listed(["a"]) == "a" and listed(["a", "b"]) == "a and b"
    assert listed(list("abcdefgh"), 3) == "a, b and 6 more"
    assert printable("a\u00a0b\n\u202e\udc80\x07") == "a\u00a0b\n\\u202e\\udc80\\x07"
    assert printable("\U0001f468\u200d\U0001f33e") == "\U0001f468\u200d\U0001f33e"  # a farmer, of two signs and a joint
