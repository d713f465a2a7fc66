"""`learn --config`: options are read from a file, what is typed wins, what is wrong is said in one line."""

import sys

import pytest

from da3.runtime.app import commands
from da3.runtime.errors import ConfigurationError
from da3.runtime.training.options_file import read_options, toml_lines


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "options.toml"
        path.write_bytes(text.encode("utf-8"))
        return str(path)

    return write


VALUES = {
    "text": 'a "b" \\ \t \x7f Ünïcode # no comment = [x]',
    "empty": "",
    "whole": -12,
    "small": 1e-05,
    "point": 0.25,
    "yes": True,
    "no": False,
}


def test_what_is_written_can_be_read(file):
    assert read_options(file("\n".join(toml_lines(VALUES)))) == VALUES


TOML = """# a comment
domain = 'C:\\photos' # and one behind a value
epochs   =   1_000
"lr"=4e-3
keep = +1.0
flip = false# none between

[train]  # a table
epochs = 3\r
[ learn ]
threads = 2
"""


def test_what_is_read_is_what_pythons_own_reader_reads(file):
    path = file(TOML)
    expected = {
        "domain": "C:\\photos",
        "epochs": 1000,
        "lr": 0.004,
        "keep": 1.0,
        "flip": False,
        "train": {"epochs": 3},
        "learn": {"threads": 2},
    }
    assert read_options(path) == expected
    if sys.version_info >= (3, 11):
        import tomllib

        with open(path, "rb") as opened:
            assert tomllib.load(opened) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs", "line 1: is no line `option = value`, and no \\[table\\]"),
        ("\n\n= 3", "line 3: is no line"),
        ("a.b = 3", "line 1: is no line"),
        ("[[x]]", "line 1: is no line"),
        ("[x] y", "line 1: goes on behind"),
        ("epochs = ", "line 1: has no value that an option can have"),
        ("epochs = 2026-01-01", "line 1: goes on behind its value"),
        ("epochs = [1, 2]", "line 1: has no value"),
        ("epochs = 1.", "line 1: has no value"),
        ("epochs = 3x", "line 1: has no value"),
        ("epochs = truest", "line 1: has no value"),
        ('epochs = "3', "line 1: has a string without an end"),
        ('epochs = "3" 4', "line 1: goes on behind its value"),
        ("epochs = 3\nepochs = 4", "line 2: epochs is there twice"),
        ("[x]\n[x]", "line 2: x is there twice"),
    ],
)
def test_what_is_no_file_of_options(text, message, file):
    with pytest.raises(ConfigurationError, match="options.toml: " + message) as caught:
        read_options(file(text))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(ConfigurationError, match="none.toml: cannot be read: No such file"):
        read_options(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes("domain = 'é'".encode("latin-1"))
    with pytest.raises(ConfigurationError, match="latin.toml: is no text in UTF-8"):
        read_options(tmp_path / "latin.toml")


@pytest.fixture
def learn(monkeypatch):
    """The command, which gives the options that it would learn with."""
    seen = []
    monkeypatch.setattr("da3.runtime.app.learn.learn_and_say", lambda words: seen.append(words) or 0)

    def run(*words):
        seen.clear()
        code = commands.main(["learn", *words])
        return (code, vars(seen[0]) if seen else None)

    return run


def test_what_is_typed_wins(learn, file):
    path = file(
        'domain = "roses"\ndata = "photos"\nepochs = 30\nflip = false\nmicro-batch = "2"\nlr = 0.01\nthreads = 1\n'
        'from = "tulips"\n'
        "[learn]\nthreads = 3\n[train]\nepochs = 9\nmethod = 'finetune'\n"
    )
    code, found = learn("--config", path, "--epochs", "31", "--keep", "0.7")
    assert code == 0
    assert (found["domain"], found["photos"], found["epochs"], found["keep"]) == ("roses", "photos", 31, 0.7)
    assert (found["flip"], found["micro_batch"], found["lr"], found["threads"]) == (False, "2", 0.01, 3)
    assert (found["start"], found["runs"], found["resume"]) == ("tulips", "runs", False)
    code, found = learn("others", "--domain", "x", "--config", path)
    assert (found["domain"], found["photos"], found["epochs"]) == ("x", "others", 30)


def test_a_domain_is_still_wanted(learn, file, capsys):
    with pytest.raises(SystemExit):
        learn("--config", file("epochs = 3"))
    assert "-d/--domain" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "epoch is no option of learn: did you mean epochs?"),
        ("method = 'finetune'", "method is no option of learn: known are backend, batch-size, bundle, data, domain"),
        ("no-flip = true", "no-flip is no option of learn: did you mean flip?"),
        ("flip = 3", "flip must be true or false, not 3"),
        ("epochs = true", "epochs must be a string or a number, not true"),
        ("backend = 'pytorch'", 'backend must be one of auto, onnxruntime, cuda, tensorrt, reference, not "pytorch"'),
    ],
)
def test_what_is_wrong_in_a_file_is_said_in_one_line(text, message, learn, file, capsys):
    path = file(text)
    assert learn("-d", "x", "photos", "--config", path) == (1, None)
    said = capsys.readouterr().err
    assert said.startswith(f"error: --config {path}: {message}") and said.count("\n") == 1


def test_a_number_that_is_none(learn, file, capsys):
    with pytest.raises(SystemExit):
        learn("-d", "x", "photos", "--config", file('epochs = "many"'))
    assert "argument --epochs: invalid int value: 'many'" in capsys.readouterr().err
