"""The simulation holds nothing that nobody uses: a double that is never asked for is never checked either."""

import ast
from pathlib import Path

ROOM = Path(__file__).resolve().parents[1]
ROOT = ROOM.parents[1]
USERS = ("tests/simulation", "tests/runtime", "runtime/cuda", "runtime/trt")


def trees(folder):
    for path in sorted(folder.rglob("*.py")):
        yield path, ast.parse(path.read_text())


def mentioned(tree):
    """The names that a file uses; a text counts where it is nothing but the name, as for getattr."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_function_and_class_is_used_somewhere():
    used = {name for folder in USERS for _, tree in trees(ROOT / folder) for name in mentioned(tree)}
    unused = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path, tree in trees(ROOM)
        if ROOM / "tests" not in path.parents
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not (node.name.startswith("__") and node.name.endswith("__"))
        and node.name not in used
    ]
    assert unused == []
