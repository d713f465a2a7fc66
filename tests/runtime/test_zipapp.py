"""`run_engine.pyz`, as it is copied to a board: under this Python, and under the 3.6 of JetPack 4."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pythons import works
from synthetic_bundle import images
from test_imports import FOLDER, SOURCES

from da3.export.exporter import export_domain
from da3.runtime.app import program
from da3.runtime.app.zipapp import NAME, write_run_engine
from da3.runtime.errors import BundleError
from da3.runtime.system.versions import VERSION
from da3.toolchain.training.progress import SilentReporter
from da3.toolchain.training.train import train

# What a start of one Python shows as well as that of another: the older one, which a board has.
OLDEST = pytest.mark.parametrize(
    "python", ["3.6", pytest.param("this Python", marks=pytest.mark.slow)], indirect=True, scope="module"
)
LARGEST = 400_000  # bytes, so that it does not grow unnoticed


@pytest.fixture(scope="module")
def pyz(tmp_path_factory):
    return Path(write_run_engine(tmp_path_factory.mktemp("pyz")))


@pytest.fixture(scope="module", params=["this Python", "3.6"])
def python(request):
    return sys.executable if request.param == "this Python" else request.getfixturevalue("python36")


@pytest.fixture
def board(bundle, pyz):
    """A bundle's folder as it is copied to a board."""
    shutil.copy(pyz, bundle)
    return bundle


@pytest.fixture
def call(python):
    """call(*words, folder): the finished `python *words`, run in the folder, with no da3 but what is in the file."""

    def run(*words, folder, **kwargs):
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        env["COLUMNS"] = "400"
        done = subprocess.run(
            [python, *map(str, words)], capture_output=True, text=True, env=env, cwd=folder, timeout=120, **kwargs
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def pictures(tmp_path):
    """A folder with one picture twice: as .png and as .npy."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.RandomState(0).randint(0, 255, (40, 30, 3)).astype(np.uint8)
    np.save(folder / "a.npy", pixels)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def listed(done):
    """The names that `domains list` printed: the first word of each line."""
    return [line.split()[0] for line in done.stdout.splitlines()]


def program_of(source):
    """What a file does and on which lines: its syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, False) is not None:
            node.body = body[1:]
    lines = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    return ast.dump(tree), lines


def test_what_is_in_it(pyz):
    with zipfile.ZipFile(pyz) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    assert content.keys() == {"__main__.py", "da3/__init__.py"} | {
        f"da3/runtime/{p.relative_to(FOLDER)}" for p in SOURCES
    }
    for path in SOURCES:
        packed = content[f"da3/runtime/{path.relative_to(FOLDER)}"]
        assert program_of(packed) == program_of(path.read_bytes()), path
        assert packed.count(b"\n") == path.read_bytes().count(b"\n") and b" #" not in packed, path
    for name, data in content.items():
        tree = ast.parse(data, name, feature_version=(3, 6))
        found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
        assert not {n.split(".")[0] for n in found} & {"torch", "typer", "rich", "onnx", "safetensors"}, name
    assert pyz.stat().st_size < LARGEST, "it lies in every bundle"


def test_same_input_same_bytes(pyz, tmp_path):
    path = tmp_path / "other.pyz"
    assert write_run_engine(path) == str(path) and path.read_bytes() == pyz.read_bytes()
    before = path.stat()
    assert write_run_engine(path) and path.stat() == before, "one that is right is left alone"
    good = pyz.read_bytes()
    step = len(good) // 8
    flipped = [good[:i] + bytes([good[i] ^ 0xFF]) + good[i + 1 :] for i in range(7, len(good), step)]
    for wrong in (b"", b"no zip", good[:-100], *flipped):
        path.write_bytes(wrong)
        write_run_engine(path)
        assert path.read_bytes() == pyz.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("da3/runtime/gone.py", "of an older release")
    write_run_engine(path)
    assert path.read_bytes() == pyz.read_bytes() and os.listdir(tmp_path) == ["other.pyz"]
    with pytest.raises(BundleError, match="cannot write .*nowhere"):
        write_run_engine(tmp_path / "nowhere" / "x.pyz")


@OLDEST
def test_it_writes_itself(call, pyz, tmp_path):
    done = call(pyz, "pyz", tmp_path / "copy.pyz", folder=tmp_path)
    assert done.stdout == f"wrote {tmp_path}/copy.pyz\n" and done.returncode == 0
    with zipfile.ZipFile(tmp_path / "copy.pyz") as copy, zipfile.ZipFile(pyz) as archive:
        assert [(i.filename, i.CRC) for i in copy.infolist()] == [(i.filename, i.CRC) for i in archive.infolist()]
    assert call("copy.pyz", "--help", folder=tmp_path).returncode == 0


def test_every_module_imports(call, pyz, tmp_path):
    from test_imports import modules

    names = list(modules())
    code = (
        f"import sys; sys.path.insert(0, {str(pyz)!r})\nfor name in {names}: __import__(name)\n"
        "import da3.runtime; print(da3.runtime.__file__)"
    )
    assert call("-c", code, folder=tmp_path).stdout == f"{pyz}/da3/runtime/__init__.py\n"


@OLDEST
def test_help(call, board):
    done = call(NAME, "--help", folder=board)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: python3 {NAME} ")
    assert f"python3 {NAME} domains list|info|add" in done.stdout and "python -m" not in done.stdout
    assert call(NAME, "build", "--help", folder=board).stdout.startswith(f"usage: python3 {NAME} build ")
    assert "usage: python3 " in call(NAME, "doctor", "--nope", folder=board).stderr
    assert program.program_name() == "python -m da3.runtime"


@OLDEST
def test_doctor_verifies_the_bundle_around_it(call, board):
    done = call(NAME, "doctor", folder=board)
    assert "numpy" in done.stdout and f"bundle {board}: every file as it should be; domains: flowers" in done.stdout
    stem = board / "backbone" / "stem.onnx"
    stem.write_bytes(stem.read_bytes()[:-1] + b"?")
    done = call(NAME, "doctor", folder=board)
    assert done.returncode == 1 and "backbone/stem.onnx is not the file the manifest names" in done.stderr


@OLDEST
def test_domains(call, board, tmp_path):
    assert listed(call(NAME, "domains", "list", folder=board)) == ["flowers", "signs"]
    assert call(NAME, "domains", "pack", "signs", "--out", tmp_path, folder=board).returncode == 0
    assert call(NAME, "domains", "remove", "signs", folder=board).stdout == "removed signs\n"
    # From anywhere: it knows the bundle it lies in.
    assert listed(call(board / NAME, "domains", "list", folder=tmp_path)) == ["flowers"]
    assert call(board / NAME, "domains", "add", "signs.da3", folder=tmp_path).stdout == "added signs\n"


@OLDEST
def test_default_bundle(call, board, pyz, tmp_path):
    """The one it lies in, else ./bundle, unless told."""
    work = tmp_path / "work"
    work.mkdir()
    shutil.copytree(board, work / "bundle")
    shutil.rmtree(work / "bundle" / "domains" / "signs")
    assert listed(call(pyz, "domains", "list", folder=work)) == ["flowers"]
    assert listed(call(board / NAME, "domains", "list", folder=work)) == ["flowers", "signs"]
    assert listed(call(board / NAME, "domains", "list", "--bundle", "bundle", folder=work)) == ["flowers"]
    done = call(pyz, "domains", "list", folder=tmp_path / "work" / "bundle")
    assert done.returncode == 1 and done.stderr.startswith("error: no bundle at bundle")
    link = tmp_path / "engine"
    link.symlink_to(board / NAME)
    assert listed(call(link, "domains", "list", folder=work)) == ["flowers", "signs"]
    assert f"(default: {board})" in call(board / NAME, "--help", folder=work).stdout
    assert "(default: bundle)" in call(pyz, "--help", folder=work).stdout


def test_runs(call, board, pictures):
    """In 3.6 of the tests there is no Pillow, as there may be none on a board: arrays work, a photo gets a sentence."""
    options = ("--domain", "signs", "--backend", "reference", "--json")
    done = call(NAME, "run", *options, pictures / "a.npy", folder=board)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["predictions"]
    assert row["label"].startswith("signs_") and row["blocks_run"] + row["blocks_skipped"] == 3
    done = call(NAME, *options, pictures / "a.png", folder=board)
    if done.returncode == 0:
        assert json.loads(done.stdout)["predictions"][0]["label"] == row["label"]
    else:
        assert "cannot decode" in done.stderr and "pip install 'pillow>=6'" in done.stderr
        assert "none of the 1 images could be read" in done.stderr


def test_the_same_answers_as_from_the_folder(call, board, runtime, tmp_path):
    batch = images(6)
    np.save(tmp_path / "batch.npy", batch)
    done = call(NAME, "--domain", "flowers", "--backend", "reference", "--json", tmp_path / "batch.npy", folder=board)
    found = [(p["label"], p["blocks_run"]) for p in json.loads(done.stdout)["predictions"]]
    assert found == [(p.label, p.blocks_run) for p in runtime.run(batch, "flowers")]


def test_from_python(call, board):
    code = (
        f"import sys; sys.path.insert(0, {NAME!r})\n"
        "from da3.runtime import Runtime\n"
        "with Runtime('.', backend='reference') as runtime: print(runtime.domains)"
    )
    done = call("-c", code, folder=board)
    assert done.stdout == "['flowers', 'signs']\n", done.stderr


def test_version(call, board):
    """The file has no package metadata; it knows its version all the same."""
    assert call(NAME, "--version", folder=board).stdout == f"da3 {VERSION}\n"


@OLDEST
def test_wrong_input(call, board, pictures, tmp_path):
    one = ("--backend", "reference", "--domain", "signs")
    for words, message in (
        (("gone.npy", *one), "no such file or folder: gone.npy"),
        ((pictures / "a.npy", "--backend", "reference"), "which domain? This bundle has: flowers, signs"),
        ((pictures / "a.npy", *one[:3], "sings"), "unknown domain 'sings'; this bundle has: flowers, signs"),
        ((pictures / "a.npy", *one, "--bundle", "gone"), "no bundle at gone: the path does not exist"),
        (("build", "--batch", "many"), "batch 'many' is neither a number nor two, such as 1:8"),
    ):
        done = call(NAME, *words, folder=board)
        assert (done.returncode, done.stdout) == (1, "") and message in done.stderr
    assert call(NAME, folder=board).returncode == 2
    # Nothing here has a GPU with a driver: a sentence, no crash, and the command named is one that works here.
    for words in (("build",), (pictures / "a.npy", "--backend", "tensorrt", "--domain", "signs")):
        done = call(NAME, *words, folder=board)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_errors_name_the_command_that_is_there(monkeypatch):
    sentence = "x: no engines are built for it yet: run `da3 build --precision fp16`"
    assert program.in_words_of("da3", sentence) == sentence
    expected = "x: no engines are built for it yet: run `python -m da3.runtime build --precision fp16`"
    assert program.in_words_of(program.program_name(), sentence) == expected
    monkeypatch.setattr(program, "running", lambda: "my board/run_engine.pyz")
    expected = "x: no engines are built for it yet: run `python3 'my board/run_engine.pyz' build --precision fp16`"
    assert program.in_words_of(program.program_name(), sentence) == expected


def test_the_sentences_in_the_docs():
    """docs/jetson.md explains what we say, not what we said once."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "jetson.md").read_text()
    rows = re.findall(r"^\| `(.+?)` \|", text[text.index("| it says | so |") :], re.M)
    said = [str(n.value) for p in SOURCES for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.Constant)]
    assert len(rows) > 10
    for row in rows:
        for words in row.replace("Python 2.7", "Python %d.%d").split("..."):
            assert any(words.strip() in sentence for sentence in said), words


def test_python_2_and_no_numpy(pyz, tmp_path):
    bare = [sys.executable, "-I", "-S", str(pyz), "--help"]
    done = subprocess.run(bare, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: this Python has no working numpy")
    places = [shutil.which("python2.7"), os.path.expanduser("~/.pyenv/versions/2.7.18/bin/python")]
    python2 = next((p for p in places if p and works(p, "")), None)
    if python2 is None:
        pytest.skip("no Python 2.7")
    done = subprocess.run([python2, pyz, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "error: this is Python 2.7: use python3, 3.6 or newer\n")


def test_export_brings_it(small_run, pyz, tmp_path):
    runs = train(small_run(weights="demo", epochs=1), SilentReporter()).folder.parent
    bundle = export_domain("signs", runs, tmp_path / "bundle").path
    assert (bundle / NAME).read_bytes() == pyz.read_bytes()
    manifest = (bundle / "manifest.json").read_bytes()
    assert NAME.encode() not in manifest
    (bundle / NAME).write_bytes(b"of an older release")
    export_domain("signs", runs, bundle)
    assert (bundle / NAME).read_bytes() == pyz.read_bytes() and (bundle / "manifest.json").read_bytes() == manifest
    (bundle / NAME).unlink()
    export_domain("signs", runs, bundle)
    assert (bundle / NAME).read_bytes() == pyz.read_bytes()
