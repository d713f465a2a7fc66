"""What ``da3 export`` prints: its comparisons with PyTorch, and what it wrote."""

from __future__ import annotations

from rich.table import Table

from da3.export import Check, Exported


def checks_table(checks: list[Check]) -> Table:
    """Every comparison of an export with PyTorch."""
    table = Table("segment", "computes", "relative error", "", title="verification against PyTorch")
    for check in checks:
        table.add_row(check.name, check.detail, f"{check.error:.1e}", "ok" if check.passed else "FAILED")
    return table


def export_summary(domain: str, done: Exported) -> str:
    """What an export wrote, and where."""
    return f"wrote {done.what}: {done.path} ({domain}: {done.domain_bytes / 1e3:,.0f} KB)"
