"""Weights files: read, recognised, checked against a network, and hashed into a backbone's identity."""

from __future__ import annotations

import hashlib
import urllib.error
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path

import torch
from torch import Tensor

from da3.toolchain.errors import WeightsError

IMAGENET_URLS = {
    "mobilenet_v2": "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth",
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
}
DEMO_PATH = Path(__file__).parent.parent / "weights" / "demo.safetensors"
_RANGES = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0..1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "-1..1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
_CLASSIFIER = ("classifier.", "fc.")


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, floats as float32, each read when it is asked for and then forgotten.

    The file is opened anew for every tensor, since an open one keeps all that was read of it in this process's memory.
    """

    def __init__(self, path: Path):
        from safetensors import safe_open

        self.path = path
        with safe_open(path, framework="pt") as file:
            self.names = list(file.keys())

    def __getitem__(self, name: str) -> Tensor:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name).clone()
        except (SafetensorError, OSError) as error:
            if name not in self.names:
                raise KeyError(name) from error
            raise WeightsError(f"weights file {self.path} changed while it was in use ({error})") from error
        return tensor.float() if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class WeightsFile:
    """A state dict with the facts its metadata states (torchvision's conventions where it states none)."""

    state: Mapping[str, Tensor]
    source: str
    _: KW_ONLY
    arch: str | None = None
    width: float = 1.0
    padding: str = "torch"
    input_range: str = "imagenet"
    input_size: int = 224

    @property
    def mean(self) -> tuple[float, float, float]:
        return _RANGES[self.input_range][0]

    @property
    def std(self) -> tuple[float, float, float]:
        return _RANGES[self.input_range][1]

    def metadata(self, arch: str) -> dict[str, str]:
        """The metadata that makes a safetensors file of this state dict describe itself."""
        return {
            "arch": arch,
            "width": str(self.width),
            "stride2_padding": self.padding,
            "input_range": self.input_range,
            "input_size": str(self.input_size),
            "state_dict": "torchvision",
        }

    def sha256(self, arch: str) -> str:
        """Identity of the backbone: arch, width, padding, range and each tensor but the classifier's."""
        digest = hashlib.sha256(f"{arch} {self.width} {self.padding} {self.input_range}".encode())
        for key in sorted(backbone_keys(self.state)):
            tensor = self.state[key].contiguous()
            digest.update(f"{key} {list(tensor.shape)}".encode())
            digest.update(tensor.float().numpy().tobytes())
        return digest.hexdigest()


def backbone_keys(keys: Iterable[str]) -> list[str]:
    """The keys that belong to the backbone: neither the classifier nor batch norm's counters."""
    return [k for k in keys if not k.startswith(_CLASSIFIER) and not k.endswith("num_batches_tracked")]


def load_weights(spec: str, arch: str) -> WeightsFile:
    """Read ``spec``: "imagenet" (torchvision's published file), "demo", or a .safetensors / .pth path."""
    if spec == "imagenet":
        return _download(arch)
    path = DEMO_PATH if spec == "demo" else Path(spec).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"weights file {path} does not exist: give a .safetensors or .pth path, 'imagenet' or 'demo'"
        )
    if path.suffix == ".safetensors":
        found = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        found = WeightsFile(_read_pickle(path), str(path))
    else:
        raise WeightsError(f"weights file {path}: unknown kind {path.suffix!r}; use .safetensors or .pth")
    if found.arch is not None and found.arch != arch:
        raise WeightsError(f"weights file {path} holds {found.arch}, not {arch}: pass --backbone {found.arch}")
    return found


def load_into(network: torch.nn.Module, weights: WeightsFile) -> None:
    """Load the backbone's tensors; the classifier stays as it is. Raises WeightsError naming what does not fit."""
    check_fit(network, weights)
    own = network.state_dict()
    for key in backbone_keys(own):
        own[key].copy_(weights.state[key])


def check_fit(network: torch.nn.Module, weights: WeightsFile) -> None:
    """Raise WeightsError naming the first tensor that is missing, unexpected, of another shape, or not finite."""
    wanted = network.state_dict()
    expected = set(backbone_keys(wanted))
    found = set(backbone_keys(weights.state))
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected:
        wrong = [f"missing {_some(missing)}"] * bool(missing) + [f"unexpected {_some(unexpected)}"] * bool(unexpected)
        raise WeightsError(f"weights {weights.source} do not fit this backbone: {'; '.join(wrong)}")
    for key in sorted(expected):
        tensor = weights.state[key]
        have, want = tuple(tensor.shape), tuple(wanted[key].shape)
        if have != want:
            raise WeightsError(
                f"weights {weights.source}: {key} has shape {have}, this backbone needs {want} (another width?)"
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"weights {weights.source}: {key} holds NaN or infinity; the file is damaged")


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:4])
    return f"{len(keys)} keys ({shown}{', ...' if len(keys) > 4 else ''})"


def _download(arch: str) -> WeightsFile:
    url = IMAGENET_URLS[arch]
    try:
        state = torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"could not download {url} ({error}): check the network, or fetch the file elsewhere and pass "
            f"--weights PATH"
        ) from error
    return WeightsFile(state, "imagenet", arch=arch)


def _read_safetensors(path: Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
        state = StoredTensors(path)
        for _ in state.values():  # a truncated file fails here, not in the middle of a run
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"weights file {path} cannot be read ({error}): it is truncated or no safetensors"
        ) from error
    try:
        found = WeightsFile(
            state,
            str(path),
            arch=meta.get("arch"),
            width=float(meta.get("width", 1.0)),
            padding=meta.get("stride2_padding", "torch"),
            input_range=meta.get("input_range", "imagenet"),
            input_size=int(meta.get("input_size", 224)),
        )
    except ValueError as error:
        raise WeightsError(f"weights file {path}: bad metadata ({error})") from error
    if found.input_range not in _RANGES or found.padding not in ("torch", "tf"):
        raise WeightsError(
            f"weights file {path}: metadata input_range={found.input_range!r}, stride2_padding={found.padding!r}; "
            f"known are {sorted(_RANGES)} and ['tf', 'torch']"
        )
    return found


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"weights file {path} cannot be read as a state dict ({reason[:120]})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"weights file {path} is no state dict (a mapping of names to tensors)")
    return state
