"""The optimiser: PyTorch's numbers to the bit, without PyTorch's compiler."""

import copy
import subprocess
import sys

import torch
from torch import nn

from da3.toolchain.training.adamw import AdamW

SETTINGS = {"lr": 4e-3, "weight_decay": 1e-2}


def network():
    torch.manual_seed(0)
    return nn.ModuleList([nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)])


def train(net, optimizer, steps, skipping):
    """The middle layer has no gradient in every step that ``skipping`` names."""
    draw = torch.Generator().manual_seed(1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - step / 20)
        optimizer.zero_grad(set_to_none=True)
        first, middle, last = net
        hidden = first(torch.randn(5, 8, generator=draw)).relu()
        hidden = hidden if step in skipping else middle(hidden)
        last(hidden).square().mean().backward()
        optimizer.step()


def equal(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


def test_weights_and_state_are_those_of_pytorchs_class():
    ours, theirs = network(), network()
    mine, stock = AdamW(ours.parameters(), **SETTINGS), torch.optim.AdamW(theirs.parameters(), **SETTINGS)
    for net, optimizer in ((ours, mine), (theirs, stock)):
        train(net, optimizer, 12, skipping=(0, 1, 5))
    assert equal(ours, theirs) and not equal(ours, network())
    found, expected = mine.state_dict()["state"], stock.state_dict()["state"]
    assert found.keys() == expected.keys()
    for place, state in expected.items():
        assert found[place].keys() == state.keys()
        assert all(torch.equal(found[place][name], value) for name, value in state.items())


def test_either_goes_on_from_the_others_state():
    net = network()
    first = AdamW(net.parameters(), **SETTINGS)
    train(net, first, 5, skipping=(0, 1, 2, 3, 4))  # the middle layer has no state
    assert sorted(first.state_dict()["state"]) == [0, 1, 4, 5]
    results = []
    for kind in (AdamW, torch.optim.AdamW):
        resumed = copy.deepcopy(net)
        optimizer = kind(resumed.parameters(), **SETTINGS)
        state = copy.deepcopy(first.state_dict()["state"])
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        train(resumed, optimizer, 5, skipping=())
        results.append(resumed)
    assert equal(*results)


def test_training_loads_no_compiler(photos, weights_files, tmp_path):
    """It would take three seconds and 77 MB. The linear method also sizes its slices on a network of shapes alone."""
    code = (
        "import sys; from pathlib import Path; from da3.toolchain.training.options import TrainOptions\n"
        "from da3.toolchain.training.progress import SilentReporter; from da3.toolchain.training.train import train\n"
        "data, runs, weights = sys.argv[1:]\n"
        "options = TrainOptions(domain='x', data=data, runs=Path(runs), weights=weights, method='linear', epochs=1)\n"
        "train(options, SilentReporter()); sys.exit('torch._dynamo' in sys.modules)"
    )
    words = [str(photos), str(tmp_path), str(weights_files["mobilenet_v2"])]
    subprocess.run([sys.executable, "-c", code, *words], check=True)
