"""From options to an open Runtime and the domain that was asked for: the same for every command that runs pictures."""

import argparse
from typing import NamedTuple, Optional

from ..engine import Runtime
from ..records import Domain


class Opening(NamedTuple):
    """What --bundle, --domain, --backend, --threads, --precision and --engines say; None is what nobody asked for."""

    bundle: str
    domain: Optional[str]
    backend: str
    threads: Optional[int]
    precision: Optional[str]
    engines: Optional[str]

    @classmethod
    def of(cls, options: argparse.Namespace) -> "Opening":
        return cls(options.bundle, options.domain, options.backend, options.threads, options.precision, options.engines)

    def runtime(self) -> Runtime:
        """Opened, for use as a context manager."""
        return Runtime(
            self.bundle,
            backend=self.backend,
            threads=self.threads,
            precision=self.precision,
            engines=self.engines,
        )

    def domain_in(self, runtime: Runtime) -> Domain:
        """The domain, loaded: a name in the bundle or a pack's path; the only one there is if nobody names one."""
        return runtime.use_only() if self.domain is None else runtime.load(self.domain)
