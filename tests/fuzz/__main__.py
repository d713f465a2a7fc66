"""``make fuzz``, which is ``python -m fuzz``: many cases, what came of them, and the defects as files.

python -m fuzz --cases 50000 --seed 1 --keep found
python -m fuzz --replay found/*.case
"""

import argparse
import multiprocessing
import multiprocessing.util
import signal
import sys
import time
from pathlib import Path

from .campaign import Campaign
from .child import case as cases
from .judging import DEFECT
from .keeping import file_name
from .servers import Servers
from .subjects import all_subjects


def main():
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=1000, help="how many in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="same seed, same cases (default: %(default)s)")
    parser.add_argument("--subject", action="append", help="only this one, or these")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write a file for each defect")
    parser.add_argument("--replay", nargs="+", type=Path, metavar="FILE", help="run these cases again, and no others")
    parser.add_argument("--jobs", type=int, default=1, help="cases that are run at once (default: %(default)s)")
    parser.add_argument("--python", default=sys.executable, help="what runs the cases, such as a Python 3.6 with numpy")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is in memory-backed folders goes with it
    subjects = all_subjects()
    if options.subject:
        subjects = [subject for subject in subjects if subject.name in options.subject]
        if not subjects:
            parser.error("subjects are: " + ", ".join(subject.name for subject in all_subjects()))
    if options.replay:
        with Servers(options.python) as servers:
            return _replay(options.replay, servers)
    return _campaign(options, subjects)


def _campaign(options, subjects):
    print(f"seed {options.seed}, {options.cases} cases", flush=True)
    shares = sum(subject.share for subject in subjects)
    pieces = []
    for subject in subjects:
        count = max(1, round(options.cases * subject.share / shares))
        starts = range(0, count, _PIECE)
        pieces += [(subject.name, min(_PIECE, count - start), f"{options.seed} {start // _PIECE}") for start in starts]
    whole = Campaign(None, lambda defect: print(f"DEFECT {defect.case.subject}: {defect.name}\n  {defect.case.what}"))
    started, told = time.time(), 0
    with multiprocessing.get_context("fork").Pool(options.jobs, _begin, (options.python,)) as pool:
        for done in pool.imap_unordered(_piece, pieces):
            whole.add(done)
            _keep(whole, options.keep)
            if sum(whole.counts.values()) >= told + 1000:
                told = sum(whole.counts.values())
                print(f"{told} cases in {time.time() - started:.0f} s", flush=True)
        pool.close()
        pool.join()
    print(whole.table())
    print(f"most CPU time: {whole.slowest[0]:.1f} s, {whole.slowest[1][:200]!a}")
    print(f"most memory: {whole.largest[0] >> 20} MB, {whole.largest[1][:200]!a}")
    for (subject, name), defect in sorted(whole.defects.items()):
        print(f"{defect.times:6d} x {subject}: {name}  ({defect.case.what[:100]!a})")
    print(f"{time.time() - started:.0f} s")
    return 1 if whole.defects else 0


_PIECE = 250  # cases that have a seed of their own, so that it does not matter who runs them


def _begin(python):
    """In a process of the pool."""
    global _servers
    _servers = Servers(python)
    multiprocessing.util.Finalize(_servers, _servers.close, exitpriority=10)


def _piece(piece):
    name, count, seed = piece
    campaign = Campaign(_servers)
    campaign.run(next(subject for subject in all_subjects() if subject.name == name), count, seed)
    campaign.servers = None  # which stays in this process
    campaign.told = None
    campaign._undamaged = {}
    return campaign


def _keep(campaign, folder):
    """A file for each defect: the smallest case that shows it."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for (_, name), defect in campaign.defects.items():
        (folder / file_name(defect.case, name)).write_bytes(cases.to_bytes(defect.case))


def _replay(paths, servers):
    campaign, wrong = Campaign(servers), 0
    for path in paths:
        case = cases.from_bytes(path.read_bytes())
        verdict = campaign.take(case)
        wrong += verdict.kind == DEFECT
        print(f"{path.name}: {verdict.kind} {verdict.name}")
        print(f"  {case.what[:200]!a}\n  {case.runner} {case.words}\n{verdict.text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
