"""`make kills`: every command killed, at random moments and before single file operations, and gone on with.

    python -m kills [--count 200] [--only train] [--seed 0] [--folder FOLDER]
    python -m kills --full

Prints a row for each command and, for a kill that lost something, what it was and how to make it again. Exit code 1
then.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from da3.runtime.errors import Da3Error
from kills.killing import run_killed
from kills.trees import tree


def main():
    words = argparse.ArgumentParser(prog="python -m kills", description=__doc__.splitlines()[0])
    words.add_argument("--count", type=int, default=200, help="kills in all")
    words.add_argument("--only", help="one command")
    words.add_argument("--full", action="store_true", help="full and read-only disks in the place of kills; as root")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--folder", type=Path, help="where to work, and where what it begins with is kept")
    given = words.parse_args()
    made = given.folder or Path(tempfile.mkdtemp(prefix="da3-kills-"))
    os.environ["DA3_KILLS"] = str(made / "made")
    from kills import scenarios

    if not (made / "made").is_dir():
        shutil.rmtree(made / "making", ignore_errors=True)
        (made / "making").mkdir(parents=True)
        os.environ["DA3_KILLS"] = str(made / "making")
        run_killed(lambda: scenarios.prepare(made / "making"), made, patience_s=1200)
        os.rename(made / "making", made / "made")
        os.environ["DA3_KILLS"] = str(made / "made")
    chosen = {name: kinds for name, kinds in scenarios.SCENARIOS.items() if given.only in (None, name)}
    shares = {"train": 0.15, "learn": 0.1, "export": 0.1, "add --replace": 0.25, "calibrate": 0.15, "build": 0.25}
    shares["pack --triton"] = 0.15  # beside the others', which add up to 1
    whole = sum(shares[name] for name in chosen)
    problems, total = [], 0
    for name, kinds in chosen.items():
        for kind in kinds:
            if given.full:
                tried, found = full_disks(kind(made / "made"), made / "disk")
                total += tried
                problems += [f"{kind.__name__}: {text}" for text in found]
                print(
                    f"{name:14} {kind.__name__:15} {tried} full or read-only disks; {len(found)} problems", flush=True
                )
                continue
            count = max(1, round(given.count * shares[name] / whole / len(kinds)))
            found = trials(kind(made / "made"), made / "work", count, random.Random(f"{given.seed} {kind.__name__}"))
            total += found.kills
            problems += [f"{kind.__name__}: {text}" for text in found.problems]
            print(f"{name:14} {kind.__name__:15} {found}", flush=True)
    print(f"{total} {'disks' if given.full else 'kills'}, {len(problems)} problems")
    for text in problems:
        print(text)
    if given.folder is None:
        shutil.rmtree(made, ignore_errors=True)
    return 1 if problems else 0


class Found:
    """What a scenario's kills showed."""

    def __init__(self, operations, seconds):
        self.operations, self.seconds = operations, seconds
        self.kills = self.at_operations = self.at_times = self.torn = self.late = 0
        self.problems = []

    def __str__(self):
        return (
            f"{self.kills:4} kills: {self.at_operations} before one of {self.operations} file operations ({self.torn} "
            f"with a torn file), {self.at_times} in {self.seconds:.1f} s; {len(self.problems)} problems"
        )


def trials(scenario, work, count, choice):
    shutil.rmtree(work, ignore_errors=True)
    reference = _home(scenario, work, "whole")
    begun = time.monotonic()
    ended = run_killed(lambda: scenario.command(reference), work)
    found = Found(ended.operations, time.monotonic() - begun)
    expected, left = scenario.result(reference), scenario.left(reference)
    # Spread over all operations, each of the last ones first: that is where things are put in place.
    numbers = list(range(ended.operations, 0, -1))
    while found.kills < count:
        home = _home(scenario, work, "killed")
        how, text = {"after_s": choice.random() * found.seconds}, ""
        if found.kills % 3 or found.late > count:
            number = numbers.pop(0) if choice.random() < 0.4 else numbers.pop(choice.randrange(len(numbers)))
            numbers = numbers or list(range(ended.operations, 0, -1))
            how = {"before": number, "torn": choice.random() < 0.5}
        try:
            text = "the command"
            killed = run_killed(lambda home=home: scenario.command(home), work, **how).killed
            if not killed:
                found.late += 1  # it was faster this time
                continue
            found.kills += 1
            found.at_operations += "before" in how
            found.at_times += "after_s" in how
            found.torn += bool(how.get("torn"))
            text = "what it left"
            scenario.killed(home)
            text = "going on"
            run_killed(lambda home=home: scenario.again(home), work)
            text = "the result"
            assert scenario.result(home) == expected, "it differs from that of a run that nobody killed"
            text = "files"
            assert scenario.left(home) == left, sorted(set(scenario.left(home)) ^ set(left))
        except Exception as problem:
            found.problems.append(f"{how}: {text}: {type(problem).__name__}: {problem}")
            found.kills += text == "the command"
    return found


def full_disks(scenario, work):
    """The command on a disk that is full after some of what it writes, and on one that is read-only: it is refused in
    one line, nothing is lost, and with room again it comes to its end. Wants the right to mount.

    Returns (how many, problems).
    """
    problems, tried = [], 0
    for share in (0.0, 0.2, 0.5, 0.8, 0.95, None):
        shutil.rmtree(work, ignore_errors=True)
        with Disk(work) as disk:
            reference = _home(scenario, work, "whole")
            before = disk.used()
            run_killed(lambda home=reference: scenario.command(home), work)
            grown = disk.used() - before
            expected, left = scenario.result(reference), scenario.left(reference)
            shutil.rmtree(reference)
            home = _home(scenario, work, "full")
            at_first = tree(home)
            disk.limit(None if share is None else disk.used() + int(grown * share))
            tried += 1
            text = "read-only" if share is None else f"full after {share:.0%}"
            try:
                run_killed(lambda home=home: refused(scenario, home), work)
                disk.limit(disk.SIZE)
                assert share is not None or tree(home) == at_first, "a read-only folder changed"
                scenario.killed(home)
                run_killed(lambda home=home: scenario.again(home), work)
                assert scenario.result(home) == expected, "the result differs"
                assert scenario.left(home) == left, sorted(set(scenario.left(home)) ^ set(left))
            except Exception as problem:
                problems.append(f"{text}: {type(problem).__name__}: {problem}")
    return tried, problems


def refused(scenario, home):
    """AssertionError unless the command is refused in one line."""
    try:
        scenario.command(home)
    except (Da3Error, OSError) as error:
        assert "\n" not in str(error), error
        return
    raise AssertionError("it came to its end without room")


class Disk:
    """A file system in memory at `place`."""

    SIZE = 256 << 20

    def __init__(self, place):
        self._place = place

    def __enter__(self):
        self._place.mkdir(parents=True, exist_ok=True)
        self._mount("-t", "tmpfs", "-o", f"size={self.SIZE}", "tmpfs")
        return self

    def __exit__(self, *problem):
        subprocess.run(["umount", str(self._place)], check=True)

    def used(self):
        found = os.statvfs(self._place)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def limit(self, size):
        """None: nothing can be written at all."""
        self._mount("-o", "remount,ro" if size is None else f"remount,rw,size={max(size, self.used(), 4096)}")

    def _mount(self, *words):
        subprocess.run(["mount", *words, str(self._place)], check=True)


def _home(scenario, work, name):
    home = work / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    scenario.begin(home)
    return home


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main())
