"""Slices that are computed side by side: in order, no more at once than said, and the same numbers."""

import threading
import time

import pytest
import torch

from da3.runtime.training.config import MemorySettings
from da3.toolchain.backbones import random_weights
from da3.toolchain.methods import Task, adaptor_spec, method
from da3.toolchain.methods.side_by_side import SideBySide


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("at_once", [2, 3])
def test_results_come_in_order_and_no_more_at_once_than_said(at_once, three_threads):
    running, most, untaken, threads = [0], [0], [0], set()
    lock = threading.Lock()

    def work(i):
        with lock:
            running[0] += 1
            untaken[0] += 1
            most[0] = max(most[0], untaken[0])
            threads.add(threading.current_thread().name)
        time.sleep(0.01 if i % 2 else 0.001)
        with lock:
            running[0] -= 1
        return i

    found = []
    for i in SideBySide().each(work, iter(range(12)), at_once):
        found.append(i)
        untaken[0] -= 1
    assert found == list(range(12))
    assert most[0] <= at_once and not running[0]
    assert threading.current_thread().name not in threads


def test_each_thread_has_one_core_and_this_one_keeps_its_own(three_threads):
    side_by_side = SideBySide()
    assert list(side_by_side.each(lambda _: torch.get_num_threads(), range(6), 3)) == [1] * 6
    assert torch.get_num_threads() == 3 == side_by_side.threads


def test_what_goes_wrong_is_raised_after_the_others_have_ended(three_threads):
    ended = []

    def work(i):
        if i == 1:
            raise ValueError("the second")
        time.sleep(0.05)
        ended.append(i)

    with pytest.raises(ValueError, match="the second"):
        list(SideBySide().each(work, range(9), 3))
    assert set(ended) <= {0, 2, 3}
    count = len(ended)
    time.sleep(0.1)
    assert len(ended) == count, "nothing is computed any more"


def learner(micro_batch):
    torch.manual_seed(0)
    weights = random_weights("mobilenet_v2", width=0.35)
    task = Task(
        arch="mobilenet_v2",
        size=64,
        classes=5,
        flops_budget=1.0,
        adaptor=adaptor_spec("mobilenet_v2", weights, 64),
        memory=MemorySettings(micro_batch=micro_batch),
    )
    return method("da3")(task, weights)


PIXELS = torch.randint(0, 256, (11, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(11) % 5


def results(threads, micro_batch):
    """Fixed statistics, gradients, and answers."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        it = learner(micro_batch)
        it.prepare(lambda: (it.normalise(few) for few in PIXELS.split(micro_batch)))
        it.train_mode(0.5)
        result = it.step(PIXELS, LABELS, 0.1)
        assert torch.get_num_threads() == threads
        grads = [None if p.grad is None else p.grad.clone() for p in it.parameters()]
        it.eval_mode()
        predicted = it.predict(PIXELS)
        assert not predicted.logits.requires_grad
        return result, grads, predicted.answers, it.model.head.mean.clone()
    finally:
        torch.set_num_threads(before)


def test_two_threads_with_two_photos_each_give_what_one_gives_with_two():
    (loss, correct, share, _), grads, answers, mean = results(threads=2, micro_batch=4)
    alone, expected, expected_answers, expected_mean = results(threads=1, micro_batch=2)
    assert (correct, share) == (alone.correct, alone.share)
    assert loss == pytest.approx(alone.loss, abs=1e-6)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(answers, expected_answers, rtol=1e-5, atol=1e-5)
    for found, other in zip(grads, expected, strict=True):
        assert (found - other).abs().max() <= 1e-5 * other.abs().max()


def test_the_same_again_is_the_same_to_the_bit():
    _, first, answers, _ = results(threads=3, micro_batch=6)
    _, second, again, _ = results(threads=3, micro_batch=6)
    assert torch.equal(answers, again)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_photo_at_a_time_is_one_at_a_time():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert [learner(n).at_once for n in (1, 2, 5)] == [1, 2, 2]
    finally:
        torch.set_num_threads(before)


def test_no_photos_give_no_gradients():
    it = learner(4)
    assert it.step(PIXELS[:0], LABELS[:0], 0.1, whole=4).correct == 0
    assert all(p.grad is None for p in it.parameters())
