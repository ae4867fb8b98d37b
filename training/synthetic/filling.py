"""Fills a pool of layers: people from the workers, drawn on the device, stored so that a second start is quick."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from training.checkpoint import load_state, save_state

from .layer_pool import LayerPool, Layers, draw_people
from .subjects import Subject
from .torch_render import TorchRenderer

SHARD = 2048  # layers per file, 400 MB at 192 x 256


def join(parts: list[Layers]) -> Layers:
    return Layers(*(torch.cat(column) for column in zip(*(vars(part).values() for part in parts), strict=True)))


class Filler:
    """Moves people from a stream of subjects into a pool.

    Args:
        pool: on the renderer's device.
        subjects: in order, from `subjects.stream`.
        at_once: subjects per drawing; more fill a GPU better and take more of its memory.
        drawn: how many subjects earlier processes took from the same stream's seed.
    """

    def __init__(self, pool: LayerPool, renderer: TorchRenderer, subjects: Iterator[Subject], at_once: int, drawn: int):
        self.pool, self.renderer, self.subjects, self.at_once = pool, renderer, subjects, at_once
        self.drawn = drawn
        self.seconds = 0.0

    def step(self) -> Layers:
        """Draw the next few people and put them into the pool; also returned."""
        started = time.monotonic()
        subjects = list(islice(self.subjects, self.at_once))
        new = draw_people(self.renderer, subjects)
        self.pool.add(new)
        self.drawn += len(subjects)
        self.seconds += time.monotonic() - started
        return new

    def fill(self, seconds: float, folder: Path) -> None:
        """Until the pool is full or the seconds are spent; finished shards go to `folder` in the background.

        The file `done` marks a complete folder.
        """
        started, waiting, kept = time.monotonic(), [], 0
        writes: list[Future] = []
        with (
            ThreadPoolExecutor(1) as disk,
            tqdm(total=self.pool.capacity, initial=self.pool.added, unit="layer") as bar,
        ):
            while self.pool.added < self.pool.capacity and time.monotonic() - started < seconds:
                new = self.step()
                waiting.append(new)
                kept += len(new)
                bar.update(len(new))
                enough = self.pool.added >= self.pool.capacity or time.monotonic() - started >= seconds
                if kept >= SHARD or (enough and kept):
                    path = folder / f"layers_{self.drawn:08d}.pt"
                    state = {"drawn": self.drawn} | vars(join(waiting).to("cpu"))
                    writes.append(disk.submit(save_state, path, state))
                    waiting, kept = [], 0
            for write in writes:
                write.result()
        (folder / "done").touch()


def restore(pool: LayerPool, folder: Path) -> int:
    """Put stored shards into the pool; returns how many subjects they were drawn from."""
    drawn = 0
    for path in sorted(folder.glob("layers_*.pt")):
        state = load_state(path)
        drawn = state.pop("drawn")
        pool.add(Layers(**state).to(pool.whole.rgba.device))
    return drawn
