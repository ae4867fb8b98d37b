"""Fills a pool of layers: people from the workers, drawn on the device, stored so that a second start is quick."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from training.checkpoint import load_state, save_state

from .layer_pool import LayerPool, Layers, draw_people
from .subjects import Subject
from .torch_render import TorchRenderer

SHARD = 2048  # layers per file, 400 MB at 192 x 256
BESIDE = 0.25  # of the time of a thread beside training; the GPU works for less than half of it


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
        self.disk, self.writes = ThreadPoolExecutor(1), []

    def draw(self) -> Layers:
        """The next few people; the pool stays as it is."""
        started = time.monotonic()
        subjects = list(islice(self.subjects, self.at_once))
        new = draw_people(self.renderer, subjects)
        self.drawn += len(subjects)
        self.seconds += time.monotonic() - started
        return new

    def paced(self) -> Layers:
        """`draw`, at once until the pool is full, then resting for all but BESIDE of the time."""
        before = self.seconds
        new = self.draw()
        if self.pool.added >= self.pool.capacity:
            time.sleep((self.seconds - before) * (1 / BESIDE - 1))
        return new

    def step(self) -> Layers:
        """Draw the next few people and put them into the pool; also returned."""
        new = self.draw()
        self.pool.add(new)
        return new

    def fill(self, seconds: float, folder: Path) -> None:
        """Until the pool is full or the seconds are spent.

        Shards are written to `folder` in the background, and at last the file `done`; `close` waits for them.
        """
        started, waiting = time.monotonic(), []
        with tqdm(total=self.pool.capacity, initial=self.pool.added, unit="layer") as bar:
            while self.pool.added < self.pool.capacity and time.monotonic() - started < seconds:
                waiting.append(self.step())
                bar.update(len(waiting[-1]))
                if sum(map(len, waiting)) >= SHARD:
                    self._store(waiting, folder)
                    waiting = []
        if waiting:
            self._store(waiting, folder)
        self.writes.append(self.disk.submit((folder / "done").touch))

    def _store(self, parts: list[Layers], folder: Path) -> None:
        state = {"drawn": self.drawn} | vars(join(parts).to("cpu"))
        self.writes.append(self.disk.submit(save_state, folder / f"layers_{self.drawn:08d}.pt", state))

    def close(self) -> None:
        """Wait until everything is on disk; raises what went wrong there."""
        self.disk.shutdown()
        for write in self.writes:
            write.result()


def restore(pool: LayerPool, folder: Path) -> int:
    """Put stored shards into the pool; returns how many subjects they were drawn from."""
    drawn = 0
    for path in sorted(folder.glob("layers_*.pt")):
        state = load_state(path)
        drawn = state.pop("drawn")
        pool.add(Layers(**state).to(pool.whole.rgba.device))
    return drawn
