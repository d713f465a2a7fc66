"""Slices that are computed side by side: in order, no more at once than said, and the same numbers."""

import threading
import time

import pytest
import torch

from da3.runtime.training.config import MemorySettings
from da3.toolchain.backbones import random_weights
from da3.toolchain.methods import Task, adaptor_spec, method
from da3.toolchain.methods.side_by_side import SideBySide
from da3.toolchain.network import slicing


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


@pytest.mark.parametrize(("at_once", "shares"), [(3, {1}), (2, {1, 2})])
def test_threads_share_the_cores_and_this_one_keeps_its_own(at_once, shares, three_threads):
    side_by_side, together = SideBySide(), threading.Barrier(at_once)

    def cores(_):
        together.wait()  # each thread has one
        return torch.get_num_threads()

    found = list(side_by_side.each(cores, range(at_once), at_once))
    assert set(found) == shares and sum(found) == 3
    assert torch.get_num_threads() == 3 == side_by_side.cores


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


PIXELS = torch.randint(0, 256, (15, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(15) % 5


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(slicing, "PART_FLOPS", 1e6)


def results(threads, micro_batch):
    """Fixed statistics, gradients, and answers."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        it = learner(micro_batch)
        it.prepare(lambda: (it.normalise(few) for few in PIXELS.split(micro_batch)))
        assert it.at_once == threads
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


def test_two_threads_with_four_photos_each_give_what_one_gives_with_four():
    (loss, correct, share, _), grads, answers, mean = results(threads=2, micro_batch=8)
    alone, expected, expected_answers, expected_mean = results(threads=1, micro_batch=4)
    assert (correct, share) == (alone.correct, alone.share)
    assert loss == pytest.approx(alone.loss, abs=1e-6)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(answers, expected_answers, rtol=1e-5, atol=1e-5)
    for found, other in zip(grads, expected, strict=True):
        assert (found - other).abs().max() <= 1e-5 * other.abs().max()


def test_the_same_again_is_the_same_to_the_bit():
    _, first, answers, _ = results(threads=2, micro_batch=11)
    _, second, again, _ = results(threads=2, micro_batch=11)
    assert torch.equal(answers, again)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_no_photos_give_no_gradients():
    it = learner(4)
    assert it.step(PIXELS[:0], LABELS[:0], 0.1, whole=4).correct == 0
    assert all(p.grad is None for p in it.parameters())
