"""What decides what a run learns, and where a run stands: the two records that a checkpoint stores as JSON."""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..errors import TrainingError
from .kinds import check_each, check_kinds, check_numbers

KEEP_PRECISIONS = ("fp32", "bf16", "int8")
BACKBONE_PRECISIONS = ("fp32", "bf16")
GRADIENTS = ("exact", "skip-path")
CHOICES = {"keep_precision": KEEP_PRECISIONS, "backbone_precision": BACKBONE_PRECISIONS, "gradient": GRADIENTS}

# Gradients need not reach where activations are largest: adaptors begin at an eighth of the image's side, with the
# first block whose shortcut is its input.
FIRST = {"resnet18": 3, "resnet34": 4, "resnet50": 4}

# The figures of one epoch: epoch (from 1), train_loss, train_accuracy, train_share, val_loss, val_accuracy, val_share
# (accuracies and shares of block FLOPs are 0 to 1; of the last answer, so all blocks ran but closed ones), lr, seconds,
# images_per_second, memory_mb. Without val_* where the epoch was not validated. Where exits were calibrated on the
# epoch's validation photos, also kept_accuracy and kept_share: those of photos that leave at exits, each half by what
# was chosen on the other half. skipped_steps, where there were any: those whose gradients were more than the precision
# holds that they were computed in.
Row = Dict[str, float]


# Of the fields of a RunConfig that are one value.
_KINDS: Dict[str, type] = dict(
    dict.fromkeys(("domain", "data", "method", "backbone", "weights_sha256"), str),
    size=int,
    epochs=int,
    batch_size=int,
    lr=float,
    keep=float,
    seed=int,
    flip=bool,
    label_smoothing=float,
)


class AdaptorSpec(NamedTuple):
    """What is added to a backbone. Adaptors: `grid` cells a side at most, as many mid channels as input channels up to
    `mid`. Blocks before `first` have none, so no gradient is needed there. Exits: after the blocks `exits`, in order,
    each of `exit_width` hidden channels; each reads the cells of the next block's adaptor.
    """

    grid: int = 8
    mid: int = 320
    first: int = 0
    exits: Tuple[int, ...] = ()
    exit_width: int = 0

    @classmethod
    def of(cls, arch: str) -> "AdaptorSpec":
        """What suits the backbone `arch`, without exits: their places depend on what its blocks cost."""
        # 2048 channels need no 2048 x 2048 adaptor: a ResNet-50's domain would be larger than the backbone.
        return cls(mid=32, first=FIRST[arch]) if arch in FIRST else cls(grid=16)

    def to_json(self) -> Dict[str, Any]:
        """The fields; without exits, in the words of what was written before there were any."""
        adaptors = {"grid": self.grid, "mid": self.mid, "first": self.first}
        return dict(adaptors, exits=list(self.exits), exit_width=self.exit_width) if self.exits else adaptors

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "AdaptorSpec":
        """The reverse of `to_json`. Raises TypeError for what no `to_json` gives."""
        made = cls(**dict(data, exits=tuple(data.get("exits", ()))))
        check_kinds(made._asdict(), {"grid": int, "mid": int, "first": int, "exit_width": int})
        check_each("exits", made.exits, int)
        return made


class MemorySettings(NamedTuple):
    """How a training step saves memory, and what it pays for that.

    keep_precision: of the pooled inputs that are kept for the backward pass. backbone_precision: of the frozen weights
    and of the computation with them. gradient: "exact", or "skip-path" (along shortcuts only: no branch is
    differentiated). micro_batch: images a slice of a batch; 0 chooses by the size of the largest activation. Any
    micro_batch gives the same result up to rounding.
    """

    keep_precision: str = "int8"
    backbone_precision: str = "fp32"
    gradient: str = "exact"
    micro_batch: int = 0

    def to_json(self) -> Dict[str, Any]:
        return dict(self._asdict())


def slice_size(given: Optional[str]) -> Optional[int]:
    """`--micro-batch` as `MemorySettings` has it.

    Raises TrainingError for what is neither "auto" nor a number above 0.
    """
    if given is None or given == "auto":
        return None if given is None else 0
    if not given.isdecimal() or int(given) == 0:
        raise TrainingError("--micro-batch %s: use auto, or a number of photos such as 4" % given)
    return int(given)


class RunConfig(NamedTuple):
    """Everything that decides what a run learns. Two runs with equal configurations give equal results.

    data: the folder of photos, absolute. weights_sha256: the identity of the backbone. size: side of the images in
    pixels. lr: the highest learning rate. keep: share of the block FLOPs to run on average; with 1 every block runs for
    every photo. flip: whether photos are mirrored at random.
    """

    domain: str
    data: str
    method: str
    backbone: str
    weights_sha256: str
    classes: Tuple[str, ...]
    size: int
    epochs: int
    batch_size: int
    lr: float
    keep: float
    seed: int
    flip: bool
    label_smoothing: float
    adaptor: AdaptorSpec
    memory: MemorySettings = MemorySettings()

    def to_json(self) -> Dict[str, Any]:
        return dict(self._asdict(), adaptor=self.adaptor.to_json(), memory=self.memory.to_json())

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "RunConfig":
        """The reverse of `to_json`. Raises KeyError or TypeError for what no `to_json` gives."""
        values = {name: data[name] for name in cls._fields if name != "memory"}
        values["classes"] = tuple(values["classes"])
        values["adaptor"] = AdaptorSpec.from_json(values["adaptor"])
        # Checkpoints of format 1 say "lean", and the first of them nothing.
        values["memory"] = MemorySettings(**data.get("memory", data.get("lean", {})))
        check_kinds(values, _KINDS)
        check_kinds(values["memory"]._asdict(), dict.fromkeys(CHOICES, str))
        check_each("micro_batch", [values["memory"].micro_batch], int)
        check_each("classes", values["classes"], str)
        return cls(**values)


class Progress:
    """Where a run stands: `step` batches of `epoch` (from 0) are done.

    sums: of that epoch so far: photos, loss, correct and share, each summed over photos; skipped, how many steps were,
    if any. history: one `Row` for each epoch that is done. best: the row of the best epoch that met the task; None
    before the first. calibration: at which exits its photos leave, as the calibration's `to_json` has it; None where
    nobody leaves.
    """

    def __init__(
        self,
        epoch: int = 0,
        step: int = 0,
        sums: Optional[Dict[str, float]] = None,
        history: Optional[List[Row]] = None,
        best: Optional[Row] = None,
        calibration: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.epoch, self.step, self.best, self.calibration = epoch, step, best, calibration
        self.sums: Dict[str, float] = {} if sums is None else sums
        self.history: List[Row] = [] if history is None else history

    def finished(self, config: RunConfig) -> bool:
        """Whether every epoch of a run with this configuration is done."""
        return self.epoch >= config.epochs

    def to_json(self) -> Dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_json(cls, data: Dict[str, Any]) -> "Progress":
        """The reverse of `to_json`. Raises TypeError for what no `to_json` gives."""
        made = cls(**data)
        check_kinds(vars(made), {"epoch": int, "step": int})
        check_numbers("sums", made.sums)
        for row in list(made.history) + ([] if made.best is None else [made.best]):
            check_numbers("history", row)
        return made
