"""Photo folders: found, split by seed, checked, and turned into batches that any epoch can make again."""

import shutil

import numpy as np
import pytest
from PIL import Image

from da3.runtime.errors import DataError
from da3.runtime.images.preprocess import Preprocessing
from da3.runtime.training.augmentation import Augmentation
from da3.runtime.training.loading import Loader, default_workers
from da3.runtime.training.photos import drop_unreadable, find_photos

PREPROCESSING = Preprocessing(32, 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def folder_of(root, **classes):
    """class name -> number of photos, each of its own colour."""
    for k, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (50, 40), (40 * k, 20 * i % 256, 128)).save(root / name / f"{i:02d}.png")
    return root


def test_train_and_val_folders(photos):
    found = find_photos(photos, seed=0)
    assert found.classes == ("class0", "class1", "class2")
    assert (len(found.train), len(found.val)) == (24, 12)
    assert all(f"class{label}" in path for path, label in (*found.train, *found.val))


def test_val_may_lack_a_class_but_not_add_one(photos, tmp_path):
    copy = shutil.copytree(photos, tmp_path / "photos")
    shutil.rmtree(copy / "val" / "class0")
    found = find_photos(copy, seed=0)
    assert {label for _, label in found.val} == {1, 2}
    (copy / "val" / "class0").mkdir()
    (copy / "val" / "other").mkdir()
    with pytest.raises(DataError, match="unknown class folder 'other'; known: class0, class1, class2"):
        find_photos(copy, seed=0)


def test_one_folder_is_split_by_seed(tmp_path):
    root = folder_of(tmp_path / "all", cats=10, dogs=20, fish=2)
    first, again, other = find_photos(root, 0), find_photos(root, 0), find_photos(root, 1)
    assert first == again != other
    counts = [sum(label == k for _, label in first.val) for k in range(3)]
    assert counts == [2, 4, 1], "a fifth of each class, at least one"
    assert not set(first.train) & set(first.val)
    assert len(first.train) + len(first.val) == 32


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"cats": 3}, "one class only .cats."),
        ({"cats": 3, "dogs": 0}, "'dogs' holds no pictures"),
        ({"cats": 3, "dogs": 1}, "class dogs has one photo only"),
        ({}, "no class folders"),
    ],
)
def test_folders_that_cannot_be_trained_on(classes, message, tmp_path):
    (tmp_path / "all").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        find_photos(folder_of(tmp_path / "all", **classes), seed=0)
    assert "\n" not in str(caught.value)


def test_missing_folders(tmp_path):
    with pytest.raises(DataError, match="does not exist: name one with a subfolder for each class"):
        find_photos(tmp_path / "none", 0)
    folder_of(tmp_path / "train", cats=2, dogs=2)
    with pytest.raises(DataError, match="has train/ but no val/"):
        find_photos(tmp_path, 0)


def test_a_class_without_readable_photos(tmp_path):
    root = folder_of(tmp_path / "all", cats=4, dogs=4)
    for path in (root / "cats").iterdir():
        path.write_bytes(b"junk")
    with pytest.raises(DataError, match="class cats: none of its training photos can be read"):
        drop_unreadable(find_photos(root, 0), 32, 2)


def test_unreadable_photos_are_left_out(tmp_path):
    root = folder_of(tmp_path / "all", cats=10, dogs=10)
    (root / "dogs" / "03.png").write_bytes(b"")
    seen = []
    found = drop_unreadable(find_photos(root, 0), 32, 2, lambda done, total: seen.append((done, total)))
    assert len(found.train) + len(found.val) == 19
    ((path, reason),) = found.unreadable
    assert path.endswith("03.png") and "03.png" in reason
    assert seen == [(i, 20) for i in range(1, 21)]


def batches(loader, *arguments, **changes):
    return list(loader.training(Augmentation(**changes), *arguments))


def test_any_step_of_any_epoch_can_be_made_again(photos):
    loader = Loader(find_photos(photos, 0).train, PREPROCESSING, batch_size=10, workers=2)
    assert loader.steps() == 2
    whole = batches(loader, 7, 3)
    assert [len(labels) for _, labels, _ in whole] == [10, 10]
    rest = batches(loader, 7, 3, 1)
    assert len(rest) == 1 and (rest[0].pixels == whole[1].pixels).all() and (rest[0].labels == whole[1].labels).all()
    one_worker = batches(Loader(loader.photos, PREPROCESSING, 10, 1), 7, 3)
    assert all((a.pixels == b.pixels).all() for a, b in zip(whole, one_worker, strict=True))
    assert not (batches(loader, 7, 4)[0].pixels == whole[0].pixels).all()
    assert not (batches(loader, 8, 3)[0].pixels == whole[0].pixels).all()


def test_fewer_photos_than_a_batch(photos):
    loader = Loader(find_photos(photos, 0).train[:5], PREPROCESSING, batch_size=32, workers=2)
    assert loader.steps() == 1 and [len(labels) for _, labels, _ in batches(loader, 0, 0)] == [5]


def test_evaluation_sees_what_the_runtime_sees(photos):
    loader = Loader(find_photos(photos, 0).val, PREPROCESSING, batch_size=5, workers=3)
    found = list(loader.evaluation())
    assert [len(labels) for _, labels, _ in found] == [5, 5, 2]
    images = np.concatenate([images for images, _, _ in found])
    expected = np.stack([PREPROCESSING.load(path) for path, _ in loader.photos])
    assert (images == expected).all()
    assert np.concatenate([labels for _, labels, _ in found]).tolist() == [label for _, label in loader.photos]


def test_stopping_early_leaves_no_thread_waiting(photos):
    loader = Loader(find_photos(photos, 0).train, PREPROCESSING, batch_size=2, workers=2)
    iterator = loader.training(Augmentation(), 0, 0)
    next(iterator)
    iterator.close()
    assert len(batches(loader, 0, 0)) == 12


def test_no_flip_never_mirrors():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, 32:] = 255  # bright on the right
    for flip, sides in ((False, {True}), (True, {True, False})):
        found = set()
        for seed in range(40):
            out = Augmentation(flip)(picture, 32, np.random.RandomState(seed)).mean((0, 2))
            assert out.shape == (32,)
            found.add(bool(out[-1] > out[0]))
        assert found == sides


def test_augmentation_stays_in_range_and_shape():
    rng = np.random.RandomState(0)
    for shape in ((300, 20, 3), (20, 300, 3), (5, 5, 3)):
        out = Augmentation()(rng.randint(0, 256, shape, dtype=np.uint8), 64, rng)
        assert out.shape == (64, 64, 3) and out.dtype == np.uint8


def test_default_workers():
    assert 1 <= default_workers() <= 4
