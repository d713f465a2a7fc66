"""A Debian for arm64 with Python, numpy, Pillow and ONNX Runtime, whose programs run here under qemu's user emulation.

    python tests/arm64/root_file_system.py

makes it in build/arm64/ (213 MB, half a minute), or finds it there, and prints how to start its Python. It takes
qemu-user-static, Debian's apt-get and pip, no rights but to write there, and no package index but those that apt and
pip have on this machine.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PLACE = REPOSITORY / "build" / "arm64"
CONSTRAINTS = REPOSITORY / "constraints.txt"
DEBIAN = ("python3", "libstdc++6")
WHEELS = ("numpy", "pillow", "onnxruntime")
LIMIT_S = 600
_ITSELF = "EMULATED_PYTHON"
# Read by the emulated Python as it starts.
ITSELF_PTH = f"import os, sys; sys.executable = os.environ.get({_ITSELF!r}, sys.executable)\n"
NANO = "cortex-a57"  # the cores of a Jetson Nano: ARMv8.0, with none of what later ones have
NEWEST = "max"  # all that qemu knows
# ONNX Runtime reads which CPU it is on, and dies in the file of a machine of another kind. This is a Nano's.
CORE = """processor\t: {number}
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x1
CPU part\t: 0xd07
CPU revision\t: 1

"""


class Unavailable(Exception):
    """It cannot be made on this machine; says why in one line."""


def arm64_python(cpu: str = NANO) -> list[str]:
    """The command that starts the emulated Python, the root file system being made if it is not there yet.

    cpu: as qemu calls it. Files it opens are this machine's, unless the root file system has one of that path.
    Raises Unavailable.
    """
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        raise Unavailable("no qemu-aarch64: apt-get install qemu-user-static")
    wanted = " ".join([*DEBIAN, *WHEELS, CONSTRAINTS.read_text(), CORE, ITSELF_PTH])
    root = PLACE / f"root-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    if not root.is_dir():
        _make(root, qemu)
    return _python(qemu, root, cpu)


def _python(qemu: str, root: Path, cpu: str = NANO) -> list[str]:
    """A script, which Python is told that it is: the kernel starts no arm64 program by itself, and learning starts
    Pythons of its own."""
    script = root / f"python-{cpu}"
    if not script.exists():
        command = shlex.join([qemu, "-cpu", cpu, "-L", str(root), str(root / "usr/bin/python3")])
        script.write_text(f'#!/bin/sh\n{_ITSELF}={shlex.quote(str(script))} exec {command} "$@"\n')
        script.chmod(0o755)
    return [str(script)]


def _make(root: Path, qemu: str) -> None:
    """All of it, or nothing under that name."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise Unavailable(f"no {tool}: the root file system is made of Debian's packages, by Debian's tools")
    for old in PLACE.glob("root-*"):
        shutil.rmtree(old)
    making = PLACE / f"making-{os.getpid()}"
    try:
        fresh = making / "root"
        fresh.mkdir(parents=True)
        for package in _debian_packages(making / "apt"):
            _run("dpkg-deb", "--extract", package, fresh)
        # Where Debian keeps all of these below usr, what leads there is no part of a package.
        for name in ("lib", "bin"):
            if not (fresh / name).exists():
                (fresh / name).symlink_to(f"usr/{name}")
        (fresh / "proc").mkdir()
        (fresh / "proc" / "cpuinfo").write_text("".join(CORE.format(number=n) for n in range(os.cpu_count() or 1)))
        packages = fresh / "usr/lib/python3/dist-packages"
        _install_wheels(_python(qemu, fresh), packages)
        (packages / "itself.pth").write_text(ITSELF_PTH)
        _run(*_python(qemu, fresh), "-c", "import numpy, PIL.Image, onnxruntime")
        for script in fresh.glob("python-*"):  # has the place where it was made in it
            script.unlink()
        fresh.rename(root)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _debian_packages(state: Path) -> list[Path]:
    """DEBIAN and all that it depends on, for arm64, from apt's own sources; what apt knows here stays as it is."""
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()  # nothing is installed there
    options = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state,
    }
    apt = ["apt-get", "--quiet", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    _run(*apt, "update")
    _run(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *DEBIAN)
    return sorted((state / "archives").glob("*.deb"))


def _install_wheels(python: list[str], folder: Path) -> None:
    """WHEELS for that Python and that glibc, in the versions of this repository's constraints."""
    code = "import os, sys; print(*sys.version_info[:2], os.confstr('CS_GNU_LIBC_VERSION').rpartition('.')[2])"
    major, minor, glibc = _run(*python, "-c", code).split()
    platforms = [f"manylinux_2_{n}_aarch64" for n in range(int(glibc), 16, -1)] + ["manylinux2014_aarch64"]
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"),
        *("--only-binary", ":all:", "--implementation", "cp", "--python-version", f"{major}.{minor}"),
        *(word for platform in platforms for word in ("--platform", platform)),
        *("--target", folder, "--constraint", CONSTRAINTS, *WHEELS),
    )


def _run(*words: object) -> str:
    """What a command prints. Raises Unavailable with a line of what it said, where it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    name = Path(str(words[0])).name
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=env, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{name} took more than {LIMIT_S} s while the root file system was made") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()
        reason = next((line for line in said if line.startswith(("E:", "ERROR:"))), said[-1])  # as apt and pip say it
        raise Unavailable(f"{name} failed while the root file system was made: {reason}")
    return done.stdout


if __name__ == "__main__":
    try:
        print(*arm64_python())
    except Unavailable as error:
        sys.exit(f"error: {error}")
