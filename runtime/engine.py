"""The runtime's front door: one opened bundle, any number of loaded domains, predictions."""

import os
import threading
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

from .backends.interface import Backend
from .bundle.bundle import Bundle, read_domain, unknown_domain
from .bundle.domain import fitted, read_pack
from .errors import BackendError, DomainError, enough_memory
from .execution.answers import Naming
from .execution.choice import choose
from .execution.lane import Bound
from .execution.scheduler import Choice, Scheduler
from .images.inputs import Images, as_batch, batches
from .images.preprocess import Preprocessing
from .records import Array, BatchResult, Domain, ExitRule, Path, Prediction
from .schedule.decisions import Overrides


class _Open(NamedTuple):
    """What a run needs besides its domain. A call takes it once, so that `close` in another thread cannot take it away
    half-way."""

    scheduler: Scheduler
    bundle: Bundle


class Runtime:
    """A bundle, ready to run.

        with Runtime("bundle") as runtime:
            runtime.use("flowers")
            print(runtime.run("photo.jpg")[0].label)

    Every method may be called from any thread. A run uses the domain that was current when it was called.
    """

    def __init__(
        self,
        bundle: Union[Path, Bundle],
        backend: Union[str, Backend] = "auto",
        threads: Optional[int] = None,
        precision: Optional[str] = None,
        engines: Optional[str] = None,
    ) -> None:
        """bundle: a bundle's directory or zip; backend: "auto", "onnxruntime", "tensorrt" or "reference", or a Backend
        of your own; threads: of the CPU, None lets the backend choose; precision: "fp32", "fp16" or "int8", None takes
        float32 on a CPU and what was built last on a GPU; engines: the folder of TensorRT's engines, if they are not
        in the bundle. Segments are opened and verified when a domain is loaded that needs them, here already where
        every domain needs the same."""
        self._lock = threading.RLock()
        self._loaded: Dict[str, Bound] = {}
        self._current: Optional[Bound] = None
        self._naming: Optional[Naming] = None  # of the domain whose answers were named last
        opened = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
        try:
            with enough_memory("open %s" % opened.path):
                if isinstance(backend, str):
                    backend = choose(backend, opened, threads, precision, engines)
                self._backend = backend
                self._open: Optional[_Open] = _Open(Scheduler(opened, self._backend), opened)
        except Exception:
            opened.close()
            raise

    # -- what there is

    @property
    def bundle(self) -> Bundle:
        return self._opened().bundle

    @property
    def preprocessing(self) -> Preprocessing:
        return self._opened().bundle.manifest.preprocessing

    @property
    def backend(self) -> str:
        """The backend's name."""
        return self._backend.name

    @property
    def domains(self) -> List[str]:
        """Sorted names of the bundle's domains and of the packs loaded beside them."""
        return sorted(set(self._opened().bundle.domains) | set(self._loaded))

    @property
    def loaded(self) -> List[str]:
        """Sorted names of the domains in memory."""
        self._opened()
        return sorted(self._loaded)

    @property
    def domain(self) -> Optional[Domain]:
        """The current domain, None before the first `use`."""
        current = self._current
        return None if current is None else current.domain

    # -- domains

    def load(self, name: Union[Path, Domain]) -> Domain:
        """Load a domain of the bundle by name, or a pack (`flowers.da3`, a folder) or Domain without adding it to
        the bundle. Loading again reads it again. Does not make it current."""
        opened = self._opened()
        if isinstance(name, Domain):
            return self._bind(opened, fitted(name, opened.bundle.manifest))
        text = os.fspath(name)
        with enough_memory("load domain %s" % text):
            if opened.bundle.has(text):
                domain = read_domain(opened.bundle, text)
            elif os.path.isfile(text) or os.path.isfile(os.path.join(text, "domain.json")):
                domain = fitted(read_pack(text), opened.bundle.manifest)
            elif text.endswith(".da3") or os.sep in text:
                raise DomainError("no domain pack at %s: the path does not exist" % text)
            else:
                raise DomainError(unknown_domain(text, self.domains))
            return self._bind(opened, domain)

    def unload(self, name: str) -> None:
        """Forget a loaded domain; if it was current, none is."""
        with self._lock:
            opened = self._opened()
            if name not in self._loaded:
                raise DomainError("domain %r is not loaded; loaded: %s" % (name, ", ".join(self.loaded) or "none"))
            gone = self._loaded.pop(name)
            if self._current is gone:
                self._current = None
            opened.scheduler.forget(gone)

    def use(self, name: str) -> Domain:
        """Make a domain current, loading it from the bundle, or a pack, if needed. Switching between loaded domains
        changes one reference and nothing else."""
        with self._lock:
            self._opened()
            bound = self._loaded.get(name)
            if bound is None:
                bound = self._loaded[self.load(name).name]  # a pack's name is another than its path
            self._current = bound
            return bound.domain

    def use_only(self) -> Domain:
        """Make the only domain there is current; with several, an error that lists them."""
        return self.use(self._only())

    def set_theta(self, name: str, theta: float) -> Domain:
        """Replace, in memory, the threshold of a domain that has gates, in a bundle of format 1 (blocks run where the
        gate's logit is above it)."""
        return self._change(name, {"theta": float(theta)})

    def set_exits(
        self,
        name: str,
        exits: Optional[Sequence[ExitRule]] = None,
        temperature: Optional[float] = None,
        closed: Optional[Sequence[int]] = None,
    ) -> Domain:
        """Replace, in memory, what is given of a domain's decisions: the rules of its exits, the temperature of its
        last answer, the blocks that it closes. Raises DomainError for what it cannot have."""
        changes: Dict[str, Any] = {
            "exits": None if exits is None else tuple(exits),
            "temperature": temperature,
            "closed": None if closed is None else tuple(sorted(set(closed))),
        }
        return self._change(name, {key: value for key, value in changes.items() if value is not None})

    # -- running

    def run(
        self,
        images: Images,
        domain: Optional[str] = None,
        force_all_blocks: bool = False,
        gates: Optional[Overrides] = None,
        batch_size: int = 8,
        leave_at: Optional[int] = None,
        unknown_below: Optional[float] = None,
    ) -> List[Prediction]:
        """Predict. One Prediction per image, in order.

        images: a path (a folder gives its pictures, sorted), a list of paths, uint8 (H, W, 3) or a list of
        them, uint8 (B, H, W, 3), or float32 (B, 3, size, size) already preprocessed.
        domain: None is the current one, or the only one there is. Any other name is used for this call only.
        force_all_blocks: nothing is skipped and nobody leaves. gates: {block: True to run, False to skip}, the others
        are as the domain has them. leave_at: every picture leaves at this exit, counted from 0. unknown_below: see
        `predictions`.
        """
        choice = _choice(force_all_blocks, gates, leave_at)
        bound = self._bound(domain)
        predictions: List[Prediction] = []
        for batch in self.prepare(images, batch_size):
            predictions.extend(self.predictions(self._run_bound(bound, batch, choice), unknown_below))
        return predictions

    def run_batch(
        self,
        images: Array,
        domain: Optional[str] = None,
        force_all_blocks: bool = False,
        gates: Optional[Overrides] = None,
        leave_at: Optional[int] = None,
    ) -> BatchResult:
        """float32 (B, 3, size, size) -> BatchResult(logits (B, classes), blocks (B, n_blocks), domain, left (B,)).

        The engine alone, in one pass: no decoding, no softmax. The options are those of `run`.
        """
        return self._run_bound(self._bound(domain), images, _choice(force_all_blocks, gates, leave_at))

    def trace(
        self,
        images: Array,
        watched: Sequence[str],
        domain: Optional[str] = None,
        force_all_blocks: bool = False,
        gates: Optional[Overrides] = None,
    ) -> Tuple[BatchResult, Dict[str, Array]]:
        """`run_batch`, and the plan's values named in `watched` ("x0", "logits5", ...), float32 (B, ...) each. Nobody
        leaves, so that every picture has them all.

        Values that lie inside a joined subgraph need other subgraphs: those are opened for this call, which takes as
        long as opening the bundle; gates and the exits' logits need none. Raises DomainError for a name that is not in
        the plan, BackendError where the backend cannot open others.
        """
        opened, bound = self._opened(), self._bound(domain)
        images = as_batch(images, self.preprocessing.size)
        outcome = opened.scheduler.trace(bound, images, watched, _choice(force_all_blocks, gates, None))
        return BatchResult(outcome.logits, outcome.blocks, bound.domain, outcome.left), outcome.values

    def features(self, images: Array, domain: Optional[str] = None) -> Tuple[BatchResult, Dict[str, Array]]:
        """`run_batch` with nobody leaving, and what every classifier reads, by the plan's names: float32 (B, F) each.
        To these is fitted what a domain's photos look like, see familiarity/."""
        opened, bound = self._opened(), self._bound(domain)
        outcome = opened.scheduler.features(bound, as_batch(images, self.preprocessing.size))
        return BatchResult(outcome.logits, outcome.blocks, bound.domain, outcome.left), outcome.seen

    def prepare(self, images: Images, batch_size: int = 8) -> Iterator[Array]:
        """Whatever `run` takes -> float32 batches (at most batch_size, 3, size, size)."""
        return batches(images, self.preprocessing, batch_size)

    def predictions(self, result: BatchResult, unknown_below: Optional[float] = None) -> List[Prediction]:
        """Name what `run_batch` answered. unknown_below: a picture is unknown whose familiarity is below; None takes
        the domain's own limit."""
        self._opened()
        naming = self._naming
        if naming is None or naming.domain is not result.domain:
            naming = self._naming = Naming(self.bundle.manifest, result.domain)
        return naming(result, unknown_below)

    def close(self) -> None:
        """Free everything; may be called twice. Runs under way in other threads end normally."""
        with self._lock:
            opened, self._open = self._open, None
            self._loaded = {}
            self._current = None
            self._naming = None
        if opened is not None:
            opened.bundle.close()
            opened.scheduler.close()

    def __enter__(self) -> "Runtime":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- inside

    def _opened(self) -> _Open:
        opened = self._open
        if opened is None:
            raise BackendError("this Runtime is closed; open the bundle again with Runtime(path)")
        return opened

    def _bind(self, opened: _Open, domain: Domain) -> Domain:
        """Hold a domain that fits the bundle, ready to run."""
        self._hold(opened, opened.scheduler.bind(domain))
        return domain

    def _change(self, name: str, changes: Dict[str, Any]) -> Domain:
        """Hold a loaded domain with these of its entries changed."""
        with self._lock:
            opened, before = self._opened(), self._bound(name)
            domain = fitted(before.domain._replace(**changes), opened.bundle.manifest)
            self._hold(opened, opened.scheduler.rebind(before, domain))
            return domain

    def _hold(self, opened: _Open, bound: Bound) -> None:
        """Hold a bound domain by its name, in place of the one that had it."""
        name = bound.domain.name
        with self._lock:
            self._opened()  # raises if it was closed meanwhile
            before = self._loaded.get(name)
            self._loaded[name] = bound
            if before is not None and self._current is before:
                self._current = bound
        if before is not None and before.key != bound.key:
            opened.scheduler.forget(before)

    def _bound(self, name: Optional[str]) -> Bound:
        opened = self._opened()
        bound = self._current if name is None else self._loaded.get(name)
        if bound is not None:
            return bound
        if name is None:
            name = self._only()
        with self._lock:
            if name not in self._loaded:
                if not opened.bundle.has(name):
                    raise DomainError(unknown_domain(name, self.domains))
                self.load(name)
            return self._loaded[name]

    def _only(self) -> str:
        names = self.domains
        if len(names) != 1:
            raise DomainError("which domain? This bundle has: %s" % (", ".join(names) or "none yet"))
        return names[0]

    def _run_bound(self, bound: Bound, images: Array, choice: Choice) -> BatchResult:
        opened = self._opened()
        images = as_batch(images, self.preprocessing.size)
        with enough_memory("run %d images" % len(images)):
            outcome = opened.scheduler.run(bound, images, choice)
        return BatchResult(outcome.logits, outcome.blocks, bound.domain, outcome.left, outcome.seen)


def _choice(force_all_blocks: bool, gates: Optional[Overrides], leave_at: Optional[int]) -> Choice:
    return Choice({} if gates is None or force_all_blocks else gates, leave_at, force_all_blocks)
