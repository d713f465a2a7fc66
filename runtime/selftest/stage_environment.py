"""Stage: what this machine is, and what is installed on it."""

from typing import Callable, List, Tuple

from ..bundle.bundle import Bundle
from ..system.machine import conditions
from ..system.memory import available_bytes
from ..system.sizes import render_bytes
from ..trt.store import describe_sets
from .findings import PASS, SKIP, Teller
from .machine import power_mode, sensors, slow_clocks, system_texts
from .options import SelftestOptions

_LITTLE = 256 << 20  # bytes of memory, below which engines may not load

Doctor = Callable[[], Tuple[str, List[str]]]  # -> what `doctor` prints, and the problems that it has found


def check_environment(options: SelftestOptions, tell: Teller, doctor: Doctor) -> None:
    """Tells what was found; no board has to have any of it."""
    texts = system_texts()
    tell.note("system", texts)
    tell.note("conditions", conditions())
    tegra = texts.get("etc/nv_tegra_release")
    if tegra is None:
        tell.find(SKIP, "Jetson Linux", "this is no Jetson: it has no /etc/nv_tegra_release")
    else:
        tell.find(PASS, "Jetson Linux", tegra.split("\n")[0])
    mode = power_mode()
    tell.note("power mode", mode)
    if mode is None:
        tell.find(SKIP, "power mode", "there is no nvpmodel")
    else:
        tell.find(PASS, "power mode", " ".join(mode.split()))
    found = sensors()
    tell.note("sensors", found)
    slow = slow_clocks(found)
    degrees = found["temperatures"].values()
    text = "%d clocks, %d of them below their most" % (len(found["clocks"]), len(slow))
    text += " (%s): timings will vary; `sudo jetson_clocks` on a Jetson" % ", ".join(slow[:4]) if slow else ""
    tell.find(PASS if found["clocks"] else SKIP, "clocks", text if found["clocks"] else "the kernel shows none")
    text = "the hottest of %d is %.0f degrees Celsius" % (len(degrees), max(degrees)) if degrees else "it shows none"
    tell.find(PASS if degrees else SKIP, "temperatures", text)
    free = available_bytes()
    if free is None:
        tell.find(SKIP, "memory", "the system does not say what is available")
    else:
        tell.check(free >= _LITTLE, "memory", "%s are available" % render_bytes(free), {"available bytes": free})
    tell.begin("doctor")
    said, problems = doctor()
    tell.note("doctor", said)
    tell.check(not problems, "doctor", "; ".join(problems) or "no problems found")
    tell.begin("verifying the bundle")
    with Bundle(options.bundle) as bundle:
        bundle.verify()
        manifest = bundle.manifest
        tell.note(
            "bundle",
            {
                "arch": manifest.arch,
                "format": manifest.format,
                "backbone sha256": manifest.backbone_sha256,
                "created by": manifest.created_by,
                "size": manifest.preprocessing.size,
                "domains": bundle.domains,
                "engines": describe_sets(bundle).split("\n"),
            },
        )
        text = "every file as it should be; %s at %d px, domains: %s" % (
            manifest.arch,
            manifest.preprocessing.size,
            ", ".join(bundle.domains) or "none",
        )
        tell.find(PASS, "bundle", text)
