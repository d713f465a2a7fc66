"""The report of a self-test: one JSON file with everything, and beside it a text for people. Written anew, whole, again
and again, so that it is there whatever happens to the process, or to the board."""

import json
import time
from typing import Any, Dict, List

from ..errors import Da3Error
from ..system.atomic import write_atomically
from ..system.versions import VERSION
from .findings import FAIL, PASS, SKIP
from .options import SelftestOptions

FORMAT = 1
RUNNING, INTERRUPTED = "RUNNING", "INTERRUPTED"


class Report:
    """content: what is written, see the module. path: of the JSON file, which ends in .json."""

    def __init__(self, path: str, options: SelftestOptions) -> None:
        self.path = path if path.endswith(".json") else path + ".json"
        self.text_path = self.path[: -len(".json")] + ".txt"
        self._saved = 0.0
        self.content: Dict[str, Any] = {
            "selftest": FORMAT,
            "da3": VERSION,
            "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "result": RUNNING,
            "options": dict(options._asdict()),
            "stages": [],
        }

    def begin_stage(self, name: str, title: str) -> Dict[str, Any]:
        """A stage is begun; what is to be known of it goes into the dict that is returned."""
        stage: Dict[str, Any] = {
            "name": name,
            "title": title,
            "ended": RUNNING,
            "doing": None,
            "findings": [],
            "notes": {},
        }
        self.content["stages"].append(stage)
        return stage

    def earlier(self) -> Dict[str, Any]:
        """The findings and notes of all stages so far."""
        found: Dict[str, Any] = {"findings": [], "notes": {}}
        for stage in self.content["stages"]:
            found["findings"] += stage["findings"]
            found["notes"].update(stage["notes"])
        return found

    def counts(self) -> Dict[str, int]:
        """How many findings there are of each status."""
        every = [finding["status"] for stage in self.content["stages"] for finding in stage["findings"]]
        return {status: every.count(status) for status in (PASS, FAIL, SKIP)}

    def end(self, interrupted: bool = False) -> str:
        """No more stages come; returns the result, and has it written. It passes if nothing failed and something
        passed."""
        counts = self.counts()
        good = counts[FAIL] == 0 and counts[PASS] > 0
        self.content["result"] = INTERRUPTED if interrupted else PASS if good else FAIL
        self.save()
        return str(self.content["result"])

    def save(self, at_most_every: float = 0.0) -> None:
        """Write both files, unless they were written so many seconds ago or less. Raises Da3Error."""
        if time.time() - self._saved < at_most_every:
            return
        self.content["counts"] = self.counts()
        try:
            write_atomically(self.path, (json.dumps(self.content, indent=1) + "\n").encode("utf-8"))
            write_atomically(self.text_path, render(self.content).encode("utf-8"))
        except OSError as error:
            raise Da3Error(
                "the report %s cannot be written (%s): name another place with --out" % (self.path, error.strerror)
            )
        self._saved = time.time()


def render(content: Dict[str, Any]) -> str:
    """The report for people: what failed first, then everything, a line each."""
    stages = content["stages"]
    failed = [(s["name"], f) for s in stages for f in s["findings"] if f["status"] == FAIL]
    counts = content.get("counts", {})
    lines = [
        "da3 %s selftest: %s" % (content["da3"], content["result"]),
        "%s; begun %s" % (", ".join("%d %s" % (counts.get(s, 0), s) for s in (PASS, FAIL, SKIP)), content["begun"]),
        "options: %s" % ", ".join("%s=%s" % pair for pair in sorted(content["options"].items())),
        "",
    ]
    lines += ["FAIL  %s: %s: %s" % (stage, f["name"], f["text"]) for stage, f in failed] + ([""] if failed else [])
    for stage in stages:
        lines.append("== %s: %s (%s)" % (stage["name"], stage["title"], stage["ended"]))
        lines += [finding_line(finding) for finding in stage["findings"]]
        if stage["ended"] == RUNNING and stage["doing"]:
            lines.append("      it was at: %s" % stage["doing"])
        for key, value in sorted(stage["notes"].items()):
            lines += _note(key, value)
        lines.append("")
    return "\n".join(lines)


def finding_line(finding: Dict[str, Any]) -> str:
    """One finding."""
    return "%-4s  %s: %s" % (finding["status"], finding["name"], finding["text"])


def _note(key: str, value: Any, indent: str = "      ") -> List[str]:
    """A note as lines: what is nested is indented, and numbers are short."""
    if isinstance(value, dict):
        if value and not any(isinstance(item, (dict, str)) for item in value.values()):
            return ["%s%s: %s" % (indent, key, ", ".join("%s %s" % (k, _short(v)) for k, v in value.items()))]
        lines = ["%s%s:" % (indent, key)]
        for name, item in value.items():
            lines += _note(name, item, indent + "  ")
        return lines
    if isinstance(value, str) and "\n" in value:
        return ["%s%s:" % (indent, key)] + ["%s  %s" % (indent, line) for line in value.split("\n")]
    return ["%s%s: %s" % (indent, key, _short(value))]


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_short(item) for item in value)
    return "%.4g" % value if isinstance(value, float) else str(value)
