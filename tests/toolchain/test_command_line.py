"""The ``da3`` command line from outside: help that teaches, one line per error, the whole path of a user."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from in_process import da3
from typer.testing import CliRunner

from da3.export import exporter
from da3.runtime.app.commands import COMMANDS as RUNTIME_COMMANDS
from da3.runtime.app.commands import main as runtime_main
from da3.runtime.system.versions import VERSION
from da3.toolchain.cli.commands import app
from da3.toolchain.cli.training_summary import training_summary
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

DA3 = [sys.executable, "-m", "da3.toolchain.cli.main"]
PHOTO = "data/signs/val/class0/0.jpg"
BENCHES = ["run", "stream", "train", "accuracy", "distributed"]
OWN = ["train", "export", "calibrate", "runs", "report", "config", "bench", "demo"]
COMMANDS = [*OWN, *(c.name for c in RUNTIME_COMMANDS)]


def run_as_user(*words, cwd, stdin=None):
    """In a process of its own, as a user starts it: for one command of each kind."""
    return subprocess.run([*DA3, *map(str, words)], capture_output=True, text=True, cwd=cwd, input=stdin)


@pytest.mark.parametrize(
    "command", [[], *([c] for c in COMMANDS), ["domains", "add"], *(["bench", b] for b in BENCHES)]
)
def test_help_teaches(command):
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert len(done.output) > 180
    if not command:
        assert all(name in done.output for name in COMMANDS)
    if command in (["train"], ["export"], ["run-engine"], ["calibrate"]):
        assert f"Example: da3 {command[0]} " in done.output


def in_process(*words):
    return CliRunner(env={"COLUMNS": "800"}).invoke(app, list(words))


@pytest.mark.parametrize("command", RUNTIME_COMMANDS, ids=lambda c: c.name)
def test_the_runtimes_commands_are_the_same_here_and_there(command, tmp_path, monkeypatch, capsys):
    """The same words, described in the same words, but for what was typed to get there."""
    monkeypatch.setenv("COLUMNS", "800")
    with pytest.raises(SystemExit) as ended:
        runtime_main([command.name, "--help"], program="python -m da3.runtime")
    there = capsys.readouterr().out
    here = da3(command.name, "--help", cwd=tmp_path)
    assert here.returncode == ended.value.code == 0 and here.stdout.startswith(f"usage: da3 {command.name} ")
    assert here.stdout == there.replace("python -m da3.runtime", "da3")
    # The list of all commands has the same line, and a command found through typer the same help.
    assert f"{command.name} {command.help}" in " ".join(in_process("--help").output.split())
    assert in_process(command.name, "--help").output == here.stdout


def test_version(tmp_path):
    assert da3("--version", cwd=tmp_path).stdout == in_process("--version").output == f"da3 {VERSION}\n"


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["run-engine", "--help"], ["--version"]])
def test_help_is_quick(words, tmp_path):
    """No torch for help; not even typer for a command of the runtime."""
    code = f"""
import sys
from da3.toolchain.cli.main import main
sys.argv = ["da3", *{words}]
try: main()
except SystemExit: pass
print({{"torch", "onnxruntime", "matplotlib", "typer", "rich"}} & set(sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    loaded = set(re.findall(r"'(\w+)'", done.stderr))
    assert loaded <= ({"typer", "rich"} if words[-1] == "--help" and words[0] != "run-engine" else set()), done.stderr


def test_the_last_words_of_a_run_say_what_was_met(small_run):
    result = train(small_run(keep=0.7, epochs=1), SilentReporter())
    row = {"epoch": 1, "val_accuracy": 0.9, "val_share": 1.0}
    met, missed = (
        training_summary(replace(result, best={**row, "kept_accuracy": 0.885, "kept_share": share}))
        for share in (0.7, 0.78)
    )
    assert "best: 90.0% on the validation photos (epoch 1)" in met and "next: da3 export --domain signs" in met
    assert "leaving early: 88.5% at 70% of the block FLOPs" in met and "asked for" not in met
    assert "more than --keep 0.7 asked for" in missed
    assert "more than --keep 0.7 asked for" in training_summary(replace(result, best=row))
    assert re.search(r"memory: [\d,]+ MB at most, from start to end\n", met)
    held, broken = (training_summary(replace(result, peak=330_000_000, budget=b)) for b in (330_000_000, 329_000_000))
    assert "memory: 330 MB at most, from start to end, within --memory-budget 330 MB" in held
    assert "more than --memory-budget 329 MB" in broken


@pytest.fixture(scope="module")
def workplace(photos, tmp_path_factory):
    """A folder in which the user's commands were typed, with two domains exported."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "data").mkdir()
    for domain, run in (("signs", run_as_user), ("letters", da3)):
        (folder / "data" / domain).symlink_to(photos)
        words = ["train", "--domain", domain, "--weights", "demo", "--size", 32, "--epochs", 3, "--keep", 0.8]
        trained = run(*words, cwd=folder)
        assert trained.returncode == 0, trained.stderr
        assert f"next: da3 export --domain {domain}" in trained.stdout
        assert "epoch 3/3" in trained.stderr and "images/s" in trained.stderr
        exported = run("export", "--domain", domain, cwd=folder)
        assert exported.returncode == 0, exported.stderr
        assert "end to end, one by one" in exported.stdout and "FAILED" not in exported.stdout
    return folder


def test_the_users_path(workplace, photos):
    photo = photos / "val" / "class1" / "0.jpg"
    done = run_as_user(
        "run-engine", "--domain", "signs", photo, photos / "val" / "class0", "--repeat", 2, cwd=workplace
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{photo}: class") and sum(".jpg: class" in line for line in lines) == 5
    assert "p50" in done.stdout and "p99" in done.stdout and "FLOPs skipped" in done.stdout


def test_json_is_the_same_as_the_runtimes(workplace, photos):
    words = ["--bundle", "bundle", "--domain", "letters", "--json", "--top-k", "2", "-"]
    paths = "\n".join(str(p) for p in sorted((photos / "val").rglob("*.jpg")))
    ours = da3("run-engine", *words, cwd=workplace, stdin=paths)
    other = subprocess.run(
        [sys.executable, "-m", "da3.runtime", *words],
        capture_output=True,
        text=True,
        cwd=workplace,
        input=paths,
    )
    a, b = json.loads(ours.stdout), json.loads(other.stdout)
    assert a["predictions"] == b["predictions"] and len(a["predictions"]) == 12
    assert a["flops_share"] == b["flops_share"] <= 1
    assert set(a["latency_ms"]) == {"p50", "p90", "p99"}
    assert {"path", "label", "probability", "blocks_run", "blocks_skipped"} <= set(a["predictions"][0])


def test_an_image_that_cannot_be_read(workplace, photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    good = photos / "val" / "class1" / "0.jpg"
    done = da3("run-engine", "-d", "signs", "-b", "bundle", good, "--json", tmp_path / "bad.jpg", cwd=workplace)
    assert done.returncode == 1 and len(json.loads(done.stdout)["predictions"]) == 1
    assert done.stderr.endswith("error: 1 of the images could not be read\n")


def test_doctor_reads_a_bundle(workplace):
    done = da3("doctor", "--bundle", "bundle", cwd=workplace)
    assert re.search(r"^torch +torch \d", done.stdout, re.M) and re.search(r"^onnx +onnx \d", done.stdout, re.M)
    assert "every file as it should be; domains: letters, signs" in done.stdout
    done = da3("--debug", "doctor", "--bundle", "nowhere", cwd=workplace)
    assert done.returncode == 1 and "Traceback" in done.stderr and "no bundle at nowhere" in done.stderr


def test_domains_come_and_go(workplace, tmp_path):
    listed = da3("domains", "list", cwd=workplace)
    assert "signs" in listed.stdout and "letters" in listed.stdout and "mobilenet_v2 at 32 px" in listed.stdout
    assert da3("domains", "pack", "signs", "--out", tmp_path, cwd=workplace).returncode == 0
    assert da3("domains", "remove", "signs", cwd=workplace).returncode == 0
    assert [line.split()[0] for line in da3("domains", "list", cwd=workplace).stdout.splitlines()] == ["letters"]
    gone = da3("domains", "remove", "signs", cwd=workplace)
    assert gone.returncode == 1 and "letters" in gone.stderr
    assert da3("domains", "add", tmp_path / "signs.da3", cwd=workplace).returncode == 0
    again = da3("domains", "add", tmp_path / "signs.da3", cwd=workplace)
    assert again.returncode == 1 and "--replace" in again.stderr


def test_calibrate_and_bench(workplace, photos):
    done = da3("calibrate", "--domain", "letters", "--data", photos / "val", "--target-skip", 0.3, cwd=workplace)
    assert done.returncode == 0 and "before" in done.stdout and "after" in done.stdout
    words = [
        "bench",
        "run",
        "bundle",
        "--domain",
        "letters",
        "--images",
        photos / "val",
        "--repeats",
        2,
        "--json",
    ]
    report = json.loads(da3(*words, cwd=workplace).stdout)
    names = {"monolithic", "all-on", "parts", "gated", *(f"exit-{i}" for i in range(4))}
    assert {row["name"] for row in report["rows"]} == names
    assert report["conditions"]["repeats"] == 2


def test_standalone(workplace):
    done = da3("export", "--domain", "signs", "--standalone", "signs.onnx", cwd=workplace)
    assert done.returncode == 0 and (workplace / "signs.onnx").stat().st_size > 100_000


def test_a_failed_export_shows_its_table(workplace, monkeypatch):
    """In this process, so that one stored weight can be made wrong."""
    real = exporter.domain_files

    def wrong(domain, *more):
        weights = {**domain.weights, "head.bias": domain.weights["head.bias"] + 1}
        return real(domain._replace(weights=weights), *more)

    monkeypatch.setattr(exporter, "domain_files", wrong)
    monkeypatch.chdir(workplace)
    done = CliRunner().invoke(app, ["export", "--domain", "signs", "--bundle", "another"])
    assert done.exit_code == 1 and "FAILED" in done.output and "ok" in done.output
    assert "nothing was written" in str(done.exception) and not (workplace / "another").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--domain", "x"], "pass --data FOLDER"),
        (["train", "--domain", "x", "--data", "nowhere", "--weights", "demo"], "nowhere does not exist"),
        (["train", "--domain", "signs"], "--resume"),
        (
            ["train", "--domain", "x", "--data", "data/signs", "--weights", "none.pth"],
            "none.pth does not exist",
        ),
        (["export", "--domain", "x"], "train the domain first"),
        (["run-engine", PHOTO, "--domain", "signz"], "letters"),
        (["run-engine", "nothing.jpg", "--domain", "signs"], "nothing.jpg"),
        (["run-engine", PHOTO, "--bundle", "nowhere"], "nowhere"),
        (["calibrate", "--domain", "signs", "--data", "nowhere", "--target-skip", "0.3"], "nowhere"),
        (["domains", "add", "nothing.da3"], "nothing.da3"),
        (["build", "--workspace", "much"], "--workspace much: use a size such as 256MB"),
        (
            ["train", "--domain", "y", "--data", "data/signs", "--weights", "demo", "--memory-budget", "much"],
            "--memory-budget much: use a size such as 256MB",
        ),
        (["bench", "run", "nowhere"], "nowhere"),
    ],
)
def test_errors_are_one_line(words, message, workplace):
    done = da3(*words, cwd=workplace)
    assert done.returncode == 1, done.stdout
    assert message in done.stderr and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_debug_shows_the_traceback(workplace):
    done = da3("export", "--domain", "x", "--debug", cwd=workplace)
    assert done.returncode == 1 and "Traceback" in done.stderr and "CheckpointError" in done.stderr


def test_a_process_says_and_returns_the_same(workplace):
    """As what the other tests start in this one."""
    for words in (["export", "--domain", "x"], ["run-engine", PHOTO, "--domain", "signz"], ["--version"]):
        there, here = run_as_user(*words, cwd=workplace), da3(*words, cwd=workplace)
        assert (there.returncode, there.stdout, there.stderr) == (here.returncode, here.stdout, here.stderr)


def test_wrong_usage_is_exit_code_two(workplace):
    assert da3("train", cwd=workplace).returncode == 2
    assert da3("run-engine", "--no-such-option", cwd=workplace).returncode == 2
