"""`make soak`: eight threads run three domains that others replace, remove and add meanwhile.

The Runtime is closed amid its runs, and opened again. Every answer is compared with what numpy computes by itself.

    python -m soak [--minutes 10] [--warm-up 5] [--threads 8] [--backend onnxruntime]

Growth is that of the minutes behind the warm-up, in which the heaps of so many threads settle.

Exit code 1 for a wrong answer, an error that nobody expects, or growth of memory, threads or open files.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / "runtime")]

import synthetic_bundle  # noqa: E402

from da3.runtime import Bundle, Da3Error, Runtime  # noqa: E402
from da3.runtime.bundle import read_domain  # noqa: E402
from da3.runtime.bundle.packs import add_pack, remove_domain, update_domain  # noqa: E402
from da3.runtime.records import ExitRule  # noqa: E402

NAMES = ("flowers", "signs", "textures")
VERSIONS = 2  # of each domain, with other tensors and other exits
PICTURES = 32
TOLERANCE = 1e-3
SURE = 1e-3  # a confidence so near to a threshold is left out: rounding decides there
ALLOWED = ("this Runtime is closed", "unknown domain", "is replaced faster than it can be read")
MOST_GROWTH = 0.01


class Expected:
    """What numpy says of every picture, for each version of each domain."""

    def __init__(self, folder):
        self.images = synthetic_bundle.images(PICTURES)
        weights = synthetic_bundle.write_exits_bundle(folder / "bundle", NAMES)
        self.packs, self._answers = {}, {}
        for name in NAMES:
            for version in range(VERSIONS):
                own = {key: tensor * np.float32(0.5 / (1 + version)) for key, tensor in weights[name].items()}
                own = {key: tensor.astype(np.float16).astype(np.float32) for key, tensor in own.items()}
                answers = synthetic_bundle.Backbone().answers(self.images, own)
                sure = [synthetic_bundle.confidence(rows) for rows in answers[:-1]]
                thresholds = [float(np.median(row)) for row in sure]
                metrics = {"version": version}
                place = folder / f"{name}-{version}"
                synthetic_bundle.write_exits_domain(place, name, own, thresholds=thresholds, metrics=metrics)
                self.packs[name, version] = place
                self._answers[name, version] = answers
        for name in NAMES:
            add_pack(folder / "bundle", self.packs[name, 0], replace=True)
        self._sure = {
            key: np.stack([synthetic_bundle.confidence(rows) for rows in answers[:-1]])
            for key, answers in self._answers.items()
        }

    def problem(self, result, chosen):
        """None, or what is wrong with a BatchResult of the pictures of these numbers."""
        key = result.domain.name, result.domain.metrics["version"]
        rules = [rule.threshold for rule in result.domain.exits]
        sure = self._sure[key][:, chosen]
        for i in range(len(chosen)):
            near = [t is not None and abs(sure[e, i] - t) < SURE for e, t in enumerate(rules)]
            leaves = [e for e, t in enumerate(rules) if t is not None and sure[e, i] > t]
            left = leaves[0] if leaves else len(rules)
            if any(near):
                continue
            if result.left[i] != left:
                return f"{key}: picture {chosen[i]} left at {result.left[i]}, not at {left}"
            error = np.abs(result.logits[i] - self._answers[key][left, chosen[i]]).max()
            if not error < TOLERANCE:
                return f"{key}: logits of picture {chosen[i]} are off by {error}"
        return None


class Soak:
    def __init__(self, folder, threads, backend):
        self.expected = Expected(folder)
        self.bundle, self.threads, self.backend = folder / "bundle", threads, backend
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.counts = dict.fromkeys(("answers", "refused", "changes", "opened"), 0)
        self.problems = []
        self.runtime = self._open()

    def _open(self):
        self.counts["opened"] += 1
        return Runtime(self.bundle, backend=self.backend, threads=1)

    def count(self, what, number=1):
        with self.lock:
            self.counts[what] += number

    def guarded(self, work, *arguments):
        choice = random.Random(repr(arguments))
        while not self.over.is_set():
            try:
                work(choice)
            except Da3Error as error:
                if not any(words in str(error) for words in ALLOWED):
                    self.problems.append(f"{type(error).__name__}: {error}")
                self.count("refused")
            except BaseException as error:
                self.problems.append(f"{type(error).__name__}: {error}")

    def answer(self, choice):
        runtime, name = self.runtime, choice.choice(NAMES)
        if choice.random() < 0.05:
            runtime.load(name)  # as it is on the disk now
        chosen = [choice.randrange(PICTURES) for _ in range(choice.choice((1, 1, 2, 5)))]
        result = runtime.run_batch(self.expected.images[chosen], name)
        found = self.expected.problem(result, chosen)
        if found is not None:
            self.problems.append(found)
        self.count("answers", len(chosen))

    def change(self, choice):
        name = choice.choice(NAMES)
        pack = self.expected.packs[name, choice.randrange(VERSIONS)]
        way = choice.random()
        if way < 0.15 and name != NAMES[0]:
            remove_domain(self.bundle, name)
            if choice.random() < 0.5 and name in self.runtime.loaded:
                self.runtime.unload(name)
            add_pack(self.bundle, pack)
        elif way < 0.3:
            rules = [ExitRule(choice.choice((None, 0.5, 0.7))) for _ in synthetic_bundle.EXITS]
            update_domain(self.bundle, name, exits=rules)
        else:
            add_pack(self.bundle, pack, replace=True)
        self.count("changes")
        self.over.wait(0.05)

    def look(self, choice):
        """Another reader of the bundle: every domain is there, whole, but for those that are being removed."""
        with Bundle(self.bundle) as opened:
            assert NAMES[0] in opened.domains, "a domain that is replaced was not there"
            for name in NAMES:
                read_domain(opened, name)
        self.over.wait(0.1)

    def close(self, choice):
        self.over.wait(choice.uniform(1.0, 3.0))
        old, self.runtime = self.runtime, self._open()
        old.close()

    def run(self, minutes, said):
        jobs = [(self.answer, number) for number in range(self.threads)]
        jobs += [(self.change, "changes"), (self.look, "looks"), (self.close, "closes")]
        threads = [threading.Thread(target=self.guarded, args=job) for job in jobs]
        for thread in threads:
            thread.start()
        rows, began = [], time.monotonic()
        while time.monotonic() - began < 60 * minutes and not self.problems:
            time.sleep(1.0)
            passed = time.monotonic() - began
            rows.append((passed, measured()))
            if len(rows) % 30 == 0:
                said(f"{passed / 60:5.1f} min  {self.counts}  {rows[-1][1]}")
        self.over.set()
        for thread in threads:
            thread.join()
        self.runtime.close()
        return rows


def measured():
    """(resident bytes, threads, open files) of this process."""
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, threading.active_count(), len(os.listdir("/proc/self/fd"))


def growth(rows):
    """{name: (before, after, growth)} of the first tenth of the rows and the last, and by which share they grew.

    Memory is the median. Of threads and files it is the least: at most moments some file is open for a moment.
    """
    tenth = max(1, len(rows) // 10)
    found = {}
    for number, (name, typical) in enumerate((("memory", statistics.median), ("threads", min), ("open files", min))):
        before, after = (typical([row[number] for row in part]) for part in (rows[:tenth], rows[-tenth:]))
        found[name] = (before, after, after / before - 1)
    return found


def main():
    words = argparse.ArgumentParser(prog="python -m soak", description=__doc__.splitlines()[0])
    words.add_argument("--minutes", type=float, default=10.0)
    words.add_argument("--warm-up", type=float, default=5.0, help="minutes before those, compared as well")
    words.add_argument("--threads", type=int, default=8)
    words.add_argument("--backend", default="onnxruntime")
    given = words.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="da3-soak-"))
    try:
        soak = Soak(folder, given.threads, given.backend)
        warm_up = 60 * given.warm_up
        rows = soak.run(given.warm_up + given.minutes, lambda text: print(text, flush=True))
        left = sorted(path.name for path in soak.bundle.rglob(".*"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{soak.counts}")
    rows = [row for at, row in rows if at >= warm_up]
    grown = growth(rows) if len(rows) >= 10 else {}
    for name, (before, after, share) in grown.items():
        print(f"{name:12} {before:12.0f} -> {after:12.0f}  {100 * share:+.2f} %")
    problems = soak.problems[:10] + [f"left in the bundle: {name}" for name in left]
    problems += [f"{name} grew by {100 * share:.2f} %" for name, (_, _, share) in grown.items() if share > MOST_GROWTH]
    print(f"{len(problems)} problems")
    for text in problems:
        print(text)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
