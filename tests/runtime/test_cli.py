"""The command line: what it says in this process, and what takes one of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial

import numpy as np
import pytest
from in_process import runtime
from PIL import Image
from synthetic_bundle import images

from da3.runtime import Runtime
from da3.runtime.app import commands
from da3.runtime.app.commands import COMMANDS, main, parser
from da3.runtime.bundle.packs import update_domain
from da3.runtime.records import ExitRule
from da3.runtime.system.versions import VERSION

MODULE = ("-m", "da3.runtime")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.RandomState(0)
    for i in range(3):
        Image.fromarray(rng.randint(0, 255, (40, 30, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def da3(built):
    def run(*arguments, domain="flowers", call=runtime, **kwargs):
        domain = ["--domain", domain] if domain else []
        return call(*arguments, "--bundle", built[0], *domain, **kwargs)

    return run


def test_text(da3, call, photos):
    done = da3(photos, call=partial(call, *MODULE))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{photos}/0.png: flowers_") and "blocks run" in lines[0]
    assert "decoding excluded" in done.stdout and "images/s" in done.stdout and "p99" in done.stdout
    assert "block FLOPs skipped" in done.stdout and done.stderr == ""
    assert da3("run", photos).stdout.splitlines()[0] == lines[0]


def test_json_and_nothing_else(da3, photos):
    done = da3(photos, "--json", "--top-k", "2", "--repeat", "3", "--batch-size", "2")
    assert done.returncode == 0 and done.stderr == ""
    answer = json.loads(done.stdout)
    assert [os.path.basename(p["path"]) for p in answer["predictions"]] == ["0.png", "1.png", "2.png"]
    for row in answer["predictions"]:
        assert row["blocks_run"] + row["blocks_skipped"] == 3 and row["exit"] is None
        assert row["top_k"][0] == {"label": row["label"], "probability": row["probability"]}
        assert len(row["top_k"]) == 2
    assert set(answer["latency_ms"]) == {"p50", "p90", "p99"} and answer["latency_ms"]["p50"] > 0
    assert 0 < answer["flops_share"] <= 1 and answer["skipped_files"] == []


@pytest.mark.parametrize(
    ("options", "batches", "inferences", "timed"),
    [
        ([], [1, 1, 1], 3, 3),
        (["--batch-size", "2"], [2, 1], 2, 2),
        (["--repeat", "4"], [1, 1, 1], 1 + 3 * 4, 12),
        (["--repeat", "2", "--warmup", "3", "--batch-size", "2"], [2, 1], 2 * (3 + 2), 4),
        (["--warmup", "2"], [1, 1, 1], 2 + 3, 3),
        (["--repeat", "2", "--warmup", "0"], [1, 1, 1], 6, 6),
    ],
)
def test_a_photo_is_run_once_unless_it_is_measured(
    options, batches, inferences, timed, built, photos, monkeypatch, capsys
):
    sizes = []
    real = Runtime.run_batch

    def counted(self, batch, *arguments):
        sizes.append(len(batch))
        return real(self, batch, *arguments)

    monkeypatch.setattr(Runtime, "run_batch", counted)
    words = [str(photos), "-b", str(built[0]), "-d", "signs", "--backend", "reference", *options]
    assert main(["run-engine", *words]) == 0
    assert len(sizes) == inferences and set(sizes) == set(batches)
    assert (f"({timed} runs; engine only" in capsys.readouterr().out) or timed == 1


def test_one_run_is_called_one(built, photos, capsys):
    assert main([str(photos / "0.png"), "-b", str(built[0]), "-d", "signs", "--backend", "reference"]) == 0
    assert "(1 run; engine only" in capsys.readouterr().out


def test_images_may_stand_around_options(da3, photos):
    done = da3("run-engine", photos / "0.png", "--json", photos / "1.png", "--top-k", 2, photos / "2.png")
    assert [os.path.basename(p["path"]) for p in json.loads(done.stdout)["predictions"]] == ["0.png", "1.png", "2.png"]
    done = da3(photos / "0.png", "--json", "--nope", photos / "1.png")
    assert done.returncode == 2 and "unrecognized arguments: --nope" in done.stderr


def test_version(call):
    assert call(*MODULE, "--version").stdout == f"da3 {VERSION}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.name)
def test_help_is_in_the_words_of_the_program(call, command):
    done = runtime(command.name, "--help")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: python -m da3.runtime {command.name} ")
    assert command.help in done.stdout and f"Example: python -m da3.runtime {command.name} " in done.stdout
    assert parser(command, "da3 x").format_help().startswith("usage: da3 x ")
    assert command.name == "run-engine" or f"python -m da3.runtime {command.name}" in runtime("--help").stdout


def test_force_all_blocks(da3, photos):
    answer = json.loads(da3(photos, "--json", "--force-all-blocks").stdout)
    assert answer["flops_share"] == 1.0
    assert all(p["blocks_skipped"] == 0 for p in answer["predictions"])


def test_stdin_and_glob(da3, photos):
    expected = json.loads(da3(f"{photos}/*.png", "--json").stdout)["predictions"]
    listed = "".join(f"{photos}/{i}.png\n" for i in range(3))
    assert json.loads(da3("-", "--json", input=listed).stdout)["predictions"] == expected
    done = da3("-", input="")
    assert done.returncode == 1 and "error: no images: - gave none" in done.stderr


def test_npy(da3, tmp_path, photos):
    np.save(tmp_path / "batch.npy", images(3))
    rows = json.loads(da3(tmp_path / "batch.npy", "--json").stdout)["predictions"]
    assert [r["path"] for r in rows] == [f"{tmp_path}/batch.npy[{i}]" for i in range(3)]
    pictures = np.stack([np.asarray(Image.open(photos / f"{i}.png")) for i in range(3)])
    np.save(tmp_path / "uint8.npy", pictures)
    rows = json.loads(da3(tmp_path / "uint8.npy", "--json").stdout)["predictions"]
    expected = json.loads(da3(photos, "--json").stdout)["predictions"]
    assert [dict(r, path="") for r in rows] == [dict(r, path="") for r in expected]
    np.save(tmp_path / "odd.npy", np.zeros((2, 5)))
    done = da3(tmp_path / "odd.npy")
    assert done.returncode == 1 and "odd.npy: expected images of shape" in done.stderr
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    assert "cannot read" in da3(tmp_path / "pickle.npy").stderr


def test_a_corrupt_image_among_good_ones(da3, photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    done = da3(photos / "0.png", tmp_path / "bad.jpg", photos / "1.png", "--json")
    assert done.returncode == 1 and "bad.jpg is not a readable picture" in done.stderr
    answer = json.loads(done.stdout)
    assert len(answer["predictions"]) == 2
    assert [f["path"] for f in answer["skipped_files"]] == [str(tmp_path / "bad.jpg")]
    done = da3(tmp_path / "bad.jpg", "--json")
    assert done.returncode == 1 and done.stdout == "" and "none of the 1 images could be read" in done.stderr


def test_errors_are_one_line(da3, call, photos, tmp_path):
    for done, message in (
        (da3(photos, domain="flwers"), "unknown domain 'flwers'; this bundle has: flowers, signs"),
        (da3(photos, domain=None), "which domain? This bundle has: flowers, signs"),
        (da3(tmp_path / "gone.jpg"), "no such file or folder"),
        (runtime(photos, "--bundle", tmp_path / "nowhere"), "the path does not exist"),
    ):
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("error: ") and message in done.stderr
        assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    assert "Traceback" in da3(photos, "--debug", domain="flwers").stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["x.jpg", "--top-k", "0"], ["x.jpg", "--batch-size", "many"], ["x.jpg", "--nope"], ["domains"]],
)
def test_wrong_usage_is_2(call, arguments):
    done = call(*MODULE, *arguments)
    assert done.returncode == 2 and done.stdout == "" and "usage:" in done.stderr


def test_domains(call, bundle, tmp_path, photos):
    def domains(*words):
        return runtime("domains", *words, "--bundle", bundle)

    def names():
        return [line.split()[0] for line in domains("list").stdout.splitlines()]

    assert names() == ["flowers", "signs"]
    assert domains("pack", "flowers", "--out", tmp_path).returncode == 0
    assert domains("remove", "flowers").stdout == "removed flowers\n"
    assert domains("remove", "flowers").returncode == 1
    # A pack runs without being added; then the only domain left is the default.
    done = runtime(photos, "--bundle", bundle, "--domain", tmp_path / "flowers.da3")
    assert done.returncode == 0 and "flowers_" in done.stdout
    assert "signs_" in runtime(photos, "--bundle", bundle).stdout
    assert domains("add", tmp_path / "flowers.da3").stdout == "added flowers\n"
    assert "already has a domain" in domains("add", tmp_path / "flowers.da3").stderr
    assert domains("add", tmp_path / "flowers.da3", "--replace").returncode == 0
    assert names() == ["flowers", "signs"]


def test_domains_list(call, bundle, monkeypatch):
    """Names first, for scripts; a domain that cannot be read does not hide the others; class names do no harm."""
    path = bundle / "domains" / "signs" / "domain.json"
    content = json.loads(path.read_text())
    content["classes"][0] = "red fox \u00e9"
    content["metrics"] = {"val_accuracy": 0.917, "flops_share": "no number"}
    path.write_text(json.dumps(content))
    done = runtime("domains", "list", "-b", bundle)
    assert done.returncode == 0
    flowers, signs = done.stdout.splitlines()
    assert flowers.startswith("flowers  ") and "threshold" in flowers and " px" in flowers
    assert signs.startswith("signs ") and "4 classes: red fox \u00e9" in signs
    assert "accuracy 91.7 %" in signs and "block FLOPs run -" in signs
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    narrow = call(*MODULE, "domains", "list", "-b", bundle)
    assert narrow.returncode == 0 and "fox \\xe9" in narrow.stdout
    content["classes"][0] = "\x1b[2Jred\nfox"
    for damaged in (json.dumps(content), "{}"):
        path.write_text(damaged)
        done = runtime("domains", "list", "-b", bundle)
        flowers, signs = done.stdout.splitlines()
        assert done.returncode == 1 and flowers.startswith("flowers  ")
        assert signs.startswith("signs    cannot be read: ") and "\x1b" not in signs
        assert done.stderr.startswith("error: signs cannot be read: ") and done.stderr.count("\n") == 1


def test_where_a_picture_left(call, exits_bundle, photos):
    update_domain(exits_bundle, "flowers", exits=[ExitRule(None), ExitRule(0.0)], closed=[1])
    update_domain(exits_bundle, "signs", exits=[ExitRule(None), ExitRule(1.0)], closed=[1, 2])
    for options, wanted in (
        (["flowers"], "(left at the 2nd of 2 exits; 1 blocks run, 2 skipped)"),
        (["flowers", "--force-all-blocks"], "(3 blocks run, 0 skipped)"),
        (["signs"], "(1 blocks run, 2 skipped)"),
    ):
        done = runtime(photos, "-b", exits_bundle, "-d", *options)
        assert done.returncode == 0, done.stderr
        assert all(line.endswith(wanted) for line in done.stdout.splitlines()[:3])
    answer = json.loads(runtime(photos, "-b", exits_bundle, "-d", "flowers", "--json").stdout)
    assert answer["exits"] == 2 and [p["exit"] for p in answer["predictions"]] == [1] * 3
    assert answer["flops_share"] == pytest.approx(120 / 600)
    flowers, signs = runtime("domains", "list", "-b", exits_bundle).stdout.splitlines()
    assert "1 of 2 exits used, 1 block closed" in flowers and "1 of 2 exits used, 2 blocks closed" in signs


def test_doctor(call, built, bundle):
    done = call(*MODULE, "doctor", "--bundle", built[0])
    assert "numpy" in done.stdout and "onnxruntime" in done.stdout
    assert "every file as it should be; domains: flowers, signs" in done.stdout
    (bundle / "domains" / "signs" / "weights.safetensors").write_bytes(b"")
    done = call(*MODULE, "doctor", "--bundle", bundle)
    assert done.returncode == 1 and "error:" in done.stderr


@pytest.fixture
def start(package_root, built, tmp_path):
    """A function that starts the command line on ``count`` images from a .npy file."""

    def run(count, *options):
        np.save(tmp_path / "images.npy", images(count))
        words = [tmp_path / "images.npy", "--bundle", built[0], "--domain", "signs", *options]
        env = dict(os.environ, PYTHONPATH=str(package_root))
        process = subprocess.Popen(
            [sys.executable, *MODULE, *map(str, words)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    started = []
    yield run
    for process in started:
        process.kill()
        process.wait()


def test_a_reader_that_leaves(start):
    process = start(2000)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    process.wait(60)


def test_interrupt(start):
    process = start(1, "--repeat", "100000000")
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert err.strip() == "interrupted" and out == "" and process.returncode == 130


def test_words_that_nobody_knows_harm_no_terminal(da3, photos):
    done = da3(photos, "--odd\x1b[2J\r")
    assert done.returncode == 2 and "--odd\\x1b[2J\\r" in done.stderr and "\x1b" not in done.stderr


def test_a_warning_is_one_line(monkeypatch, capsys):
    def warned(options):
        warnings.warn("da3: it\nis\tslower\x07", RuntimeWarning, stacklevel=1)
        return 0

    command = COMMANDS[0]._replace(run=warned, add_options=lambda parser: None)
    monkeypatch.setitem(commands._BY_WORD, "warned", command)
    before = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *told: sys.stderr.write(warnings.formatwarning(*told[:4]))  # pytest has its own
        assert main(["warned"]) == 0
    assert capsys.readouterr().err == "warning: da3: it is slower\\x07\n"
    assert warnings.formatwarning is before
