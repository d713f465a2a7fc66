"""Files of options: read by train and export, printed by ``da3 config``, and refused in one line."""

import sys

import pytest
from typer.testing import CliRunner

from da3.runtime.training import Reporter
from da3.toolchain.cli.commands import app
from da3.toolchain.errors import ConfigurationError
from da3.toolchain.training.train import train

toml = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")


@pytest.fixture
def da3(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "options.toml").write_text(text)
        return "options.toml"

    return write


def test_what_is_printed_can_be_read_and_what_is_typed_wins(da3, file):
    printed = da3("config", "train", "-d", "flowers", "--epochs", "30", "--no-flip", "--from", "roses").output
    assert toml.loads(printed) | {"runs": ""} == {
        "domain": "flowers",
        "epochs": 30,
        "flip": False,
        "from": "roses",
        "device": "auto",
        "engine": "pytorch",
        "runs": "",
        "resume": False,
        "overwrite": False,
        "verbose": False,
        "quiet": False,
    }
    assert "epochs = 30  # typed" in printed and "# seed = 0  # default" in printed and "# lr: " in printed
    again = da3("config", "train", "--config", file(printed), "--epochs", "31").output
    assert "epochs = 31  # typed" in again and 'from = "roses"  # from the file' in again
    assert {**toml.loads(again), "epochs": 30} == toml.loads(printed)


def test_a_table_is_of_its_command_alone(da3, file):
    name = file('domain = "flowers"\nepochs = 3\n[export]\nbundle = "board"\n[train]\nepochs = 4\n')
    trains, exports = (toml.loads(da3("config", command, "--config", name).output) for command in ("train", "export"))
    assert trains["epochs"] == 4 and exports["bundle"] == "board" and "epochs" not in exports
    assert trains["domain"] == exports["domain"] == "flowers"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "options.toml: epoch is no option: did you mean epochs"),
        ("[export]\nepochs = 3", r"\[export\] epochs is no option: known are bundle, domain"),
        ("flip = 3", "flip must be true or false, not 3"),
        ("epochs = true", "epochs must be a string or a number, not true"),
        ("[epochs]\nx = 3", "epochs must be a string or a number, not a table"),
        ("\nepochs = [1, 2]", "options.toml: line 2: has no value that an option can have"),
        ("config = 'x'", "config is no option"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(text, message, da3, file):
    done = da3("train", "-d", "x", "--config", file(text))
    assert isinstance(done.exception, ConfigurationError), done.output
    with pytest.raises(ConfigurationError, match=message):
        raise done.exception
    assert "\n" not in str(done.exception)


def test_a_file_that_is_not_there(da3):
    done = da3("export", "-d", "x", "--config", "none.toml")
    assert str(done.exception) == "--config none.toml: cannot be read: No such file or directory"


def test_the_file_beside_a_run_makes_the_same_run_again(small_run, da3, tmp_path):
    first = train(small_run(seed=7, epochs=1, label_smoothing=0.05, weights="demo"), Reporter())
    options = first.folder / "options.toml"
    (tmp_path / "only-export.toml").write_text('domain = "signs"\nruns = "again"\n')
    done = da3("train", "--config", str(options), "--runs", "again", "--quiet")
    assert done.exit_code == 0, (done.output, done.exception)
    told = toml.loads(options.read_text())
    assert (told["seed"], told["epochs"], told["engine"], told["weights"]) == (7, 1, "pytorch", "demo")
    wrote = da3("export", "--config", "only-export.toml", "-q")
    assert wrote.exit_code == 0, (wrote.output, wrote.exception)
    assert wrote.output.startswith("wrote a new bundle: ") and "verification" not in wrote.output
    again = toml.loads((tmp_path / "again" / "signs" / "options.toml").read_text())
    assert {**again, "runs": told["runs"]} == told
    best = [
        next(line for line in (folder / "metrics.jsonl").read_text().splitlines())
        for folder in (first.folder, tmp_path / "again" / "signs")
    ]
    assert best[0].split('"lr"')[0] == best[1].split('"lr"')[0], "the same figures, seconds apart"
