"""Training curves as a picture, drawn in this process or in one of its own. It imports no PyTorch."""

from da3.toolchain.curves.elsewhere import draw_elsewhere
from da3.toolchain.curves.history import HistoryPicture
from da3.toolchain.curves.picture import draw

__all__ = ["HistoryPicture", "draw", "draw_elsewhere"]
