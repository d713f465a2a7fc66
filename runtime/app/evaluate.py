"""The command `evaluate`: options in, one evaluation or two that are compared, and where they are written."""

import argparse
import json
import sys
from typing import Any, Dict, NamedTuple, Optional, Tuple

from ..bundle.familiar import check_can_tell
from ..engine import Runtime
from ..errors import Da3Error, printable
from ..evaluation import (
    Comparison,
    Earlier,
    Evaluation,
    Foreign,
    as_csv,
    as_record,
    ask_foreign,
    compare,
    describe,
    evaluate,
    read_labelled,
    read_record,
    score,
    verdicts,
)
from ..images.paths import expand
from ..records import Domain
from .evaluation_text import render, render_comparison, titles
from .opening import Opening
from .printing import say
from .progress import Progress
from .saving import check_writable, write_text

BELOW = 3  # the exit code where accuracy is below --min-accuracy
_STDOUT = "-"


class _Asked(NamedTuple):
    """What is evaluated: one side of a comparison."""

    source: Opening
    all_blocks: bool


def evaluate_and_say(words: argparse.Namespace) -> int:
    """Returns the exit code: 0; 1 if a photo could not be read; BELOW if accuracy is below what was asked for."""
    for option, path in (("--json", words.json), ("--csv", words.csv)):
        if path is not None and not (option == "--json" and path == _STDOUT):
            check_writable(path, option)
    first, second, earlier = _sides(words)
    evaluation = _evaluated(first, words)
    other = None if second is None else _evaluated(second, words)
    comparison = _compared(evaluation, other, earlier)
    found = score(evaluation)
    described = [describe(evaluation, found)]
    if other is not None:
        described.append(describe(other))
    if earlier is not None:
        described.append(earlier.evaluation)
    if words.json is not None:
        text = json.dumps(as_record(described, comparison))
        if words.json == _STDOUT:
            say(text)
        else:
            write_text(words.json, text + "\n", "--json")
    if words.csv is not None:
        write_text(words.csv, as_csv(evaluation, other), "--csv")
    if words.json != _STDOUT:
        say(render(evaluation, found))
        if comparison is not None:
            sides = titles(described, None if earlier is None else earlier.path)
            say("\n%s" % render_comparison(comparison, described[0], described[1], sides))
    return _exit_code(words, evaluation, other, found.top1)


def _sides(words: argparse.Namespace) -> Tuple[_Asked, Optional[_Asked], Optional[Earlier]]:
    """What is evaluated, and what it is compared with, if anything: another domain, or an earlier evaluation."""
    first = _Asked(Opening.of(words), words.force_all_blocks)
    changes = {
        "bundle": words.against_bundle,
        "backend": words.against_backend,
        "precision": words.against_precision,
    }
    given: Dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
    if words.against is not None and words.against.endswith(".json"):
        if given or words.against_all_blocks:
            raise Da3Error(
                "--against %s is an earlier evaluation, which had its own bundle and precision: leave out the other "
                "--against options" % words.against
            )
        return first, None, read_record(words.against)
    if words.against is not None:
        given["domain"] = words.against
    if not given and not words.against_all_blocks:
        return first, None, None
    if "bundle" in given:
        given["engines"] = None  # --engines names those of the first
    second = _Asked(first.source._replace(**given), first.all_blocks or words.against_all_blocks)
    if second == first:
        raise Da3Error("both sides of the comparison are the same: change one, such as --against OTHER_DOMAIN")
    return first, second, None


def _evaluated(asked: _Asked, words: argparse.Namespace) -> Evaluation:
    with asked.source.runtime() as runtime:
        domain = asked.source.domain_in(runtime)
        if words.unknown is not None:
            check_can_tell(domain, "--unknown")
        photos = read_labelled(words.photos, domain.classes)
        progress = Progress(sys.stderr, len(photos.photos), "photos", logged=True)
        try:
            done = evaluate(
                runtime,
                photos,
                domain,
                batch_size=words.batch_size,
                workers=words.workers,
                force_all_blocks=asked.all_blocks,
                threads=words.threads,
                precision=asked.source.precision,
                on_progress=lambda answered, failed, total: progress.show(answered, failed),
            )
        finally:
            progress.end()
        if words.unknown is not None:
            done = done._replace(foreign=_foreign(runtime, words, domain, asked.all_blocks))
    foreign = () if done.foreign is None else done.foreign.unreadable
    for _, error in done.unreadable + foreign:
        sys.stderr.write("skipped: %s\n" % printable(error))
    return done


def _foreign(runtime: Runtime, words: argparse.Namespace, domain: Domain, all_blocks: bool) -> Foreign:
    progress = Progress(sys.stderr, len(expand([words.unknown])), "pictures", logged=True)
    try:
        return ask_foreign(
            runtime,
            words.unknown,
            domain,
            batch_size=words.batch_size,
            force_all_blocks=all_blocks,
            on_progress=lambda answered, failed, total: progress.show(answered, failed),
        )
    finally:
        progress.end()


def _compared(evaluation: Evaluation, other: Optional[Evaluation], earlier: Optional[Earlier]) -> Optional[Comparison]:
    if other is not None:
        return compare(verdicts(evaluation), verdicts(other))
    return None if earlier is None else compare(verdicts(evaluation), earlier.verdicts)


def _exit_code(words: argparse.Namespace, evaluation: Evaluation, other: Optional[Evaluation], top1: float) -> int:
    if words.min_accuracy is not None and 100 * top1 < words.min_accuracy - 1e-9:
        sys.stderr.write("error: top-1 is %.2f %%, below --min-accuracy %g\n" % (100 * top1, words.min_accuracy))
        return BELOW
    failed = max(len(one.unreadable) for one in (evaluation, other) if one is not None)
    if failed:
        sys.stderr.write("error: %d of the photos could not be read\n" % failed)
    return 1 if failed else 0
