"""Which files are pictures."""

import io

import numpy as np
import pytest

from da3.runtime.errors import ImageError
from da3.runtime.images.inputs import Input, in_batches
from da3.runtime.images.paths import expand, list_labelled


@pytest.fixture
def tree(tmp_path):
    for name in (
        "b/2.jpg",
        "b/1.PNG",
        "a/deep/3.jpeg",
        "a/notes.txt",
        "a/.hidden.jpg",
        ".git/4.jpg",
        "x.npy",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(paths, root):
    return [p[len(str(root)) + 1 :] for p in paths]


def test_expand(tree):
    assert names(expand([tree]), tree) == ["a/deep/3.jpeg", "b/1.PNG", "b/2.jpg"]
    assert names(expand([tree / "b" / "2.jpg", tree / "a"]), tree) == ["b/2.jpg", "a/deep/3.jpeg"]
    assert names(expand([f"{tree}/b/*"]), tree) == ["b/1.PNG", "b/2.jpg"]
    assert names(expand([f"{tree}/**/*.jp*g"]), tree) == ["a/deep/3.jpeg", "b/2.jpg"]
    assert names(expand([f"{tree}/*.npy"]), tree) == ["x.npy"]
    assert names(expand([tree / "a" / "notes.txt"]), tree) == ["a/notes.txt"]
    stdin = io.StringIO(f"{tree}/b/2.jpg\n\n{tree}/a\r\n")
    assert names(expand(["-"], stdin), tree) == ["b/2.jpg", "a/deep/3.jpeg"]


def test_a_file_whose_name_looks_like_a_glob(tree):
    odd = tree / "photo[1].jpg"
    odd.write_bytes(b"")
    assert expand([odd]) == [str(odd)]


@pytest.mark.parametrize(
    "item, message",
    [
        ("gone.jpg", "no such file or folder: .*gone.jpg"),
        ("*.webp", "no pictures match"),
        (".git", None),
        ("empty", "holds no pictures"),
    ],
)
def test_nothing_there(tree, item, message):
    (tree / "empty").mkdir()
    if message is None:
        assert len(expand([tree / item])) == 1  # named outright
        return
    with pytest.raises(ImageError, match=message):
        expand([tree / item])


def test_no_items_at_all():
    for items in ([], ["-"]):
        with pytest.raises(ImageError, match="no images"):
            expand(items, io.StringIO(""))


def test_list_labelled(tree):
    classes, pairs = list_labelled(tree)
    assert classes == ["a", "b"]
    assert [(p[len(str(tree)) + 1 :], label) for p, label in pairs] == [
        ("a/deep/3.jpeg", 0),
        ("b/1.PNG", 1),
        ("b/2.jpg", 1),
    ]
    classes, pairs = list_labelled(tree, classes=["b", "z", "a"])
    assert classes == ["b", "z", "a"] and [label for _, label in pairs] == [2, 0, 0]
    with pytest.raises(ImageError, match="unknown class folder 'b'; known: a"):
        list_labelled(tree, classes=["a"])


def test_list_labelled_refuses(tree):
    with pytest.raises(ImageError, match="is not a folder"):
        list_labelled(tree / "gone")
    with pytest.raises(ImageError, match="has no class folders"):
        list_labelled(tree / "b")
    (tree / "c").mkdir()
    with pytest.raises(ImageError, match="class folder 'c' holds no pictures"):
        list_labelled(tree)
    (tree / "c" / "d").mkdir()
    with pytest.raises(ImageError, match="hold no pictures"):
        list_labelled(tree / "c")


def test_one_picture_is_not_copied():
    one, other = (Input(name, np.zeros((3, 4, 4), np.float32), 0.0) for name in ("a", "b"))
    (alone,) = in_batches([one], 1)
    (both,) = in_batches([one, other], 2)
    assert alone.images.shape == (1, 3, 4, 4) and np.shares_memory(alone.images, one.pixels)
    assert both.images.shape == (2, 3, 4, 4) and both.names == ["a", "b"]
