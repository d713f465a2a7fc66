"""Cases made, run and judged: so many of them, divided among the subjects, the same for the same seed."""

import json
import random
import warnings
import zlib
from collections import Counter
from typing import NamedTuple
from unittest import mock

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.internal.conjecture import providers

from .child import case as cases
from .judging import ANSWER, DEFECT, ERROR, OTHER, SKIPPED, judge

KINDS = (ANSWER, OTHER, ERROR, SKIPPED, DEFECT)


class Defect(NamedTuple):
    """A case that came out wrong. times: how many other cases came out wrong in the same way."""

    case: cases.Case
    name: str
    text: str
    times: int


class Campaign:
    """``run(subject, count, seed)`` as often as one likes; then ``counts`` and ``defects`` say what came of it.

    counts: by (subject, kind of verdict). defects: by (subject, name), the smallest case of each. slowest and largest:
    the most CPU time, in seconds, and memory, in bytes, that a case took, and which.
    """

    def __init__(self, servers, told=lambda defect: None):
        self.servers, self.told = servers, told
        self.counts, self.defects = Counter(), {}
        self.slowest, self.largest = (0.0, ""), (0, "")
        self._undamaged = {}

    def run(self, subject, count, seed):
        """Half of the cases are made by structure and half by bytes, where a subject has both."""
        seed = zlib.crc32(f"{seed} {subject.name}".encode())
        by_structure = count if subject.by_bytes is None else count // 2 if subject.by_structure is not None else 0
        if by_structure:
            _each(subject.by_structure, by_structure, seed, self.take)
        rng = random.Random(seed)
        for _ in range(count - by_structure):
            self.take(subject.by_bytes(rng))

    def add(self, other):
        """What came of another campaign's cases as well."""
        self.counts.update(other.counts)
        self.slowest, self.largest = max(self.slowest, other.slowest), max(self.largest, other.largest)
        for key, defect in other.defects.items():
            known = self.defects.get(key)
            if known is None:
                self.told(defect)
            smallest = min((d for d in (known, defect) if d), key=lambda d: len(cases.to_bytes(d.case)))
            self.defects[key] = smallest._replace(times=defect.times + (known.times if known else 0))

    def take(self, case):
        """Run a case, judge it, remember what came of it; returns the verdict."""
        outcome = self.servers.run(case)
        verdict = judge(case, outcome, self.undamaged(case))
        self.counts[case.subject, verdict.kind] += 1
        if verdict.kind != SKIPPED:
            self.slowest = max(self.slowest, (outcome["cpu_s"], f"{case.subject}: {case.what}"))
            self.largest = max(self.largest, (outcome["memory"], f"{case.subject}: {case.what}"))
        if verdict.kind == DEFECT:
            self._remember(case, verdict)
        return verdict

    def undamaged(self, case):
        """The outcome of the same words on the base as it is."""
        if case.runner == "stored":
            case = case._replace(runner="command", words=case.words[2:])
        key = (case.base, case.runner, json.dumps(case.words), case.stdin)
        if case.subject.startswith("command line"):
            return None
        if key not in self._undamaged:
            if len(self._undamaged) > 1000:
                self._undamaged.clear()
            self._undamaged[key] = self.servers.run(case._replace(entries=[]))
        return self._undamaged[key]

    def total(self, kind):
        return sum(count for (_, k), count in self.counts.items() if k == kind)

    def table(self):
        """Cases by subject and verdict, as text."""
        lines = [f"{'':24}" + "".join(f"{kind:>14}" for kind in KINDS)]
        for subject in sorted({subject for subject, _ in self.counts}):
            lines.append(f"{subject:24}" + "".join(f"{self.counts[subject, kind]:14}" for kind in KINDS))
        lines.append(f"{'all':24}" + "".join(f"{self.total(kind):14}" for kind in KINDS))
        return "\n".join(lines)

    def _remember(self, case, verdict):
        found = Campaign(self.servers)
        found.defects[case.subject, verdict.name] = Defect(case, verdict.name, verdict.text, 1)
        self.add(found)


def _each(strategy, count, seed, take):
    """Hand so many cases of a strategy on."""

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def draw(case):
        take(case)

    # Hypothesis draws constants of our own modules, too, of those that are loaded: a seed would mean other cases after
    # each import and each change of the code.
    with warnings.catch_warnings(), mock.patch.object(providers, "is_local_module_file", return_value=False):
        warnings.simplefilter("ignore")
        draw()
