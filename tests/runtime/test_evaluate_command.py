"""`evaluate` as users run it: what it prints and writes, and how it ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from labelled_photos import write_labelled

from da3.runtime.app.commands import main
from da3.runtime.app.progress import Progress
from da3.runtime.bundle import update_domain, write_pack
from da3.runtime.evaluation import as_record, describe, evaluate, read_labelled
from da3.runtime.records import ExitRule

MODULE = ("-m", "da3.runtime", "evaluate")
CLASSES = ("flowers_0", "flowers_1", "flowers_2")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    write_labelled(folder, CLASSES, each=7)
    return folder


@pytest.fixture
def bundle(exits_bundle):
    update_domain(exits_bundle, "flowers", exits=[ExitRule(0.99, 0.5), ExitRule(0.385, 2.0)], closed=[1])
    return exits_bundle


@pytest.fixture
def run(bundle, capsys):
    """run(*words) -> (exit code, stdout, stderr) of `evaluate`, in this process, in numpy."""

    def call(*words, domain="flowers"):
        words = ["evaluate", *map(str, words), "-b", str(bundle), "--backend", "reference", "-d", domain]
        code = main(words, program="da3")
        done = capsys.readouterr()
        return code, done.out, done.err

    return call


def test_what_it_prints(run, photos):
    code, out, err = run(photos)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == f"flowers on {photos}: 21 photos, 3 classes; synthetic at 16 px, reference, fp32"
    top1 = re.match(r"top-1 ([\d.]+) % \((\d+) of 21; 95 % confidence interval ([\d.]+) to ([\d.]+)\)$", lines[2])
    assert float(top1.group(1)) == pytest.approx(100 * int(top1.group(2)) / 21, abs=0.05)
    assert re.search(
        r"^block FLOPs run: \d+\.\d %; left at the exits, in order: \d+, \d+; ran to the end: \d+$", out, re.M
    )
    assert "(engine only, beside " in out and "calibration error" in out and "macro F1" in out
    table = lines[lines.index(next(line for line in lines if line.startswith("class "))) :]
    assert [line.split()[:2] for line in table[1:4]] == [[name, "7"] for name in CLASSES]
    matrix = [[int(n) for n in line.split()[1:]] for line in table[6:9]]
    assert table[5].split() == ["label", "\\", "answer", *CLASSES] and sum(map(sum, matrix)) == 21
    assert sum(matrix[i][i] for i in range(3)) == int(top1.group(2))
    assert "nothing beside it" in run(photos, "--workers", 0)[1]


def test_files(run, photos, tmp_path):
    folder = tmp_path / "new"
    code, out, _ = run(photos, "--json", folder / "x.json", "--csv", folder / "x.csv", "--batch-size", 4)
    record = json.loads((folder / "x.json").read_text())
    assert code == 0 and record["evaluations"][0]["scores"]["photos"] == 21 and "latency per batch of 4" in out
    assert record["comparison"] is None and record["evaluations"][0]["settings"]["batch_size"] == 4
    rows = (folder / "x.csv").read_text().splitlines()
    assert len(rows) == 22 and rows[1].startswith("flowers_0/0.png,flowers_0,")
    code, out, err = run(photos, "--json", "-")
    assert (code, err) == (0, "") and len(json.loads(out)["evaluations"][0]["photos"]) == 21
    assert sorted(os.listdir(folder)) == ["x.csv", "x.json"]  # nothing half-written beside them


def test_a_csv_of_photos_and_what_run_engine_saved(run, bundle, photos, tmp_path, capsys):
    """Answers that nobody corrected are all right."""
    answers = tmp_path / "answers.csv"
    words = ["run-engine", str(photos), "-b", str(bundle), "-d", "flowers", "--backend", "reference"]
    assert main([*words, "--save-csv", str(answers)]) == 0
    capsys.readouterr()
    code, out, _ = run(answers)
    assert code == 0 and "top-1 100.0 % (21 of 21" in out


def test_accuracy_below_what_is_asked(run, photos, tmp_path):
    top1 = 100 * json.loads(run(photos, "--json", "-")[1])["evaluations"][0]["scores"]["top1"]
    assert 0 < top1 < 99
    assert run(photos, "--min-accuracy", top1)[0] == 0
    code, out, err = run(photos, "--min-accuracy", round(top1 + 1, 1), "--json", tmp_path / "x.json")
    assert code == 3 and err == f"error: top-1 is {top1:.2f} %, below --min-accuracy {round(top1 + 1, 1):g}\n"
    assert "top-1" in out and (tmp_path / "x.json").exists()  # what is wrong can be looked at


def test_a_photo_that_cannot_be_read(run, photos, tmp_path):
    folder = tmp_path / "some"
    (folder / "flowers_0").mkdir(parents=True)
    (folder / "flowers_0" / "bad.jpg").write_bytes(b"no picture")
    (folder / "flowers_1").symlink_to(photos / "flowers_1")
    code, out, err = run(folder)
    assert code == 1 and "7 photos" in out
    assert "bad.jpg is not a readable picture" in err and err.endswith("error: 1 of the photos could not be read\n")
    assert run(folder, "--min-accuracy", 100)[0] == 3


def test_against_all_blocks_and_an_earlier_evaluation(run, photos, tmp_path):
    early = tmp_path / "early.json"
    code, out, _ = run(photos, "--against-all-blocks", "--json", early, "--csv", tmp_path / "x.csv")
    record = json.loads(early.read_text())
    first, second = record["evaluations"]
    assert code == 0 and record["comparison"]["photos"] == 21
    assert first["scores"]["flops_share"] < second["scores"]["flops_share"] == 1
    right = [sum(row["correct"] for row in one["photos"]) for one in (first, second)]
    assert record["comparison"]["only_first"] - record["comparison"]["only_second"] == right[0] - right[1]
    side = out[out.index("flowers with exits  flowers all blocks") :]
    assert re.search(r"block FLOPs run +\d+\.\d % +100\.0 %\n", side) and "McNemar's exact test: p = " in side
    assert "against_answer" in (tmp_path / "x.csv").read_text()
    code, out, _ = run(photos, "--against", early, "--json", tmp_path / "now.json", "--force-all-blocks")
    record = json.loads((tmp_path / "now.json").read_text())
    assert code == 0 and record["evaluations"][1] == first
    assert "flowers (" in out and "early.json)" in out
    assert record["comparison"]["difference"] == pytest.approx((right[1] - right[0]) / 21)


def test_against_another_precision_bundle_and_domain(run, bundle, photos, tmp_path, capsys):
    code, out, _ = run(photos, "--against-precision", "fp16")
    assert code == 0 and "flowers fp32  flowers fp16" in out
    pack = write_pack(bundle, "flowers", tmp_path)
    code, out, _ = run(photos, "--against", pack, "--force-all-blocks", "--json", "-")
    assert code == 0 and json.loads(out)["comparison"]["same_answer"] == 21
    code, _, err = run(photos, "--against", "signs")
    assert code == 1 and "unknown class folder 'flowers_0'; known: signs_0" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone"], "no photos at gone: name a folder with a sub-folder per class, or a CSV of path,label"),
        (["PHOTOS", "--json", "PHOTOS"], " is a folder: name a file in it"),
        (["PHOTOS", "--csv", "/dev/null/x.csv"], "--csv: cannot make the folder /dev/null"),
        (["PHOTOS", "--against", "flowers"], "both sides of the comparison are the same"),
        (["PHOTOS", "--against", "gone.json"], "cannot read gone.json"),
        (["PHOTOS", "--against", "gone.json", "--against-all-blocks"], "leave out the other --against options"),
        (["PHOTOS", "--against", "tulips"], "unknown domain 'tulips'; this bundle has: flowers, signs"),
    ],
)
def test_errors_are_one_line(run, photos, words, message):
    code, out, err = run(*[str(photos) if word == "PHOTOS" else word for word in words])
    assert code == 1 and err.startswith("error: ") and message in err and err.count("\n") == 1
    assert out == "" and "Traceback" not in err


@pytest.mark.parametrize("words", [["--min-accuracy", "101"], ["--min-accuracy", "high"], ["--workers", "-1"], []])
def test_wrong_usage_is_2(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evaluate", *(["photos"] if words else []), *words])
    assert stopped.value.code == 2 and "usage: " in capsys.readouterr().err


def test_many_classes_have_their_commonest_mistakes_listed(bundle, photos):
    from da3.runtime import Runtime
    from da3.runtime.app.evaluation_text import render
    from da3.runtime.evaluation import score

    with Runtime(bundle, backend="reference") as runtime:
        done = evaluate(runtime, read_labelled(photos, CLASSES), runtime.use("flowers"))
    names = tuple(f"c{number}\x1b[2J" for number in range(30))
    many = done._replace(
        domain=done.domain._replace(classes=names),
        blocks=done.blocks.repeat(10, axis=0),
        answered=tuple(row._replace(answer=29 if row.label else 0) for row in done.answered),
    )
    text = render(many, score(many))
    assert "\x1b" not in text and "top-5" in text and "label \\ answer" not in text
    listed = text[text.index("commonest mistakes") :].splitlines()
    assert [line.split() for line in listed[1:]] == [
        ["7", "c1\\x1b[2J", "c29\\x1b[2J"],
        ["7", "c2\\x1b[2J", "c29\\x1b[2J"],
    ]


def test_interrupted(package_root, bundle, photos, tmp_path):
    """Ctrl-C ends it at once and leaves no file."""
    folder = tmp_path / "many" / "flowers_0"
    folder.mkdir(parents=True)
    for number in range(20000):
        os.link(photos / "flowers_0" / "0.png", folder / f"{number}.png")
    words = [tmp_path / "many", "-b", bundle, "-d", "flowers", "--backend", "reference", "--json", tmp_path / "x.json"]
    process = subprocess.Popen(
        [sys.executable, *MODULE, *map(str, words)],
        env=dict(os.environ, PYTHONPATH=str(package_root)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        time.sleep(2)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out) == (130, "") and err.strip().endswith("interrupted") and "Traceback" not in err
    assert sorted(os.listdir(tmp_path)) == ["exits", "many"]


def test_progress_in_a_log_and_on_a_terminal(monkeypatch):
    class Stream:
        def __init__(self, tty):
            self.tty, self.text = tty, ""

        def isatty(self):
            return self.tty

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    now = [1000.0]
    monkeypatch.setattr("da3.runtime.app.progress.time.time", lambda: now[0])
    streams = {}
    for name, tty, logged in (("terminal", True, False), ("log", False, True), ("pipe", False, False)):
        streams[name] = Stream(tty)
        now[0] = 1000.0
        progress = Progress(streams[name], 400, "photos", logged=logged)
        for second in range(30):
            now[0] = 1000.0 + second
            progress.show(second * 10, 1)
        progress.end()
    assert streams["log"].text.splitlines()[0] == "30 images done, 1 unreadable, 400 photos"
    assert streams["log"].text.count("\n") == 3 and streams["pipe"].text == ""
    drawn = streams["terminal"].text.split("\r")
    assert drawn[1] == "30 images done, 1 unreadable, 400 photos" and len(drawn) > 25 and drawn[-2].strip() == ""


def test_the_docs_name_every_field(bundle, photos):
    """docs/evaluate.md is what readers of the JSON go by."""
    from da3.runtime import Runtime

    text = (ROOT / "docs" / "evaluate.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+)`", text))
    with Runtime(bundle, backend="reference") as runtime:
        done = evaluate(runtime, read_labelled(photos, CLASSES), runtime.use("flowers"))
    record = as_record([describe(done)])

    def keys(value):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield key
                if key not in ("metrics", "versions"):  # whatever training wrote; names of packages
                    yield from keys(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from keys(inner)

    from da3.runtime.evaluation import Comparison

    assert set(keys(record)) | set(Comparison._fields) <= named
