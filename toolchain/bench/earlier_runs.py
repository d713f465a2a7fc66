"""What an earlier call of ``da3 bench accuracy`` left of a run: finished, to resume, or with other options."""

from __future__ import annotations

from dataclasses import replace

from da3.runtime.training import RunConfig, find_photos
from da3.runtime.training import checkpoint as ckpt
from da3.toolchain.backbones import WeightsFile
from da3.toolchain.bench.accuracy_plan import PlannedRun
from da3.toolchain.bench.scores import Key
from da3.toolchain.bench.trained import Trained
from da3.toolchain.bench.variants import memory_settings_of
from da3.toolchain.errors import CheckpointError, TrainingError


def trained_or_planned(key: Key, run: PlannedRun, weights: WeightsFile, overwrite: bool) -> Trained | PlannedRun:
    """A run that is finished, or as it is to be started, resumed or repeated.

    Raises TrainingError for a run that was made with other options, and CheckpointError for a damaged one, unless
    ``overwrite`` says to train those again.
    """
    options = run.options
    photos = find_photos(options.data_folder(), key.seed)
    asked = options.config(weights, photos.classes, len(photos.train))
    path = options.folder / "last.safetensors"
    if not path.exists():
        return run
    try:
        found = ckpt.read(path)
        changed = differences(found.config, asked)
        if not changed and found.progress.finished(found.config):
            return Trained.of(found)
    except CheckpointError:
        if not overwrite:
            raise
        return run._replace(options=replace(options, overwrite=True))
    if changed and not overwrite:
        raise TrainingError(
            f"{options.folder} holds a run with other options ({'; '.join(changed)}): train it again with --overwrite, "
            f"or use another --out"
        )
    return run._replace(options=replace(options, overwrite=bool(changed), resume=not changed))


def differences(found: RunConfig, asked: RunConfig) -> list[str]:
    """What decides the result and differs, in words.

    Memory settings that mean nothing to the method are not compared.
    """
    before, now = _deciding(found, asked.method), _deciding(asked, asked.method)
    return [
        f"{name.replace('_', '-')} was {_short(before.get(name))}, now {_short(value)}"
        for name, value in now.items()
        if before.get(name) != value
    ]


def _deciding(config: RunConfig, method: str) -> dict[str, object]:
    """The configuration by name, memory settings among the rest, as far as it means something to ``method``."""
    values = config.to_json()
    settings = memory_settings_of(method)
    values |= {name: value for name, value in values.pop("memory").items() if name in settings}
    if method != "da3":
        del values["adaptor"]
    return values


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
