"""Who may import whom, and what importing costs."""

import ast
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("runtime", "calib", "export", "toolchain")
# What of another room each room may import; None is all of it.
ALLOWED = {
    "runtime": {},
    "calib": {"runtime": None},
    "export": {
        "runtime": None,
        "toolchain": {
            "adaptor",
            "backbones",
            "checkpoint",
            "frozen",
            "methods",
            "model",
            "preprocessing",
            "substitute",
        },
    },
    "toolchain": {"runtime": None, "calib": None, "export": None},
}
RUNTIME_PACKAGES = {"numpy"}
RUNTIME_INSIDE_FUNCTIONS = {"onnxruntime", "PIL", "cv2", "pkg_resources"}


def imports(path):
    """(module, is it at the top of the file?) for every import statement; relative ones as da3.<room>..."""
    package = ["da3", *path.relative_to(ROOT).parts[:-1]]
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names = [".".join([*base, *([node.module] if node.module else [])])]
        else:
            continue
        for name in names:
            yield name, node in tree.body


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room):
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        for name, _ in imports(path):
            parts = name.split(".")
            assert parts[0] not in ("tensorrt", "pycuda") or room == "runtime", f"{path} imports {name}"
            if parts[0] in (*ROOMS, "tests", "examples"):
                pytest.fail(f"{path} imports {name} instead of da3.{name}")
            if parts[0] != "da3" or len(parts) == 1 or parts[1] == room:
                continue
            assert parts[1] in ALLOWED[room], f"{path} imports {name}"
            part = ALLOWED[room][parts[1]]
            assert part is None or (len(parts) > 2 and parts[2] in part), f"{path} imports {name}"


def test_runtime_needs_numpy_alone():
    standard = sys.stdlib_module_names
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        for name, at_top in imports(path):
            package = name.split(".")[0]
            if package in standard or package == "da3":
                continue
            allowed = RUNTIME_PACKAGES if at_top else RUNTIME_PACKAGES | RUNTIME_INSIDE_FUNCTIONS
            # Under `if TYPE_CHECKING` (not at the top of the tree) only typing helpers may come in.
            assert package in allowed, f"{path} imports {name}"


def all_modules():
    for room in ROOMS:
        for found in pkgutil.walk_packages([str(ROOT / room)], f"da3.{room}."):
            if not found.name.endswith("__main__"):
                yield found.name


@pytest.mark.parametrize("name", list(all_modules()))
def test_every_module_imports_and_says_what_it_is_for(name):
    module = importlib.import_module(name)
    assert module.__doc__ or not Path(module.__file__).read_text().strip(), f"{name} has no docstring"


def test_importing_the_runtime_loads_nothing_else():
    code = "import sys, json, da3.runtime; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    unwanted = {
        "torch",
        "typer",
        "rich",
        "onnx",
        "onnxruntime",
        "PIL",
        "safetensors",
        "matplotlib",
        "da3.toolchain",
    }
    assert not loaded & unwanted


def test_no_file_answers_two_questions():
    """Past about 300 lines a file answers a second one (CONTRIBUTING)."""
    long = {
        str(p.relative_to(ROOT)): n
        for room in ROOMS
        for p in (ROOT / room).rglob("*.py")
        if (n := len(p.read_text().splitlines())) > 320
    }
    assert long == {}
