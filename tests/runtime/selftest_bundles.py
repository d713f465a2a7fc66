"""Bundles with golden values, as `da3 export` leaves them, and stages of a self-test run in this process."""

import hashlib
import json

from da3.runtime.bundle.bundle import Bundle, read_domain
from da3.runtime.bundle.format import BACKBONE_GOLDENS, GOLDENS
from da3.runtime.selftest import Report, SelftestOptions, compute_goldens, run_stage, tried_domain, write_goldens
from da3.runtime.selftest.computing import NumpySteps
from da3.runtime.selftest.findings import Teller


def add_goldens(folder):
    """Give the synthetic bundle and its domains golden values of what they are now."""
    with Bundle(folder) as bundle:
        steps = NumpySteps(bundle)
        backbone = write_goldens(compute_goldens(bundle, tried_domain(bundle.manifest), steps, "a reference"))
        domains = {
            name: write_goldens(compute_goldens(bundle, read_domain(bundle, name), steps, "a reference"))
            for name in bundle.domains
        }
    (folder / BACKBONE_GOLDENS).write_bytes(backbone)
    edit(folder / "manifest.json", lambda content: content["files"].update({BACKBONE_GOLDENS: entry(backbone)}))
    for name, data in domains.items():
        place = folder / "domains" / name
        (place / GOLDENS).write_bytes(data)
        described = {"file": GOLDENS, **entry(data)}
        edit(place / "domain.json", lambda content, described=described: content.update(goldens=described))
    return folder


def entry(data):
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_file(folder, name, data):
    """Another file under the name, in good order as far as hashes can tell."""
    (folder / name).write_bytes(data)
    edit(folder / "manifest.json", lambda content: content["files"].update({name: entry(data)}))


class Heard:
    """What stages said. findings: (status, name, text); values: by name; notes."""

    def __init__(self):
        self.lines, self.findings, self.values, self.notes = [], [], {}, {}

    def __call__(self, line):
        self.lines.append(line)
        if "finding" in line:
            found = line["finding"]
            self.findings.append((found["status"], found["name"], found["text"]))
            self.values[found["name"]] = found["values"]
        if "note" in line:
            self.notes[line["note"][0]] = line["note"][1]

    @property
    def failed(self):
        return [(name, text) for status, name, text in self.findings if status == "FAIL"]

    def of(self, status):
        return [name for found, name, _ in self.findings if found == status]

    def earlier(self):
        return {"findings": [line["finding"] for line in self.lines if "finding" in line], "notes": self.notes}


def run_here(bundle, *stages, **options):
    """Run stages in this process, and give what was heard."""
    heard = Heard()
    chosen = SelftestOptions(bundle=str(bundle), **options)
    for stage in stages:
        run_stage(stage, chosen, Teller(heard), lambda: ("no problems found", []), heard.earlier())
    return heard


def new_report(tmp_path, bundle, **options):
    chosen = SelftestOptions(bundle=str(bundle), **options)
    return chosen, Report(str(tmp_path / "report.json"), chosen)
