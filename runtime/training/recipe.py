"""How a domain is learnt: the numbers and formulas that do not depend on what computes the gradients.

The optimiser is AdamW (Loshchilov, Hutter; arXiv 1711.05101). Its update of a weight w with gradient g at its step t
(from 1), at learning rate lr, is

    w <- w - lr WEIGHT_DECAY w
    m <- b1 m + (1 - b1) g          v <- b2 v + (1 - b2) g^2          b1, b2 = BETAS
    w <- w - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + EPSILON)

Exits answer on the way. With H_k the classifier of the k-th of them, and H of the network's end, the answers are

    l_1 = H_1(f_1)      l_k = H_k(f_k) + CARRY l_{k-1}      l = H(features) + CARRY l_K

Once it is trained, the last answer carries LAST_CARRY l_K: softmax(l) is then the geometric mean of both answers, the
last exit's to the power of LAST_CARRY - CARRY, which on validation photos was right a little more often.

The loss of a photo is CE(l) + EXIT_WEIGHT * sum over k of ((1 - MATCH) CE(l_k) + MATCH KL(l || l_k)), where CE is the
cross-entropy with the target (1 - s) onehot + s / C, s the label smoothing and C the number of classes, and KL that of
the softmaxes, through which l gets no gradient. The loss of a batch is the mean. lr is the run's own times `schedule`.

What a domain never needs is closed for all its photos: from CLOSE_FROM to CLOSED_BY of the progress (0 to 1) through
all steps, one block at a time as a target falls by `ramp` to `closing_share`, each where it costs the loss least for
the FLOPs it saves. At which exit a photo leaves is not trained: thresholds are chosen on photos that were held out.
"""

import math
from typing import Mapping, Tuple

BETAS = (0.9, 0.999)
EPSILON = 1e-8
WEIGHT_DECAY = 1e-4
LABEL_SMOOTHING = 0.1

# Of da3. Other methods have their own.
LEARNING_RATE = 4e-3
WARM_UP = 0.2  # share of all steps during which the learning rate rises

EXIT_WIDTH = 128  # hidden channels of an exit
CARRY = 0.5  # of the exit before, in what the next one and, in training, the last classifier answer
LAST_CARRY = 1.0  # of the last exit, in the last answer of a trained network
EXIT_WEIGHT = 0.3  # of each exit's loss, beside that of the last answer
MATCH = 0.5  # of an exit's loss: the part that asks it to answer as the last one does

CLOSE_BELOW = 0.55  # of the FLOPs to be run: exits alone lose less from here on
CLOSE_FROM, CLOSED_BY = 0.2, 0.5
FIT_BATCHES, COST_BATCHES = 6, 4  # looked at before one block is closed
LEAST_COST = 0.03  # of a block, in loss: what is measured before training goes on is too little, and noisy
OVERSHOOT = 0.016  # of the share: closing a block may miss the target by as much

SAVE_EVERY = 60.0  # seconds between checkpoints inside an epoch
STATISTICS_PHOTOS = 256  # training photos that are looked at before the first step
SAMPLE_PHOTOS = 8  # validation photos kept beside the checkpoint, so that export can verify without the others
LARGEST_BATCH = 16  # unless the user says otherwise


def batch_size(photos: int) -> int:
    """Photos a step where there are `photos` to train on: an eighth of them, within 8 and LARGEST_BATCH.

    A few dozen photos in batches of 32 would make a step or two an epoch, too few to learn from.
    """
    return min(LARGEST_BATCH, max(8, photos // 8))


def schedule(progress: float, warm_up: float) -> float:
    """Learning-rate factor at `progress` (0 to 1).

    0.04 + 0.96 progress / warm_up up to `warm_up`, then (1 + cos(pi (progress - warm_up) / (1 - warm_up))) / 2: a
    linear rise from 4 %, then half a cosine down to 0.
    """
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def ramp(progress: float, start: float, end: float) -> float:
    """(progress - start) / (end - start), no less than 0 and no more than 1."""
    return min(max((progress - start) / (end - start), 0.0), 1.0)


def closing_share(keep: float) -> float:
    """The share of block FLOPs that closed blocks leave where `keep` is to run on average; exits save the rest."""
    return 1.0 if keep >= CLOSE_BELOW else min(1.0, keep + 0.3)


def rank(row: Mapping[str, float]) -> Tuple[float, float]:
    """What to compare epochs by: the largest is the best. Validation accuracy, and among equals the lower loss."""
    return (row["val_accuracy"], -row["val_loss"])
