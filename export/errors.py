"""Errors of export."""

from __future__ import annotations

from da3.runtime.errors import Da3Error


class ExportError(Da3Error):
    """A domain cannot be exported, or what was exported does not compute what was trained."""
