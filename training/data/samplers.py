"""Which sample comes when: a function of (seed, step) alone, so training resumes at any step with any worker count."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


def epoch_order(lengths: list[int], weights: list[float], seed: int, epoch: int) -> np.ndarray:
    """A shuffled epoch over the concatenation of several sources: indices (n,) int64.

    A source with weight w contributes each person floor(w) times and a random share of the rest once more.
    """
    rng = np.random.default_rng((seed, epoch))
    parts, start = [], 0
    for length, weight in zip(lengths, weights, strict=True):
        own = np.arange(start, start + length)
        parts += [own] * int(weight)
        extra = round(length * (weight - int(weight)))
        if extra:
            parts.append(rng.choice(own, extra, replace=False))
        start += length
    order = np.concatenate(parts)
    rng.shuffle(order)
    return order


class StepBatches(Sampler):
    """Endless batches of (epoch, index) keys for one process, from any step on.

    A step consumes `world * accumulate * batch_size` samples of the epoch's order; micro-batch m of rank r is the
    slice m * world + r of it, so two processes see together what one process with the joint batch sees. Samples that
    do not fill the last step of an epoch are left out.
    """

    def __init__(
        self,
        lengths: list[int],
        weights: list[float],
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        start_step: int = 0,
    ):
        self.lengths, self.weights = lengths, weights
        self.batch_size, self.accumulate = batch_size, accumulate
        self.seed, self.rank, self.world = seed, rank, world
        self.start_step = start_step
        people = len(epoch_order(lengths, weights, seed, 0))
        self.per_step = batch_size * accumulate * world
        self.steps_per_epoch = people // self.per_step
        if not self.steps_per_epoch:
            raise ValueError(
                f"an epoch has {people} people but one step takes {self.per_step} "
                f"({world} processes x {accumulate} accumulated x {batch_size}): lower --batch-size"
            )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, step = divmod(self.start_step, self.steps_per_epoch)
        while True:
            order = epoch_order(self.lengths, self.weights, self.seed, epoch)
            for s in range(step, self.steps_per_epoch):
                for micro in range(self.accumulate):
                    start = s * self.per_step + (micro * self.world + self.rank) * self.batch_size
                    yield [(epoch, int(i)) for i in order[start : start + self.batch_size]]
            epoch, step = epoch + 1, 0
