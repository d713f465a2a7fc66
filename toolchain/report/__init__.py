"""One HTML file that shows what is known of an evaluation, a training run or a bundle. It imports no PyTorch."""

from da3.toolchain.report.write import write_report

__all__ = ["write_report"]
