"""``da3 demo``: the whole path, from photos that it makes itself to measured figures."""

from da3.toolchain.demo.demo import DemoReport, DemoRow, run_demo
from da3.toolchain.demo.photos import DOMAINS, write_domain

__all__ = ["DOMAINS", "DemoReport", "DemoRow", "run_demo", "write_domain"]
