"""Who may import whom (CONTRIBUTING's table), that no imports go in a circle, and what importing costs."""

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = ("runtime", "calib", "export", "toolchain")
MAIN = "toolchain/entry"  # the folder of da3 itself, which has no other file
# Beside sub-packages the two large rooms hold nothing but their faces.
FACES = {
    "runtime": {"__init__.py", "__main__.py", "engine.py", "errors.py", "records.py"},
    "toolchain": {"__init__.py", "errors.py"},
}
RUNTIME_INSIDE_FUNCTIONS = {"onnxruntime", "PIL", "cv2", "pkg_resources", "oras", "requests"}


def rooms():
    """CONTRIBUTING's table, from the lowest room to the highest: {room: rooms that it must not import}."""
    rows = re.findall(r"^\| `([^`]+)` \|.*\|([^|]*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    return {room: set(re.findall(r"`([^`]+)`", excepted)) for room, excepted in rows}


def sources():
    return sorted(path for top in TOP for path in (ROOT / top).rglob("*.py"))


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("da3", *(p for p in parts if p != "__init__")))


@cache
def modules():
    return {module_of(path): path for path in sources()}


@cache
def imported_by(path):
    """(module, is it at the top of the file?) for every import statement anywhere in the file; a name that is itself a
    module of da3 counts as that module."""
    package = ["da3", *path.relative_to(ROOT).parts[:-1]]
    tree = ast.parse(path.read_text())
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            inner = [f"{module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else module for name in inner]
        else:
            continue
        found += [(name, node in tree.body) for name in dict.fromkeys(names)]
    return found


def room_of(path):
    """The row of the table that a file belongs to."""
    place = str(path.relative_to(ROOT))
    found = [room for room in rooms() if place == room or (room.endswith("/") and place.startswith(room))]
    return max(found, key=len, default=None)


@pytest.mark.parametrize("room", rooms())
def test_rooms_import_only_rooms_above_them_in_the_table(room):
    order = list(rooms())
    below = set(order[order.index(room) + 1 :]) | rooms()[room]
    files = [path for path in sources() if room_of(path) == room]
    assert files, f"{room} is in CONTRIBUTING's table and not here"
    for path in files:
        for name, _ in imported_by(path):
            if name.split(".")[0] in (*TOP, "tests", "examples"):
                pytest.fail(f"{path} imports {name} instead of da3.{name}")
            if name.startswith("da3."):
                target = room_of(modules()[name])
                assert target == room or target not in below, f"{path} imports {name}"


def test_every_file_is_in_a_room():
    homeless = [str(path) for path in sources() if room_of(path) is None and path.parent.parent != ROOT]
    homeless += [str(p) for p in sources() if room_of(p) is None and p.name != "__init__.py"]
    assert homeless == []
    assert [path.name for path in (ROOT / MAIN).glob("*.py")] == ["__main__.py"]
    for top, face in FACES.items():
        assert {path.name for path in (ROOT / top).glob("*.py")} == face


def test_no_import_circle():
    """Over all modules, wherever the import stands."""
    graph = {m: {n for n, _ in imported_by(p) if n in modules()} - {m} for m, p in modules().items()}
    # What nothing imports any more, or what imports nothing, is in no circle: what is left after taking these away is.
    while True:
        wanted = set().union(*graph.values()) if graph else set()
        free = {m for m, needs in graph.items() if not needs & set(graph) or m not in wanted}
        if not free:
            break
        graph = {m: needs - free for m, needs in graph.items() if m not in free}
    assert graph == {}


def test_other_rooms_are_entered_by_their_faces():
    """An import from another top-level folder names a package (da3.runtime.images), a module that the package's face
    lists (da3.runtime.training.recipe), or a file of the folder's own floor (da3.runtime.records)."""
    for path in sources():
        top = path.relative_to(ROOT).parts[0]
        for name, _ in imported_by(path):
            parts = name.split(".")
            if parts[0] != "da3" or top == parts[1]:
                continue
            face = importlib.import_module(".".join(parts[:-1]))
            entered = modules()[name].name == "__init__.py" or (len(parts) == 3 and parts[1] == "runtime")
            assert entered or parts[2:] == ["errors"] or parts[-1] in face.__all__, f"{path} imports {name}"


def test_faces_say_what_they_show():
    for name, path in modules().items():
        # The toolchain is entered by its sub-packages, and nothing enters the command line but its entry point.
        if path.name == "__init__.py" and name not in ("da3.toolchain", "da3.toolchain.cli"):
            module = importlib.import_module(name)
            assert module.__doc__ and module.__all__, name
            assert [n for n in module.__all__ if not hasattr(module, n)] == [], name


def test_runtime_needs_numpy_alone():
    for path in sorted((ROOT / "runtime").rglob("*.py")):
        for name, at_top in imported_by(path):
            package = name.split(".")[0]
            if package in sys.stdlib_module_names or package == "da3":
                continue
            allowed = {"numpy"} if at_top else {"numpy"} | RUNTIME_INSIDE_FUNCTIONS
            assert package in allowed, f"{path} imports {name}"


def test_tensorrt_and_cuda_stay_in_their_rooms():
    for path in sources():
        packages = {name.split(".")[0] for name, _ in imported_by(path)}
        if room_of(path) not in ("runtime/trt/", "runtime/cuda/"):
            assert not packages & {"tensorrt", "pycuda", "cuda"}, path


def all_modules():
    for room in TOP:
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


def test_every_package_is_installed():
    """setuptools is given them by name, since `x/` is `da3.x`: one forgotten is missing in an installed da3 alone."""
    listed = re.search(r"^packages = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.M | re.S)[1]
    packages = {m for m, path in modules().items() if path.name == "__init__.py"}
    assert set(re.findall(r'"(.+?)"', listed)) == {"da3", *packages}
