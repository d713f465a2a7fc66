"""The command `learn`: options in, a domain in the bundle, and the words that say how to run it."""

import argparse
import shlex
import sys
from typing import List

from ..errors import TrainingError, printable
from ..learning import LearnOptions, Learnt, TextReporter, learn
from ..system.interrupt import stop_on_interrupt
from ..system.malloc import keep_little
from ..training.config import slice_size
from .printing import say
from .program import bundle_beside, running

NEAR = 0.05  # how far above --keep a share of block FLOPs may stay without a word


def learn_and_say(words: argparse.Namespace) -> int:
    """Returns the exit code: 0, or 130 where the run was stopped."""
    if words.verbose and words.quiet:
        raise TrainingError("--verbose and --quiet exclude each other: leave one of them out")
    own = ("micro_batch", "apart", "command")
    values = {name: getattr(words, name) for name in LearnOptions._fields if name not in own}
    options = LearnOptions(micro_batch=slice_size(words.micro_batch), apart=True, command=_typed(), **values)
    keep_little()
    reporter = TextReporter(verbose=words.verbose, quiet=words.quiet)
    with stop_on_interrupt(reporter.note) as stop:
        done = learn(options, reporter, stop)
    if done.domain is None:
        say("stopped; all is saved. Go on with: %s" % _command("learn", options, "--resume"))
        return 130
    say(summary(done, options))
    return 0


def _typed() -> str:
    """The command as it was typed."""
    started = running()
    return " ".join(shlex.quote(word) for word in (["da3"] if started is None else ["python3", started]) + sys.argv[1:])


def summary(done: Learnt, options: LearnOptions) -> str:
    """The last words of a finished run."""
    lines: List[str] = []
    if done.best is not None:
        best = done.best
        lines.append(
            "best: %.1f %% on the validation photos (epoch %d)" % (100 * best["val_accuracy"], int(best["epoch"]))
        )
        if "kept_share" in best:
            lines.append(
                "with sure photos leaving early: %.1f %% at %.0f %% of the block FLOPs, each half of the photos by "
                "what was chosen on the other" % (100 * best["kept_accuracy"], 100 * best["kept_share"])
            )
        if best.get("kept_share", best["val_share"]) > done.config.keep + NEAR:
            lines.append("that is more than --keep %g asked for: the first exit costs more" % done.config.keep)
    if done.budget is not None:
        held = "within" if done.peak <= done.budget else "more than"
        lines.append("memory: %.0f MB at most, %s the %.0f MB asked for" % (done.peak / 1e6, held, done.budget / 1e6))
    if done.unreadable:
        lines.append("%d photos could not be read and were skipped" % len(done.unreadable))
    lines.append("domain %s is in %s. Run it: %s" % (options.domain, printable(options.bundle), _command("", options)))
    return "\n".join(lines)


def _command(name: str, options: LearnOptions, *more: str) -> str:
    """What to type for this domain: the command called `name`, or without one that which predicts."""
    started = running()
    words = ["da3", name or "run-engine"] if started is None else ["python3", started] + ([name] if name else [])
    words += ["--domain", options.domain]
    if options.bundle != (bundle_beside() or "bundle"):
        words += ["--bundle", options.bundle]
    if name and options.runs != "runs":
        words += ["--runs", options.runs]
    words += more if name else ["photo.jpg"]
    return " ".join(shlex.quote(word) for word in words)
