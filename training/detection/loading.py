"""The batches of a training run, drawn in its own process or by others beside it.

The batch of a step is a function of (seed, step, rank) alone. So a resumed run sees the batches that it would have
seen, whatever the number of loaders, before and after.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from .batches import Batch, draw_batch
from .pool import ScenePool
from .start import DetectorConfig

AHEAD = 2  # batches that each loader has ready at most, in shared memory


class StepBatches(Dataset):
    """Item `step` is a whole batch of the scenes `train` in the folder `pool`."""

    def __init__(self, pool: Path, config: DetectorConfig, rank: int):
        self.folder, self.config, self.rank = pool, config, rank

    @cached_property
    def pool(self) -> ScenePool:
        """Opened where batches are drawn: sent to another process, the pictures on disk would travel as a copy."""
        return ScenePool.load(self.folder, "train")

    def __getitem__(self, step: int) -> Batch:
        config = self.config
        rng = np.random.default_rng((config.seed, step, self.rank))
        mosaic = 0.0 if step >= config.tail_start else config.mosaic
        return draw_batch(self.pool, config.batch, config.side_at(step), mosaic, rng)


def _alone(_: int) -> None:
    """A loader has one thread, and outlasts a SIGTERM to the whole group, to serve the step at which the run stops."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batches(data: StepBatches, first: int, loaders: int, pin: bool) -> Iterator[Batch]:
    """Those of the steps from `first` on, in order.

    Args:
        loaders: processes that draw them ahead of time; 0 draws each in this process when it is asked for.
        pin: put them in page-locked memory, from which a GPU takes them while the host goes on.
    """
    ahead = {"multiprocessing_context": "spawn", "prefetch_factor": AHEAD} if loaders else {}  # CUDA outlives no fork
    return iter(
        DataLoader(
            data,
            batch_size=None,
            sampler=range(first, data.config.steps),
            num_workers=loaders,
            worker_init_fn=_alone,
            pin_memory=pin,
            generator=torch.Generator(),  # its own, or the weights drawn after this would be others
            **ahead,
        )
    )
