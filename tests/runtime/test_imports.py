"""`import da3.runtime` needs numpy and nothing else, and is quick."""

import ast
import re
import sys
from pathlib import Path

import pytest

import da3.runtime

FOLDER = Path(da3.runtime.__file__).parent
SOURCES = sorted(FOLDER.rglob("*.py"))
HEAVY = ("torch", "typer", "rich", "safetensors", "onnx", "onnxruntime", "PIL", "cv2", "tensorrt", "pycuda", "cuda")


def modules():
    for path in SOURCES:
        parts = path.relative_to(FOLDER).with_suffix("").parts
        if parts[-1] != "__main__":
            yield ".".join(("da3", "runtime", *(p for p in parts if p != "__init__")))


def test_no_module_loads_anything_heavy(call):
    code = f"import sys\nfor name in {list(modules())}: __import__(name)\n"
    code += f"print([m for m in {HEAVY} if m in sys.modules], [m for m in sys.modules if m.startswith('da3.')])"
    done = call("-c", code)
    assert done.returncode == 0, done.stderr
    heavy, _, ours = done.stdout.partition("] ")
    assert heavy == "[" and "da3.runtime.backends.onnxruntime" in ours


def test_no_other_room_is_imported():
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module]
            for name in names:
                assert not name.startswith("da3"), f"{path.name}: import da3's own modules relatively"
                assert name.split(".")[0] not in ("torch", "typer", "rich", "safetensors", "onnx"), path


@pytest.mark.parametrize("start", ["import da3.runtime", "from da3.runtime.app.commands import main; main(['--help'])"])
def test_starting_brings_nothing_heavy(call, start):
    """What start-up takes is measured by `da3 bench run`; here only what it must not import."""
    code = f"import sys, numpy\nbefore = set(sys.modules)\ntry: {start}\nexcept SystemExit: pass\n"
    done = call("-c", code + "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))")
    added = ast.literal_eval(done.stdout.strip().split("\n")[-1])
    assert "da3" in added and not set(added) & {*HEAVY, "multiprocessing", "asyncio", "unittest", "email"}, added


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(FOLDER)))
def test_python_3_6_can_read_it(path):
    source = path.read_text()
    ast.parse(source, feature_version=(3, 6))
    # What 3.6's grammar allows but its library has not.
    for modern in (
        "from __future__ import annotations",
        "dataclass",
        "default_rng",
        "take_along_axis",
        "capture_output",
    ):
        assert modern not in source
    assert not re.search(r"-> (list|dict|tuple)\[|: (list|dict|tuple)\[", source)


def test_this_python():
    assert sys.version_info >= (3, 10)
