"""Old Pythons on this machine."""

import glob
import os
import shutil
import subprocess

VERSION = "import sys; print(sys.version_info[:2] == (3, 6))"


def candidates():
    yield shutil.which("python3.6")
    yield os.environ.get("DA3_PYTHON36")
    yield from sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/3.6.*/bin/python")))


def works(python, code):
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() in (b"True", b"")
