"""The examples run, as their first lines say."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example with these words as Python runs a script, in this process, and returns what it printed."""

    def script(name, *words):
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return script


def test_train_export_and_predict(run, photos, tmp_path):
    for domain in ("first", "second"):
        assert "of PyTorch" in run("train_and_export.py", domain, photos, tmp_path, 1)
    lines = run("predict.py", tmp_path / "bundle", "first", "second", photos / "val" / "class0").splitlines()
    assert [line.split(":")[0] for line in lines] == ["first"] * 3 + ["second"] * 3
    assert "of 17 blocks skipped" in lines[0]


@pytest.mark.parametrize("name", ["predict.py", "train_and_export.py"])
def test_usage(run, name):
    with pytest.raises(SystemExit) as ended:
        run(name)
    assert f"python examples/{name}" in ended.value.code
