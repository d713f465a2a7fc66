"""Full fine-tuning: every weight and batch-norm statistic of the network is trained. The baseline of the paper."""

from __future__ import annotations

from torch import Tensor

from da3.toolchain.methods.ordinary import WholeNetwork


class Finetune(WholeNetwork):
    """Trains the whole network and stores all of it."""

    name = "finetune"
    default_lr = 3e-4

    def domain_state(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())
