"""Every method trains what it says, starts where it says, and ends as an ordinary network where it can."""

import pytest
import torch
from torch import nn

from da3.runtime.training.config import MemorySettings
from da3.runtime.training.recipe import schedule
from da3.toolchain.backbones import load_backbone, load_weights, random_weights
from da3.toolchain.backbones.layers import ExplicitConv2d
from da3.toolchain.methods import METHODS, Task, adaptor_spec
from da3.toolchain.methods.ordinary import Ordinary
from da3.toolchain.methods.piggyback import START, THRESHOLD
from da3.toolchain.training.adamw import AdamW

ORDINARY = [name for name, found in METHODS.items() if issubclass(found, Ordinary)]
CASES = [("mobilenet_v2", "torch"), ("efficientnet_lite0", "tf"), ("resnet18", "torch"), ("resnet50", "torch")]
SIZE, CLASSES = 64, 3


def methods_on_backbones(names, on_resnet50):
    """Every method on every backbone; the blocks of a ResNet-50, which takes its time, with one method by default."""
    return [
        pytest.param(name, *case, marks=pytest.mark.slow if case[0] == "resnet50" and name != on_resnet50 else ())
        for name in names
        for case in CASES
    ]


@pytest.fixture(scope="module")
def weights():
    """A function that gives the same random weights for the same backbone."""
    made = {}

    def get(arch="mobilenet_v2", padding="torch", width=0.35):
        key = (arch, padding, width)
        if key not in made:
            made[key] = random_weights(arch, 1.0 if arch.startswith("resnet") else width, padding=padding)
        return made[key]

    return get


def learner_of(name, weights, arch="mobilenet_v2", micro_batch=0, size=SIZE):
    torch.manual_seed(0)
    memory = MemorySettings(keep_precision="fp32", micro_batch=micro_batch)
    spec = adaptor_spec(arch, weights, size)._replace(first=0)
    task = Task(arch=arch, size=size, classes=CLASSES, flops_budget=1.0, adaptor=spec, memory=memory)
    return METHODS[name](task, weights)


def batch(count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
    return pixels, torch.arange(count) % CLASSES


def step(learner, seed=0):
    """Gradients of one batch."""
    learner.train_mode(0.5)
    learner.model.zero_grad()
    torch.manual_seed(seed)
    return learner.step(*batch(seed=seed), 0.1)


def shake(learner):
    """Move everything that is trained, statistics of batch norms included, away from where it began."""
    step(learner)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            if name.endswith(".real"):  # one mask in ten off
                parameter.copy_(torch.where(torch.rand(parameter.shape, generator=generator) < 0.1, 0.0, START))
            elif parameter.requires_grad:
                spread = float(parameter.std()) or 1.0
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05 * spread)


def logits_of(learner, seed=2):
    learner.eval_mode()
    return learner.predict(batch(seed=seed)[0]).logits


def is_conv_weight(model):
    """A function that says whether a parameter's name is that of a convolution of the backbone."""
    names = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, ExplicitConv2d)}
    return lambda name: name in names


TRAINED = {
    "da3": lambda model: lambda name: name.startswith(("adaptors.", "exits.", "head.")),
    "linear": lambda model: lambda name: name.startswith("head."),
    "bias": lambda model: lambda name: name.endswith(".bias") or name == "head.weight",
    "series": lambda model: lambda name: not is_conv_weight(model)(name),
    "parallel": lambda model: lambda name: not is_conv_weight(model)(name),
    "piggyback": lambda model: lambda name: name.endswith(".real") or name.startswith(("classifier.", "fc.")),
    "finetune": lambda model: lambda name: True,
}


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18"])
@pytest.mark.parametrize("name", METHODS)
def test_only_what_it_claims_is_trained(name, arch, weights):
    learner = learner_of(name, weights(arch), arch)
    claimed = TRAINED[name](learner.model)
    for parameter_name, parameter in learner.model.named_parameters():
        assert parameter.requires_grad == claimed(parameter_name), parameter_name
    domain = learner.domain_state().keys()
    assert {n for n, p in learner.model.named_parameters() if p.requires_grad} <= domain
    before = {k: v.clone() for k, v in learner.model.state_dict().items()}
    optimizer = AdamW(learner.parameters(), lr=1e-3, weight_decay=0.1)
    for seed in range(3):
        step(learner, seed)
        assert all(p.grad is not None for p in learner.parameters())
        optimizer.step()
    after = learner.model.state_dict()
    frozen = before.keys() - domain
    assert bool(frozen) == (name != "finetune")
    assert all(torch.equal(before[k], after[k]) for k in frozen), "what is not the domain's may not change"
    moved = [n for n, p in learner.model.named_parameters() if p.requires_grad and not torch.equal(before[n], after[n])]
    assert len(moved) == len(learner.parameters())
    statistics = [k for k in before if k.endswith("running_mean") and not torch.equal(before[k], after[k])]
    assert bool(statistics) == (name in ("series", "parallel", "finetune"))


@pytest.mark.parametrize(("name", "arch", "padding"), methods_on_backbones(METHODS, on_resnet50="da3"))
@torch.no_grad()
def test_starts_at_the_pretrained_network(name, arch, padding, weights):
    learner = learner_of(name, weights(arch, padding), arch)
    seen = []
    learner.model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    logits_of(learner)
    expected = load_backbone(arch, weights(arch, padding))(learner.normalise(batch(seed=2)[0]))
    assert (torch.cat(seen) - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize(("name", "arch", "padding"), methods_on_backbones(ORDINARY, on_resnet50="series"))
def test_ends_as_an_ordinary_network(name, arch, padding, weights):
    learner = learner_of(name, weights(arch, padding), arch)
    untrained = logits_of(learner)
    shake(learner)
    expected = logits_of(learner)
    assert (expected - untrained).abs().max() > 1e-2 * expected.abs().max()
    trainable = [(n, p.requires_grad) for n, p in learner.model.named_parameters()]
    backbone, head = learner.frozen()
    with torch.no_grad():
        found = head(backbone(learner.normalise(batch(seed=2)[0])))
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert not list(backbone.parameters()), "a frozen backbone has buffers only"
    assert [(n, p.requires_grad) for n, p in learner.model.named_parameters()] == trainable
    assert torch.equal(logits_of(learner), expected)


@pytest.mark.parametrize("name", METHODS)
def test_domain_state_is_all_there_is_to_a_domain(name, weights):
    learner = learner_of(name, weights())
    shake(learner)
    state = {k: v.clone() for k, v in learner.domain_state().items()}
    torch.manual_seed(7)
    other = METHODS[name](learner.task, weights())
    other.load_domain_state(state)
    assert torch.equal(logits_of(other), logits_of(learner))
    assert all(torch.equal(other.domain_state()[k], v) for k, v in state.items())
    state.popitem()
    with pytest.raises(KeyError):
        other.load_domain_state(state)


@pytest.mark.parametrize("name", ORDINARY)
def test_domain_bytes(name, weights):
    learner = learner_of(name, weights())
    features = load_backbone("mobilenet_v2", weights()).feature_size
    head = features * CLASSES + CLASSES
    trained = sum(p.numel() for p in learner.parameters())
    channels = sum(m.num_features for m in learner.model.modules() if isinstance(m, nn.BatchNorm2d))
    convs = sum(p.numel() for n, p in learner.model.named_parameters() if n.endswith(".real"))
    expected = {
        "linear": 2 * (trained + 2 * features),  # the head's fixed statistics
        "bias": 2 * (trained + 2 * features),
        "series": 2 * (trained + 2 * channels),  # the batch norms' statistics
        "parallel": 2 * (trained + 2 * channels),
        "piggyback": 2 * head + (convs + 7) // 8,
        "finetune": 2 * (trained + 2 * channels),
    }
    assert learner.domain_bytes() == expected[name]


def test_masks_get_the_gradient_of_their_rounding(weights):
    """dL/dm = w dL/d(w mask), also where the mask is off; w mask is what the network computes with."""
    learner = learner_of("piggyback", weights())
    shake(learner)
    step(learner)
    network = learner.plain().requires_grad_(True)
    pixels, labels = batch()
    nn.functional.cross_entropy(network(learner.normalise(pixels).contiguous()), labels, label_smoothing=0.1).backward()
    plain = dict(network.named_modules())
    off = 0
    for name, module in learner.model.named_modules():
        if isinstance(module, ExplicitConv2d):
            weight = module.parametrizations.weight.original
            mask = module.parametrizations.weight[0].real
            assert torch.equal(plain[name].weight, torch.where(mask > THRESHOLD, weight, 0.0))
            expected = weight * plain[name].weight.grad
            assert torch.allclose(mask.grad, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max())), name
            off += int(((mask <= THRESHOLD) & (mask.grad != 0)).sum())
    assert off > 100, "a weight that is off can come back"


@pytest.mark.parametrize("name", [n for n in ORDINARY if METHODS[n].sliceable])
def test_slices_add_up_to_the_batch(name, weights):
    whole, sliced = (learner_of(name, weights(), micro_batch=size) for size in (6, 4))
    losses = []
    for learner in (whole, sliced):
        shake(learner)
        losses.append(step(learner).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(whole.parameters(), sliced.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-3, atol=1e-5 * float(a.grad.abs().max()))


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18", "resnet50"])
@pytest.mark.parametrize("name", ["series", "parallel"])
def test_residual_adapters_cost_what_the_papers_say(name, arch, weights):
    """About a ninth of a network of 3x3 convolutions; less where most convolutions are 1x1."""
    learner = learner_of(name, weights(arch, width=1.0), arch)
    names = [n for n, _ in learner.model.named_parameters() if ".adapter." in n]
    sizes = {n: p.numel() for n, p in learner.model.named_parameters()}
    frozen = sum(p.numel() for p in learner.model.parameters() if not p.requires_grad)
    share = sum(sizes[n] for n in names) / frozen
    low, high = {"mobilenet_v2": (0.07, 0.11), "resnet18": (0.09, 0.13), "resnet50": (0.04, 0.06)}[arch]
    assert low < share < high
    # The stem, and every block's one or two 3x3 convolutions, or what stands for them.
    assert len(names) == {"mobilenet_v2": 18, "resnet18": 17, "resnet50": 17}[arch]


def stripes(count, seed):
    """Noisy pictures of three stripe widths at random phases: pixels uint8 (count, 32, 32, 3) and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    phase = 6.0 * torch.rand(count, 1, generator=generator)
    wave = torch.sin(torch.arange(32) * (0.3 + 0.5 * labels[:, None]) + phase)  # (count, 32)
    noise = 15.0 * torch.randn(count, 32, 32, 3, generator=generator)
    return (110 + 60 * wave[:, None, :, None] + noise).clamp(0, 255).to(torch.uint8), labels


@pytest.mark.parametrize(
    "name",  # adapters in parallel learn as those in series do, and more slowly
    [pytest.param(name, marks=pytest.mark.slow if name == "parallel" else ()) for name in METHODS],
)
def test_learns(name):
    """With its own learning rate, from the embedded backbone."""
    learner = learner_of(name, load_weights("demo", "mobilenet_v2"), size=32)
    pixels, labels = stripes(24, 0)
    learner.prepare(lambda: [learner.normalise(pixels)])
    optimizer = AdamW(learner.parameters(), weight_decay=1e-4)
    losses = []
    steps = 40
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learner.default_lr * schedule(i / steps, learner.warm_up)
        learner.train_mode(i / steps)
        optimizer.zero_grad()
        losses.append(learner.step(pixels, labels, 0.1).loss)
        optimizer.step()
    learner.eval_mode()
    pixels, labels = stripes(60, 1)
    accuracy = float((learner.predict(pixels).logits.argmax(1) == labels).float().mean())
    assert losses[-1] < 0.7 * losses[0] and accuracy >= 0.8
