"""Is a part worth starting before it is known who leaves? Modelled on the simulated device, with assumed durations.

`pytest -s` prints the figures that docs/jetson.md quotes.
"""

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
from simulation import simulated
from simulation.device.clock import Clock, Costs
from synthetic_bundle import Backbone, expected, images, write_exits_bundle
from test_exits import medians, rules

from da3.runtime import Runtime
from da3.runtime.execution import scheduler
from da3.runtime.schedule.look_ahead import WAIT
from da3.runtime.trt.build import build_engines
from da3.runtime.trt.host_calls import HostCall

PARTS = (0.4, 0.35, 0.25)  # of the device's time for a picture


class Board(NamedTuple):
    """Microseconds, assumed. whole: of the device, for all parts; submit: of the host, for a part; delay: until the
    device begins; copy: of an exit's features; wake: until the host goes on; classify: for an exit's answer."""

    whole: float
    submit: float
    delay: float
    copy: float
    wake: float
    classify: float


BOARDS = {
    "like a Nano": Board(9000, 150, 20, 20, 60, 150),
    "like an Orin Nano": Board(1500, 60, 10, 10, 25, 40),
    "like a Thor, graphs": Board(400, 10, 5, 6, 15, 20),
}
# Shares of the pictures that leave at each exit and at the end.
PICTURES = {
    "nobody": (0, 0, 1),
    "few": (0.02, 0.05, 0.93),
    "some": (0.1, 0.2, 0.7),
    "many": (0.35, 0.35, 0.3),
}
ORDERS = list(product((False, True), repeat=2))  # is the part behind each exit started ahead?


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ahead") / "bundle"
    write_exits_bundle(folder)
    with simulated():
        build_engines(folder, "fp32")
    return folder


@pytest.mark.parametrize("name", BOARDS)
def test_the_rule_is_near_the_best_order(name, bundle):
    board = BOARDS[name]
    found = {order: times(bundle, board, order) for order in ORDERS}
    for pictures, shares in PICTURES.items():
        means = {order: float(time @ shares) for order, time in found.items()}
        chosen = rule(shares)
        orders = (ORDERS[0], ORDERS[-1], chosen)
        print(f"{name}, {pictures} leave: never, always, rule:", *(round(means[order]) for order in orders))
        assert means[chosen] <= 1.04 * min(means.values())


@pytest.mark.parametrize("name", BOARDS)
def test_where_nobody_leaves_parts_are_as_fast_as_one_engine_would_be(name, bundle):
    """The whole as one engine: started once, its features copied, the classifiers asked one behind the other."""
    board = BOARDS[name]
    (found,) = set(times(bundle, board, None))
    whole = board.delay + board.whole + board.copy + board.wake + 3 * board.classify
    print(f"{name}: parts {found:.0f}, whole {whole:.0f}")
    assert found <= 1.01 * whole


def rule(shares):
    there = 1 - np.concatenate([[0], np.cumsum(shares)])
    return tuple(bool(shares[i] * PARTS[i + 1] < (there[i] - shares[i]) * WAIT) for i in (0, 1))


def times(folder, board, order):
    """Microseconds that a picture takes which leaves at each exit, and one that goes to the end. order: one of ORDERS;
    None: nobody leaves."""
    x = images(32)
    part = dict(zip(("e0", "e1", "features"), (share * board.whole for share in PARTS), strict=True))
    clock = Clock(Costs(board.submit, board.delay, 2, board.wake, lambda work: duration(work, board, part)))
    run = HostCall.__call__
    found = []
    with simulated() as device, Runtime(folder, "tensorrt") as runtime, pytest.MonkeyPatch.context() as patch:
        patch.setattr(HostCall, "__call__", lambda call: (run(call), clock.spend(board.classify)))
        patch.setattr(scheduler, "starts_ahead", lambda *_: order or (False, False))
        answers = Backbone().answers(x, runtime.load("flowers").weights)
        left = expected(answers, medians(answers))[2]
        runtime.set_exits("flowers", rules([None, None] if order is None else medians(answers)))
        for exit in range(3):
            one = x[left == exit][:1]
            runtime.run_batch(one, "flowers")
            device.timeline.clock, begun = clock, clock.now
            for _ in range(3):
                assert runtime.run_batch(one, "flowers").left == [2 if order is None else exit]
            found.append((clock.now - begun) / 3)
            device.timeline.clock = None
    return np.array(found)


def duration(work, board, part):
    if work.name.startswith("copy"):
        return board.copy
    return next(time for name, time in part.items() if work.name.endswith(f", {name}"))
