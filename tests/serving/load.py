"""How a real Triton that serves a bundle's domains bears load: 32 clients at once, domains mixed, every answer checked.

    python tests/serving/load.py BUNDLE PHOTOS --minutes 5

PHOTOS has DOMAIN/val/CLASS/*.jpg for domains of BUNDLE. Clients and server share the machine, and so do `Runtime.run`
and an idle server: both take turns of a minute or less. `Runtime.run` reads the same files, as many at a time as the
engine takes in one run, with the same threads. What is printed are pictures a second, latencies of requests, and how
many answers differ from those of `Runtime.run`.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc.aio as aio
from triton_server import Triton
from tritonclient.grpc import InferInput

from da3.runtime import Runtime
from da3.runtime.app.zipapp import run_engine
from da3.runtime.images import evenly, is_image_name
from da3.runtime.serving import Repository, Settings

TOLERANCE = 2e-3  # of a probability: sums in another order, of a batch of another size


def main():
    options = _parsed()
    with tempfile.TemporaryDirectory() as work, Runtime(options.bundle, threads=options.threads) as runtime:
        names = options.domain or [d for d in runtime.bundle.domains if (options.photos / d / "val").is_dir()]
        files = {name: _pictures(options.photos / name / "val", options.pictures) for name in names}
        repository = Repository(Path(work) / "repository")
        settings = Settings(threads=options.threads, batch_size=options.batch_size)
        repository.write_runtime(options.bundle, settings, run_engine())
        for name in names:
            repository.put(name, options.bundle)
        expected = _expected(runtime, files, options.batch_size)
        loads = [f"--load-model={name}" for name in names]
        most = int(options.minutes * 120 + 300)
        with Triton(repository.models, work, options=loads, most_seconds=most) as triton:
            report = measure(triton, runtime, files, expected, options)
    text = json.dumps(report, indent=1)
    if options.json:
        Path(options.json).write_text(text + "\n")
    print(text)
    return 0 if report["wrong"] == 0 else 1


def measure(triton, runtime, files, expected, options):
    """Turns of the server under load and of `Runtime.run`; what was measured, as JSON has it."""
    jobs = _jobs(files, options.per_request, options.clients)
    asyncio.run(_load(triton.grpc, jobs, expected, options.clients, 3.0))  # the first runs are slower
    _direct(runtime, files, options.batch_size, 3.0)
    turns = max(1, round(options.minutes))
    seconds, served, direct, latencies, wrong, answers = options.minutes * 60 / turns, [], [], [], 0, 0
    cpu = dict.fromkeys((*_cpu(triton), "runtime_run"), 0.0)
    asked_directly = 0.0
    for turn in range(turns):
        before = time.process_time()
        direct.append(_direct(runtime, files, options.batch_size, min(seconds / 2, 20.0)))
        cpu["runtime_run"] += time.process_time() - before
        asked_directly += direct[-1] * min(seconds / 2, 20.0)
        before = _cpu(triton)
        found = asyncio.run(_load(triton.grpc, jobs, expected, options.clients, seconds))
        for who, used in _cpu(triton).items():
            cpu[who] += used - before[who]
        served.append(found["pictures"] / found["seconds"])
        latencies += found["latencies"]
        wrong, answers = wrong + found["wrong"], answers + found["pictures"]
        print(
            f"turn {turn + 1} of {turns}: Triton {served[-1]:.1f}, Runtime.run {direct[-1]:.1f} pictures/s",
            file=sys.stderr,
        )
    direct.append(_direct(runtime, files, options.batch_size, min(seconds / 2, 20.0)))
    p50, p99 = (float(np.percentile(latencies, p)) * 1e3 for p in (50, 99))
    return {
        "pictures_per_s": float(np.mean(served)),
        "runtime_run_pictures_per_s": float(np.mean(direct)),
        "ratio": float(np.mean(served) / np.mean(direct)),
        "p50_ms": p50,
        "p99_ms": p99,
        "answers": answers,
        "wrong": wrong,
        "cpu_ms_per_picture": {
            who: 1e3 * used / (asked_directly if who == "runtime_run" else answers) for who, used in cpu.items()
        },
        "turns": {"triton": served, "runtime_run": direct},
        "conditions": {
            "minutes": options.minutes,
            "clients": options.clients,
            "pictures_per_request": options.per_request,
            "domains": sorted(files),
            "batch_size": options.batch_size,
            "threads": options.threads,
            "cpus": os.cpu_count(),
            "machine": platform.platform(),
            "clients_on": "the same machine, one process",
        },
    }


def _cpu(triton):
    """Seconds of CPU time so far: of Triton's own process, of the one that runs the domains, of this one."""
    found = {"triton_server": 0.0, "triton_runtime": 0.0, "clients": time.process_time()}
    stubs = triton.stubs
    for pid in triton.processes:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            found["triton_runtime" if pid in stubs else "triton_server"] += used
    return found


def _direct(runtime, files, batch_size, seconds):
    """Pictures a second of `Runtime.run`, domains in turn, a run of the engine each."""
    batches = itertools.cycle(_batches(files, batch_size))
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        name, paths = next(batches)
        count += len(runtime.run(paths, domain=name, batch_size=batch_size))
    return count / (time.perf_counter() - start)


async def _load(address, jobs, expected, clients, seconds):
    """Every client sends a request when the one before is answered."""
    until = time.perf_counter() + seconds
    totals = {"pictures": 0, "wrong": 0, "latencies": []}

    async def client(number):
        async with aio.InferenceServerClient(address) as connection:
            for name, paths, tensor in itertools.islice(itertools.cycle(jobs), number * 7, None):
                start = time.perf_counter()
                if start >= until:
                    return
                answer = await connection.infer(name, [tensor])
                totals["latencies"].append(time.perf_counter() - start)
                totals["pictures"] += len(paths)
                totals["wrong"] += _wrong(answer, [expected[path] for path in paths])

    start = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return dict(totals, seconds=time.perf_counter() - start)


def _wrong(answer, expected):
    """How many pictures were answered otherwise than `Runtime.run` does."""
    found, ends = answer.as_numpy("probabilities"), answer.as_numpy("exit")[:, 0]
    if len(found) != len(expected):
        return len(expected)
    count = 0
    for probabilities, end, one in zip(found, ends, expected, strict=True):
        same = np.abs(probabilities - one.probabilities).max() <= TOLERANCE and end == (
            -1 if one.exit is None else one.exit
        )
        count += not same
    return count


def _expected(runtime, files, batch_size):
    found = {}
    for name, paths in files.items():
        found.update(zip(paths, runtime.run(paths, domain=name, batch_size=batch_size), strict=True))
    return found


def _jobs(files, per_request, clients):
    """Requests that are ready to be sent, domains mixed: (domain, paths, tensor) each."""
    jobs = []
    for name, paths in _batches(files, per_request):
        tensor = InferInput("picture", [len(paths), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[Path(path).read_bytes()] for path in paths], np.object_))
        jobs.append((name, paths, tensor))
    random.Random(1).shuffle(jobs)
    return jobs


def _batches(files, size):
    """(domain, at most `size` of its files), the domains in turn."""
    each = [[(name, paths[i : i + size]) for i in range(0, len(paths), size)] for name, paths in files.items()]
    return [one for row in itertools.zip_longest(*each) for one in row if one is not None]


def _pictures(folder, count):
    found = sorted(str(path) for path in folder.rglob("*") if is_image_name(path.name))
    return list(evenly(found, count))


def _parsed():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--domain", action="append", help="only this one; may be repeated")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--per-request", type=int, default=1, help="pictures a request")
    parser.add_argument("--pictures", type=int, default=48, help="of each domain")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
