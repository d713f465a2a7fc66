"""Errors of export."""

from __future__ import annotations

from da3.export.checks import Check
from da3.runtime.errors import Da3Error


class ExportError(Da3Error):
    """A domain cannot be exported, or what was exported does not compute what was trained."""


class VerificationError(ExportError):
    """What was exported does not compute what was trained; ``checks`` holds every comparison."""

    def __init__(self, message: str, checks: list[Check]):
        super().__init__(message)
        self.checks = checks
