"""What an outcome is: a right answer, an error of one line, or a defect, and of which kind."""

import json
import math
import re
from typing import NamedTuple

from .servers import MOST_MEMORY, MOST_SECONDS

ANSWER, OTHER, ERROR, SKIPPED, DEFECT = "answer", "other answer", "error", "not laid out", "defect"
MOST_CHARACTERS = 500  # of an error

# What commands print beside an error: files left out, and things that are worth a note.
_REMARKS = ("skipped: ", "warning: ", "note: ", "cannot be read: ")
# What C libraries write themselves, past Python: libtiff of the files it reads.
_OTHERS = re.compile(
    r"^(((O?JPEG|_?TIFF|LZW|ZIP|Fax|PackBits|LZMA|ZSTD|WebP|Predictor)\w*|tempfile\.tif): .*\.|"
    r"Apparently should be .*\.|JPEGPreDecode: Improper JPEG sampling factors \S+)$"
)
_USAGE = re.compile(r"^(usage: |Usage: |\s|Try '|\[|error: )")


class Verdict(NamedTuple):
    """kind: one of the five above. name: of a defect, what it is, in few words that are the same for the same defect.
    text: what there is to see of it."""

    kind: str
    name: str = ""
    text: str = ""


def judge(case, outcome, undamaged=None):
    """The verdict on an outcome. undamaged: the outcome of the same words on the base, to compare answers with."""
    if outcome["skipped"]:
        return Verdict(SKIPPED, text=outcome["skipped"])
    err, out = (outcome[name].decode("utf-8", "surrogateescape") for name in ("err", "out"))
    if outcome["timed_out"]:
        return Verdict(DEFECT, f"hang over {MOST_SECONDS:.0f} s in {_deepest(err)}", err[-3000:])
    if outcome["memory"] > MOST_MEMORY:
        megabytes = outcome["memory"] >> 20
        where = (outcome["raised"] or {}).get("place", case.runner)
        return Verdict(DEFECT, f"over 1 GB in {where}", f"{megabytes} MB; {err[-500:]}")
    if not outcome["ended"]:
        return Verdict(DEFECT, f"crash, signal {outcome['signal']}", err[-3000:])
    if outcome["raised"]:
        raised = outcome["raised"]
        return Verdict(DEFECT, f"{raised['type']} in {raised['place']}", raised["text"])
    if "--debug" in case.words and "error: " in err:  # a traceback was asked for
        err = err[err.rindex("error: ") :]
    # typer quotes a wrong word as it was typed; and TOML and JSON share no escape for what is beyond \\uffff.
    own = "".join(case.words) if case.runner == "toolchain" else ""
    wrong = _wrong_words(outcome["code"], err, out, own)
    if wrong is not None:
        return Verdict(DEFECT, wrong, f"{err[-3000:]!a}\n{out[-1000:]!a}")
    if outcome["code"]:
        return Verdict(ERROR, text=_last(err))
    if undamaged is None:
        return Verdict(ANSWER)
    same = answer_of(outcome) == answer_of(undamaged)
    if case.sealed and not same:
        return Verdict(DEFECT, "another answer though a hash does not fit", out[:1000])
    return Verdict(ANSWER if same else OTHER)


def answer_of(outcome):
    """What was answered, without what differs from run to run."""
    if outcome["answer"] is not None:
        return outcome["answer"]
    out = outcome["out"].decode("utf-8", "surrogateescape")
    try:
        found = json.loads(out)
    except ValueError:
        # Times, and what stands in a line with their units.
        lines = [line for line in out.split("\n") if not re.search(r"[0-9] (ms|images/s|photos/s)\b", line)]
        return [re.sub(r"\b[0-9]+\.[0-9]{2}\b", "", line).split() for line in lines]
    if isinstance(found, dict):
        found = {key: value for key, value in found.items() if key not in ("latency_ms", "images_per_second")}
    return found


def _wrong_words(code, err, out, own=""):
    """What is wrong with what was printed; None where nothing is. own: what may be quoted as it is, in usage errors."""
    lines = [line for line in err.split("\n") if line]
    for name, text in (("stderr", err), ("stdout", out)):
        bad = [c for c in text if not (c.isprintable() or c == "\n" or (c in own and (code == 2 or c > "\uffff")))]
        if bad:
            return f"unprintable {name}"
    if code == 2:
        # argparse and click say how the command is used, and then what is wrong.
        return (
            None if lines and all(_USAGE.match(line) or ": error: " in line for line in lines[:-1]) else "wrong usage"
        )
    told = [line for line in lines if not line.startswith(_REMARKS) and not _OTHERS.match(line)]
    errors = [line for line in told if line.startswith("error: ")]
    if code == 0:
        if errors:
            return "an error, and exit code 0"
        return f"words on stderr: {told[0][:40]}" if told else _bad_json(out)
    if not errors:
        return f"exit code {code} without an error"
    if len(told) > 1:
        return "an error of several lines" if len(errors) == 1 else "several errors"
    longest = max(map(len, lines))
    return f"an error of over {MOST_CHARACTERS} characters" if longest > MOST_CHARACTERS else None


def _bad_json(out):
    """Of a command that printed JSON: is it JSON, and are probabilities what they can be?"""
    if not out.startswith("{"):
        return None
    try:
        found = json.loads(out, parse_constant=_no_constant)
    except ValueError:
        return "no JSON on stdout"
    for row in found.get("predictions", ()):
        if not 0 <= row["probability"] <= 1.0001:
            return "a probability that is none"
    share = found.get("flops_share", 0)
    return None if isinstance(share, (int, float)) and math.isfinite(share) else "no share of FLOPs"


def _no_constant(name):
    raise ValueError(name)


def _deepest(err):
    """The innermost function of da3 in what faulthandler wrote."""
    for line in err.split("\n"):
        found = re.search(r'File ".*/([^/]+/[^/]+\.py)", line \d+ in (\S+)', line)
        if found and "threading" not in found.group(1) and "/da3/" in line:
            return f"{found.group(1)}:{found.group(2)}"
    return "another library"


def _last(text):
    lines = [line for line in text.split("\n") if line]
    return lines[-1] if lines else ""
