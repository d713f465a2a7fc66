"""The process of a stage that ends badly, in the ways that SELFTEST_DAMAGE names: `STAGE:crash`, `STAGE:hang`,
`STAGE:exit`, `STAGE:babble`; the other stages are run as they are."""

import os
import signal
import sys
import time

from da3.runtime.selftest import run_in_child


def child(words):
    stage, damage = os.environ["SELFTEST_DAMAGE"].split(":")
    if words[0] == stage:
        print('{"begin": "the last thing it did"}', flush=True)
        if damage == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if damage == "hang":
            time.sleep(60)
        if damage == "exit":
            sys.exit("a library ended the process")
        if damage == "babble":
            return run_in_child(words, babbling_doctor)
    return run_in_child(words, lambda: ("no problems found", []))


def babbling_doctor():
    os.write(1, b"a library prints this, and no end of the line")
    return "no problems found", []
