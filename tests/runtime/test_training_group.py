"""A batch is divided over processes without a photo more or less, and whatever they see together is what one sees."""

import numpy as np
import pytest
from thread_group import together

from da3.runtime.errors import DataError
from da3.runtime.images import Preprocessing
from da3.runtime.training import Augmentation, Group, Loader, drop_unreadable, find_photos

PREPROCESSING = Preprocessing(32, 0.875, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def group(rank, size):
    made = Group()
    made.rank, made.size = rank, size
    return made


@pytest.mark.parametrize("size", range(1, 9))
def test_parts_are_all_rows_in_order_and_about_equal(size):
    for count in range(30):
        parts = [range(count)[group(rank, size).part(count)] for rank in range(size)]
        assert [row for part in parts for row in part] == list(range(count))
        sizes = [len(part) for part in parts]
        assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_parts_of_batches_are_the_batches(photos, size):
    found = find_photos(photos, 0)

    def batches(kind, group):
        return list(kind(Loader(found.train if kind is training else found.val, PREPROCESSING, 5, 2, group)))

    def training(loader):
        return loader.training(Augmentation(True), 3, 1, 1)

    def evaluation(loader):
        return loader.evaluation()

    for kind in (training, evaluation):
        alone = batches(kind, Group())
        parts = [batches(kind, group(rank, size)) for rank in range(size)]
        assert [len(few) for few in parts] == [len(alone)] * size
        for whole, *those in zip(alone, *parts, strict=True):
            assert {part.whole for part in those} == {len(whole.labels)}
            assert np.array_equal(np.concatenate([part.pixels for part in those]), whole.pixels)
            assert np.array_equal(np.concatenate([part.labels for part in those]), whole.labels)
    assert len(alone[-1].labels) == 2  # of the last batch of validation: fewer photos than processes


def test_the_parts_of_samples_are_the_samples(photos):
    train = find_photos(photos, 0).train
    alone = Loader(train, PREPROCESSING, 8, 2).sample(11, 5, 7)
    parts = [list(Loader(train, PREPROCESSING, 8, 2, group(rank, 3)).samples(11, 5, 7, 2)) for rank in range(3)]
    assert np.array_equal(np.concatenate([pixels for part in parts for pixels in part]), alone)
    assert np.array_equal(Loader(train, PREPROCESSING, 8, 2, group(1, 3)).sample(11, 5, 7), alone)


def test_each_process_reads_its_part_and_all_leave_out_the_same(photos, tmp_path, monkeypatch):
    found = find_photos(photos, 0)
    broken = [tmp_path / "first.jpg", tmp_path / "last.jpg"]
    for path in broken:
        path.write_bytes(b"no photo")
    every = found._replace(train=((str(broken[0]), 0), *found.train), val=(*found.val, (str(broken[1]), 1)))
    alone = drop_unreadable(every, 32, 2)
    assert len(alone.unreadable) == 2
    looked = [0, 0, 0]

    def drop(group):
        def count(done, total):
            looked[group.rank] = done

        return drop_unreadable(every, 32, 2, count, group)

    assert together(3, drop) == [alone] * 3
    assert sum(looked) == len(every.train + every.val) and max(looked) == 13


def test_a_class_without_photos_is_refused_by_all(photos, tmp_path):
    found = find_photos(photos, 0)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no photo")
    train = (*((path, label) for path, label in found.train if label), (str(broken), 0))
    refused = []

    def drop(group):
        with pytest.raises(DataError, match="class0: none of its training photos can be read"):
            drop_unreadable(found._replace(train=train), 32, 2, group=group)
        refused.append(group.rank)

    together(2, drop)
    assert sorted(refused) == [0, 1]
