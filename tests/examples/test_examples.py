"""The examples run, as their first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name, *words):
    return subprocess.run([sys.executable, EXAMPLES / name, *map(str, words)], capture_output=True, text=True)


def test_train_export_and_predict(photos, tmp_path):
    for domain in ("first", "second"):
        done = run("train_and_export.py", domain, photos, tmp_path, 2)
        assert done.returncode == 0, done.stderr
        assert "of PyTorch" in done.stdout
    done = run("predict.py", tmp_path / "bundle", "first", "second", photos / "val" / "class0")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["first"] * 3 + ["second"] * 3
    assert "of 17 blocks skipped" in lines[0]


@pytest.mark.parametrize("name", ["predict.py", "train_and_export.py"])
def test_usage(name):
    done = run(name)
    assert done.returncode == 1 and f"python examples/{name}" in done.stderr
