"""What a served domain costs in memory: a real Triton with one domain loaded, and with a hundred that are all asked.

    python tests/serving/memory.py BUNDLE --domains 100

The domains are the bundle's own, again and again under other names. The resident sets of the server and of all its
processes are summed, in MiB, and the proportional ones: there a page that two share is half of each.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tritonclient.grpc
from triton_server import Triton

from da3.runtime.app.zipapp import run_engine
from da3.runtime.bundle import Bundle, domain_files, read_domain, write_files
from da3.runtime.serving import Repository, Settings

ROUNDS = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--domains", type=int, default=100)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        repository = Repository(Path(work) / "repository")
        repository.write_runtime(options.bundle, Settings(threads=options.threads), run_engine())
        names = put_copies(repository, options.bundle, options.domains, Path(work) / "pack")
        packs = sum(path.stat().st_size for path in Path(repository.store, "packs").iterdir()) / 2**20
        asked(repository, names[:1], Path(work) / "first")  # stores the engine's graphs, which takes memory once
        one = asked(repository, names[:1], Path(work) / "one")
        all_ = asked(repository, names, Path(work) / "all")
    report = {"domains": len(names), "packs_mib": packs, "one": one, "all": all_, "threads": options.threads}
    report["more_mib"] = {key: all_["asked"][key] - one["asked"][key] for key in ("pss", "rss")}
    report["within_the_packs"] = max(report["more_mib"].values()) <= packs
    text = json.dumps(report, indent=1)
    if options.json:
        Path(options.json).write_text(text + "\n")
    print(text)
    return 0 if report["within_the_packs"] else 1


def put_copies(repository, bundle, count, folder):
    """`count` domains, each a pack of its own."""
    found = []
    with Bundle(bundle) as opened:
        own = opened.domains
        for i in range(count):
            name = f"{own[i % len(own)][:50]}-{i:03d}"
            write_files(folder, domain_files(read_domain(opened, own[i % len(own)])._replace(name=name)))
            repository.put(folder)
            found.append(name)
    return found


def asked(repository, names, work):
    """MiB when the server is ready, and when every domain was asked for several times."""
    work.mkdir()
    picture = np.random.RandomState(0).randint(0, 256, (1, 200, 200, 3), np.uint8)
    loads = [f"--load-model={name}" for name in names]
    with (
        Triton(repository.models, work, options=loads) as server,
        tritonclient.grpc.InferenceServerClient(server.grpc) as client,
    ):
        while not client.is_server_ready():
            time.sleep(0.1)
        ready = used(server.processes)
        tensor = tritonclient.grpc.InferInput("pixels", list(picture.shape), "UINT8")
        tensor.set_data_from_numpy(picture)
        for _ in range(ROUNDS):
            for name in names:
                client.infer(name, [tensor])
        return {"ready": ready, "asked": used(server.processes), "processes": sorted(server.processes.values())}


def used(processes):
    """{"pss", "rss"}: MiB of all of them."""
    total = {"pss": 0.0, "rss": 0.0}
    for pid in processes:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            key, _, rest = line.partition(":")
            if key.lower() in total:
                total[key.lower()] += int(rest.split()[0]) / 1024
    return total


if __name__ == "__main__":
    sys.exit(main())
