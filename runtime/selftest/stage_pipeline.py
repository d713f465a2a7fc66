"""Stage: whole runs as users make them: batches, exits and gates, other domains in between, threads, many runs."""

import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..bundle.bundle import Bundle
from ..bundle.plan import LOGITS, exit_steps
from ..calibration.confidence import confidence
from ..engine import Runtime
from ..errors import Da3Error
from ..execution.choice import choose
from ..records import Array, BatchResult, Domain, ExitRule
from ..schedule.decisions import threshold
from ..system.memory import peak_bytes
from ..system.percentiles import percentiles_ms
from ..system.sizes import render_bytes
from .computing import NumpySteps, compute
from .decided import Decided
from .findings import SKIP, Teller
from .goldens import Goldens
from .options import SelftestOptions
from .pictures import network_images
from .subjects import read_subject, subject_names, title_of, with_goldens
from .summary import relative_error
from .tolerances import BY_PRECISION, LEAST, Tolerance, precision_of

BATCHES = (1, 3, 8)
_THREADS, _RUNS_EACH = 4, 20
_DRIFT, _DRIFT_S = (1000, 100), (120.0, 10.0)  # runs, and the seconds after which no more are begun; quick


class _Gates(NamedTuple):
    """Where gates decide. logits: (N, gates); ran: bool (N, blocks); nearest: (N,), how far the gate that is nearest to
    the domain's threshold is from it, as a share of the largest logit of all."""

    logits: Array
    ran: Array
    nearest: Array


class _Truth(NamedTuple):
    """What a domain's pictures are answered. answers: (N, exits + 1, classes)."""

    domain: Domain
    images: Array
    answers: Array
    gates: Optional[_Gates] = None


def check_pipeline(options: SelftestOptions, tell: Teller) -> None:
    """Tells findings about every subject, then about switches, threads and drift."""
    with Bundle(options.bundle) as bundle:
        backend = choose(options.backend, bundle, options.threads, options.precision, options.engines)
        tolerance = BY_PRECISION[precision_of(options, backend, bundle)]
    tell.begin("opening the bundle")
    with Runtime(options.bundle, **options.runtime_words()) as runtime:
        known: List[_Truth] = []
        for name in subject_names(runtime.bundle, options.quick):
            try:
                tell.begin("%s: loading it" % title_of(name))
                subject = read_subject(runtime.bundle, name)
                runtime.load(subject.domain)
                subject = with_goldens(subject, runtime.bundle, options.quick, tell.begin)
                assert subject.goldens is not None
                truth = _truth(subject.domain, runtime.bundle, subject.goldens)
                for batch in BATCHES:
                    _check_batch(tell, runtime, subject.name, truth, batch, tolerance)
                _check_mixed(tell, runtime, subject.name, truth, subject.goldens.pictures, tolerance)
                runtime.load(subject.domain)
                known.append(truth)
            except Da3Error as error:
                tell.check(False, title_of(name), str(error))
        checks: Dict[str, Callable[[], None]] = {
            "switches between %d domains" % len(known): lambda: _check_switches(tell, runtime, known, tolerance),
            "%d threads" % _THREADS: lambda: _check_threads(tell, runtime, known, tolerance),
            "drift": lambda: _check_drift(tell, runtime, known[-1], tolerance, options.quick),
        }
        for what, check in checks.items() if known else ():
            try:
                check()
            except Da3Error as error:
                tell.check(False, what, str(error))
    tell.note("peak memory", peak_bytes())


def _truth(domain: Domain, bundle: Bundle, goldens: Goldens) -> _Truth:
    manifest = bundle.manifest
    if domain.gated:
        return _gated_truth(domain, bundle, goldens.pictures)
    names = [step.outputs[0] for step in exit_steps(manifest.plan)] + [LOGITS]
    answers = np.stack([goldens.chain[name] for name in names], axis=1)
    return _Truth(domain, network_images(goldens.pictures, manifest.preprocessing), answers)


def _gated_truth(domain: Domain, bundle: Bundle, pictures: Array) -> _Truth:
    """Where gates decide, which golden values leave open: computed in numpy."""
    expected = compute(bundle, domain, NumpySteps(bundle), NumpySteps.BY, pictures, ())
    chain = expected.goldens.chain
    gates = np.concatenate([chain[s.gate] for s in bundle.manifest.plan if s.gate is not None], axis=1)
    nearest = np.abs(gates - threshold(domain.theta)).min(axis=1) / max(float(np.abs(gates).max()), LEAST)
    images = network_images(pictures, bundle.manifest.preprocessing)
    return _Truth(domain, images, chain[LOGITS][:, None], _Gates(gates, expected.ran, nearest))


# -- one domain


def _check_batch(
    tell: Teller, runtime: Runtime, name: str, truth: _Truth, batch: int, tolerance: Tolerance, what: str = ""
) -> None:
    """Logits, the best class, and where pictures leave or which blocks they run, for a batch of the golden pictures in
    a changing order."""
    name = "%s, batch of %d%s" % (name, batch, what)
    tell.begin(name)
    count = len(truth.images)
    order = [(2 * number + number // count) % count for number in range(max(batch, count if batch == 1 else 0))]
    try:
        results = [
            runtime.run_batch(np.ascontiguousarray(truth.images[order[i : i + batch]]), truth.domain.name)
            for i in range(0, len(order), batch)
        ]
    except Da3Error as error:  # NaN and infinity among others
        tell.check(False, name, str(error))
        return
    logits, left, blocks = (
        np.concatenate([getattr(result, field) for result in results]) for field in ("logits", "left", "blocks")
    )
    expected = Decided.of(truth.answers[order], truth.domain, tolerance.chain)
    judge(tell, name, truth, order, expected, BatchResult(logits, blocks, truth.domain, left), tolerance)


def judge(
    tell: Teller,
    name: str,
    truth: _Truth,
    order: Sequence[int],
    expected: Decided,
    result: BatchResult,
    tolerance: Tolerance,
) -> None:
    """One finding for a batch."""
    flips, excused = _flips(truth, order, expected, result, tolerance)
    same = np.array([row not in {flip["row"] for flip in flips + excused} for row in range(len(order))])
    values: Dict[str, Any] = {"flips": flips, "flips within rounding": excused}
    if flips:
        flip = flips[0]
        text = "%d pictures are decided otherwise, the first: %s, margin %s" % (
            len(flips),
            flip["what"],
            flip["margin"],
        )
        tell.check(False, name, text, values)
        return
    error = relative_error(result.logits[same], expected.logits[same], LEAST) if same.any() else 0.0
    top = _other_tops(expected.logits, result.logits, same, tolerance.chain)
    values.update(relative=error, allowed=tolerance.chain, best_class_differs=top)
    text = "logits are off by %.1e, allowed %g; " % (error, tolerance.chain)
    text += "another best class for %d" % len(top) if top else "best class and decisions as they should be"
    text += "; %d decided otherwise within rounding" % len(excused) if excused else ""
    tell.check(error <= tolerance.chain and not top, name, text, values)


def _flips(
    truth: _Truth, order: Sequence[int], expected: Decided, result: BatchResult, tolerance: Tolerance
) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
    """([flips that rounding does not explain], [those that it does]): of exits, and of gates."""
    flips: List[Dict[str, Any]] = []
    excused: List[Dict[str, Any]] = []
    for row, picture in enumerate(order):
        if result.left[row] != expected.left[row]:
            exit = min(int(result.left[row]), int(expected.left[row]))
            margin = float(expected.margins[row, exit])
            what = "picture %d %s where it should %s" % (
                picture,
                _leaves(result.left[row], expected),
                _leaves(expected.left[row], expected),
            )
            flip = {"row": row, "what": what, "margin": "%.4f" % margin}
            (flips if expected.sure[row] else excused).append(flip)
        elif truth.gates is not None and (result.blocks[row] != truth.gates.ran[picture]).any():
            block, margin = int(np.argmax(result.blocks[row] != truth.gates.ran[picture])), truth.gates.nearest[picture]
            done = "runs" if result.blocks[row][block] else "skips"
            flip = {
                "row": row,
                "what": "picture %d %s block %d" % (picture, done, block),
                "margin": "%.4f" % float(margin),
            }
            (flips if margin > tolerance.chain else excused).append(flip)
    return flips, excused


def _leaves(left: int, expected: Decided) -> str:
    exits = expected.margins.shape[1]
    return "leave at exit %d" % left if left < exits else "run to the end"


def _other_tops(expected: Array, found: Array, same: Array, allowed: float) -> List[int]:
    """The rows whose best class is another one, though it was the best by more than rounding."""
    rows: List[int] = []
    scale = max(float(np.abs(expected).max()), LEAST)
    for row in np.flatnonzero(same):
        best = int(expected[row].argmax())
        if int(found[row].argmax()) != best and expected[row, best] - expected[row, found[row].argmax()] > (
            2 * allowed * scale
        ):
            rows.append(int(row))
    return rows


def _check_mixed(
    tell: Teller, runtime: Runtime, name: str, truth: _Truth, pictures: Array, tolerance: Tolerance
) -> None:
    """Rows of one batch that part: some leave at an exit, or skip a block, and others do not."""
    what = "%s, mixed rows" % name
    exits = len(truth.domain.exits)
    if truth.gates is not None:
        theta = _between(truth.gates.logits[:, 0])
        if theta is None:
            tell.find(SKIP, what, "its first gate answers alike for all golden pictures")
            return
        domain = runtime.set_theta(truth.domain.name, theta)
        truth = _gated_truth(domain, runtime.bundle, pictures)
        _check_batch(tell, runtime, name, truth, BATCHES[-1], tolerance, ", mixed rows")
        return
    if not exits:
        tell.find(SKIP, what, "the domain has neither exits nor gates")
        return
    number = exits // 2
    middle = _between(confidence(truth.answers[:, number]))
    if middle is None:
        tell.find(SKIP, what, "exit %d is equally sure of all golden pictures" % number)
        return
    rules = [ExitRule(None)] * exits
    rules[number] = ExitRule(middle, 1.0)
    domain = runtime.set_exits(truth.domain.name, rules)
    _check_batch(tell, runtime, name, truth._replace(domain=domain), BATCHES[-1], tolerance, ", mixed rows")


def _between(values: Array) -> Optional[float]:
    """The middle of the widest gap between numbers, None where they are all the same."""
    ordered = np.sort(values)
    if len(ordered) < 2 or float(np.diff(ordered).max()) < 1e-6:
        return None
    at = int(np.diff(ordered).argmax())
    return float(ordered[at : at + 2].mean())


# -- several, and again and again


def _check_switches(tell: Teller, runtime: Runtime, known: Sequence[_Truth], tolerance: Tolerance) -> None:
    name = "switches between %d domains" % len(known)
    if len(known) < 2:
        tell.find(SKIP, name, "there is one domain alone")
        return
    tell.begin(name)
    first = [_run(runtime, truth) for truth in known]
    worst, of = 0.0, known[0]
    for _ in range(10):
        for truth, before in zip(known, first):
            error = _differs(_run(runtime, truth), before)
            if error >= worst:
                worst, of = error, truth
    text = "answers after a switch differ by %.1e, allowed %g" % (worst, tolerance.repeat)
    text += " (the worst: %s)" % of.domain.name if worst > tolerance.repeat else ""
    tell.check(worst <= tolerance.repeat, name, text, {"relative": worst, "allowed": tolerance.repeat})


def _check_threads(tell: Teller, runtime: Runtime, known: Sequence[_Truth], tolerance: Tolerance) -> None:
    name = "%d threads" % _THREADS
    tell.begin(name)
    first = [_run(runtime, truth) for truth in known]
    errors: List[float] = []
    failures: List[str] = []

    def work(offset: int) -> None:
        try:
            for number in range(_RUNS_EACH):
                at = (offset + number) % len(known)
                errors.append(_differs(_run(runtime, known[at]), first[at]))
        except Exception as error:  # whatever it is, it belongs into the report
            failures.append("%s: %s" % (type(error).__name__, error))

    threads = [threading.Thread(target=work, args=(offset,)) for offset in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worst = max(errors or [float("inf")])
    if failures:
        tell.check(False, name, failures[0])
        return
    text = "%d runs, answers differ by %.1e, allowed %g" % (len(errors), worst, tolerance.repeat)
    tell.check(worst <= tolerance.repeat, name, text, {"relative": worst, "allowed": tolerance.repeat})


def _check_drift(tell: Teller, runtime: Runtime, truth: _Truth, tolerance: Tolerance, quick: bool) -> None:
    """The same picture again and again: the answer stays, and so does the memory."""
    wanted, limit = _DRIFT[quick], _DRIFT_S[quick]
    name = "drift"
    tell.begin("drift over %d runs" % wanted)
    first = _run(runtime, truth)
    seconds: List[float] = []
    started, worst, before = time.perf_counter(), 0.0, peak_bytes()
    while len(seconds) < wanted and time.perf_counter() - started < limit:
        begun = time.perf_counter()
        result = _run(runtime, truth)
        seconds.append(time.perf_counter() - begun)
        worst = max(worst, _differs(result, first))
        if len(seconds) % 100 == 0:
            tell.begin("drift: %d runs" % len(seconds))
            before = peak_bytes() if len(seconds) == 100 else before
    grown = peak_bytes() - before
    tenth = max(1, len(seconds) // 10)
    text = "%d runs, answers differ by %.1e, allowed %g; the peak of memory grew by %s" % (
        len(seconds),
        worst,
        tolerance.repeat,
        render_bytes(grown),
    )
    values = {
        "runs": len(seconds),
        "relative": worst,
        "allowed": tolerance.repeat,
        "grown bytes": grown,
        "first tenth ms": percentiles_ms(seconds[:tenth])["p50"],
        "last tenth ms": percentiles_ms(seconds[-tenth:])["p50"],
    }
    tell.check(worst <= tolerance.repeat, name, text, values)


def _run(runtime: Runtime, truth: _Truth) -> BatchResult:
    return runtime.run_batch(truth.images[:1], truth.domain.name)


def _differs(found: BatchResult, before: BatchResult) -> float:
    """How far the logits are from those before; infinite where something was decided otherwise."""
    if (found.left != before.left).any() or (found.blocks != before.blocks).any():
        return float("inf")
    return relative_error(found.logits, before.logits, LEAST)
