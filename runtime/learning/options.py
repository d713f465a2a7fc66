"""What a user asks of `learn`, and how it becomes a run's configuration, new or resumed."""

import os
from typing import NamedTuple, Optional, Tuple

from ..bundle.manifest import Manifest
from ..bundle.plan import closable
from ..errors import TrainingError
from ..training.config import AdaptorSpec, MemorySettings, RunConfig
from ..training.defaults import DEFAULTS, CommonOptions
from ..training.limits import check_domain, check_numbers, check_resumable, check_start
from ..training.recipe import LEARNING_RATE, batch_size, closing_share
from .answering import answer_costs
from .running import BACKENDS, FULL, PRECISIONS


class LearnOptions(NamedTuple):
    """Options of one run. None means "not given": the default, or on resume what the run was started with.

    photos: a folder, see training/photos.py; bundle: the folder of the bundle whose backbone is used, and where the
    domain is put. workers, threads, backend and micro_batch may change between a run and its resumption; the rest
    decides the result and may not. precision: of a training step's engine, with the backend tensorrt; may change too.
    memory_budget: of the whole process, a size such as 160MB, which chooses micro_batch and workers; on the CPU alone.
    apart: graphs are made in a process of their own, see making.py. start: what the run starts from, see `find_start`;
    None: from nothing. command: as it was typed, to be written down.
    """

    domain: str
    photos: Optional[str] = None
    bundle: str = "bundle"
    runs: str = "runs"
    epochs: Optional[int] = None
    batch_size: Optional[int] = None
    lr: Optional[float] = None
    keep: Optional[float] = None
    seed: Optional[int] = None
    flip: Optional[bool] = None
    label_smoothing: Optional[float] = None
    micro_batch: Optional[int] = None
    memory_budget: Optional[str] = None
    backend: str = "auto"
    precision: Optional[str] = None
    threads: Optional[int] = None
    workers: Optional[int] = None
    resume: bool = False
    overwrite: bool = False
    apart: bool = False
    start: Optional[str] = None
    command: Optional[str] = None

    @property
    def folder(self) -> str:
        return os.path.join(self.runs, self.domain)

    @property
    def data(self) -> Optional[str]:
        """The folder of photos, absolute."""
        return None if self.photos is None else os.path.realpath(os.path.expanduser(self.photos))

    def check(self) -> None:
        """Raise TrainingError naming the first option that makes no sense."""
        check_domain(self.domain)
        if self.resume and self.overwrite:
            raise TrainingError("--resume and --overwrite exclude each other")
        if self.start is not None:
            check_start(self.resume)
        if self.photos is None and not self.resume:
            raise TrainingError("which photos? Name a folder with one subfolder per class behind the options")
        if self.backend not in ("auto",) + BACKENDS:
            raise TrainingError("--backend %s: learning runs on %s" % (self.backend, ", ".join(BACKENDS)))
        if self.precision not in (None,) + PRECISIONS:
            raise TrainingError("--precision %s: learning knows %s" % (self.precision, " and ".join(PRECISIONS)))
        if self.precision not in (None, FULL) and self.backend not in ("auto", "tensorrt"):
            raise TrainingError("--precision %s: learning has it with --backend tensorrt alone" % self.precision)
        numbers = {
            "epochs": self.epochs,
            "keep": self.keep,
            "seed": self.seed,
            "label-smoothing": self.label_smoothing,
            "batch-size": self.batch_size,
            "micro-batch": self.micro_batch,
        }
        check_numbers(numbers, self.lr)

    def config(
        self, manifest: Manifest, classes: Tuple[str, ...], photos: int, defaults: CommonOptions = DEFAULTS
    ) -> RunConfig:
        """The configuration of a new run on `photos` training photos."""
        assert self.data is not None
        return RunConfig(
            domain=self.domain,
            data=self.data,
            method="da3",
            backbone=manifest.arch,
            weights_sha256=manifest.backbone_sha256,
            classes=classes,
            size=manifest.preprocessing.size,
            epochs=defaults.epochs if self.epochs is None else self.epochs,
            batch_size=batch_size(photos) if self.batch_size is None else self.batch_size,
            lr=LEARNING_RATE if self.lr is None else self.lr,
            keep=defaults.keep if self.keep is None else self.keep,
            seed=defaults.seed if self.seed is None else self.seed,
            flip=defaults.flip if self.flip is None else self.flip,
            label_smoothing=defaults.label_smoothing if self.label_smoothing is None else self.label_smoothing,
            adaptor=AdaptorSpec.from_json(manifest.adaptor),
            memory=MemorySettings(keep_precision="fp32", micro_batch=self.micro_batch or 0),
        )

    def resumed(self, config: RunConfig, manifest: Manifest) -> RunConfig:
        """The configuration of a run to go on with. Raises TrainingError where it is not the one that is asked for."""
        names = ("epochs", "batch_size", "lr", "keep", "seed", "flip", "label_smoothing")
        check_resumable(self.folder, {name: getattr(self, name) for name in names}, self.data, config)
        same = (config.weights_sha256, config.size) == (manifest.backbone_sha256, manifest.preprocessing.size)
        if config.method != "da3" or not same or config.adaptor.to_json() != manifest.adaptor:
            raise TrainingError(
                "%s was trained by another method or on another backbone than this bundle's, so it cannot be resumed: "
                "choose another --runs, or start again with --overwrite" % self.folder
            )
        if self.micro_batch is None:
            return config
        return config._replace(memory=config.memory._replace(micro_batch=self.micro_batch))


def check_keep(keep: float, manifest: Manifest) -> None:
    """Raise TrainingError for a share of FLOPs that cannot be learnt on this bundle."""
    if keep >= 1:
        return
    shut = tuple(closable(manifest.plan)) if closing_share(keep) < 1 else ()
    least = float(answer_costs(manifest, shut)[0])
    if keep < least:
        raise TrainingError(
            "--keep %g: this bundle cannot go below %.2f, what is left when every photo leaves at the first exit%s"
            % (keep, least, " and every block that can be is closed" if shut else "")
        )
