"""The curves of training runs as a picture."""

from __future__ import annotations

from io import BytesIO

from da3.runtime.training import Row


def draw(runs: dict[str, list[Row]]) -> bytes:
    """PNG of loss, accuracy and share of block FLOPs by epoch, one colour per run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    for (title, train, val), axis in zip(
        [
            ("loss", "train_loss", "val_loss"),
            ("accuracy", "train_accuracy", "val_accuracy"),
            ("share of block FLOPs run", "train_share", "val_share"),
        ],
        panels,
        strict=True,
    ):
        for i, (name, history) in enumerate(runs.items()):
            epochs = [row["epoch"] for row in history]
            axis.plot(epochs, [row[train] for row in history], f"C{i}--", lw=1, label=f"{name}, training")
            seen = {row["epoch"]: row[val] for row in history if val in row}
            axis.plot(list(seen), list(seen.values()), f"C{i}-", marker=".", label=f"{name}, validation")
        axis.set_title(title)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        if title != "loss":
            lowest = min(row[key] for history in runs.values() for row in history for key in (train, val) if key in row)
            axis.set_ylim(max(0.0, lowest - 0.1), 1.03)
    panels[0].legend(fontsize=8)
    data = BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()
