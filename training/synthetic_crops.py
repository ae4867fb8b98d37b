"""Where the crops of a stage come from: people composited on the device, scenes rendered as a whole, drawings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from .label_objective import as_batch
from .objectives import SimCCObjective
from .precision import autocast
from .synthetic.background import Background, Foreground
from .synthetic.composite import Disturbance
from .synthetic.crop_bank import CropBank
from .synthetic.filling import Filler
from .synthetic.layer_pool import Layers, Surroundings
from .synthetic.pool import CropPool
from .synthetic.ring import Ring
from .synthetic.torch_composite import Crops, composite_batch
from .synthetic.torch_photometric import Dice
from .synthetic.torch_styles import drawn
from .synthetic_stage import GOING_ON, phase_at

REFRESH_SHARE = 0.06  # of the time of training goes into new people on a CPU
BATCHES_AT_ONCE = 3  # composited; fewer and larger steps keep a GPU busy
SCENES_AT_ONCE = 16  # copied to the device
SEEN_AGAIN = 5  # times, on a CPU, before another scene is waited for
# What each lever takes out of a Disturbance. "backgrounds" and "clothing" are matters of what is drawn.
LEVERS = {
    "backgrounds": {},
    "occluders": {"things": False},
    "people": {"people": False},
    "clothing": {},
    "photometric": {"light": False, "camera": False},
    "jpeg": {"jpeg": False},
}


def lessened(disturb: Disturbance, without: Iterable[str]) -> Disturbance:
    changes: dict[str, bool] = {}
    for lever in without:
        changes |= LEVERS[lever]
    return replace(disturb, **changes)


def flat(around: Surroundings, generator: torch.Generator) -> Surroundings:
    """The same surroundings with backgrounds of one colour each."""
    colors = torch.randint(256, (len(around.backgrounds), 1, 1, 3), generator=generator, device=generator.device)
    backgrounds = colors.to(torch.uint8).expand_as(around.backgrounds)
    return replace(around, backgrounds=backgrounds)


def test_pool(
    held_out: Layers, around: Surroundings, size: tuple[int, int], disturb: Disturbance | None, seed: int
) -> CropPool:
    """One fixed crop per held-out layer, on the CPU, as starter_score.measure takes them. `size` is (W, H)."""
    generator = torch.Generator(held_out.rgba.device)
    generator.manual_seed(seed)
    parts = []
    for start in range(0, len(held_out), 128):
        index = torch.arange(start, min(start + 128, len(held_out)), device=held_out.rgba.device)
        parts.append(composite_batch(held_out, index, around, size, generator, disturb))
    columns = (torch.cat([getattr(p, name) for p in parts]) for name in ("image", "keypoints", "visible"))
    return CropPool(*(column.cpu().numpy() for column in columns))


def settle(objective: torch.nn.Module, crops: Crops) -> None:
    """A step without consequences: cuDNN looks for its fastest ways while nothing else is on the GPU."""
    with autocast(crops.image.device):
        objective(as_batch(crops))["loss"].backward()
    objective.zero_grad(set_to_none=True)


class Scenes:
    """Crops of whole scenes from worker processes, and the ring that they are kept in.

    Args:
        results: of `subjects.stream` with `scene_crops.SceneCropper`.
        bank: on the training device.
    """

    def __init__(self, results: Iterator[tuple[np.ndarray, ...]], bank: CropBank):
        self.results, self.bank = results, bank
        self.taken = self.given = 0

    def take(self) -> Crops:
        """The next few scenes, on the device; the ring stays as it is."""
        columns = zip(*(next(self.results) for _ in range(SCENES_AT_ONCE)), strict=True)
        self.taken += SCENES_AT_ONCE
        device = self.bank.whole.image.device
        return Crops(*(torch.from_numpy(np.concatenate(column)).to(device) for column in columns))

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Crops:
        self.given += count
        return self.bank.draw(count, size, generator)


@dataclass(frozen=True)
class Mixture:
    """What a stage's crops are.

    `size` is (W, H), `batch` counts crops, `at_once` batches per call of the source. `scenes` and `drawings` are shares
    of the crops. Levers in `without` are left out. A `fresh` network sees the phases of a stage from scratch, another
    one what is for those that go on.
    """

    size: tuple[int, int]
    batch: int
    at_once: int = 1
    scenes: float = 0.0
    drawings: float = 0.0
    without: frozenset[str] = frozenset()
    fresh: bool = True


class CropSource:
    """Makes a few batches of a stage at a time: renew the people and scenes, composite, cut, draw, mix.

    Args:
        around: pictures behind and in front of people.
        scenes: needed where the mixture has some.
        generator: on the device.
        refresh: draw new people while training.
    """

    def __init__(
        self,
        mixture: Mixture,
        filler: Filler,
        around: Surroundings,
        scenes: Scenes | None,
        generator: torch.Generator,
        refresh: bool,
    ):
        self.mixture, self.filler, self.around, self.scenes = mixture, filler, around, scenes
        self.generator, self.refresh = generator, refresh
        self.progress = 0.0
        if scenes:  # a stage whose scenes came from threads may have given any number: that is not made up for
            scenes.given = min(scenes.given, SEEN_AGAIN * scenes.bank.added)
        self.began, self.before = time.monotonic(), filler.seconds
        self.beside: list[tuple[Background, Ring]] = []
        self.turns = np.random.default_rng(generator.initial_seed())

    def work_beside(self, device: torch.device) -> None:
        """People and scenes come from threads from now on; `close` ends them."""
        if self.refresh:
            self.beside.append((Background(self.filler.paced, 2, device), self.filler.pool))
        if self.scenes:
            self.beside.append((Background(self.scenes.take, 3, device), self.scenes.bank))

    def close(self) -> None:
        for thread, _ in self.beside:
            thread.close()

    def renew(self) -> None:
        for thread, ring in self.beside:
            for new in thread.take_all():
                ring.add(new)
        if self.beside:
            return
        if self.refresh and self.filler.seconds - self.before < REFRESH_SHARE * (time.monotonic() - self.began):
            self.filler.step()
        while self.scenes and self.scenes.given >= SEEN_AGAIN * self.scenes.bank.added:
            self.scenes.bank.add(self.scenes.take())

    def disturbance(self) -> Disturbance:
        disturb = phase_at(self.progress)[0]
        if not self.mixture.fresh:
            shares = np.array([share for _, share in GOING_ON])
            disturb = GOING_ON[self.turns.choice(len(GOING_ON), p=shares / shares.sum())][0]
        return lessened(disturb, self.mixture.without)

    def make(self) -> list[Crops]:
        """`at_once` batches."""
        self.renew()
        mixture, layers = self.mixture, self.filler.pool.layers
        count = mixture.batch * mixture.at_once
        # A ring that threads have only begun to fill would show the same few pictures again and again.
        young = self.beside and self.scenes and len(self.scenes.bank) < min(count, self.scenes.bank.capacity)
        cut = 0 if young else round(mixture.scenes * count)
        dice = Dice(self.generator)
        index = dice.below(len(layers), count - cut)
        crops = composite_batch(layers, index, self.around, mixture.size, self.generator, self.disturbance())
        if cut:
            parts = crops, self.scenes.draw(cut, mixture.size, self.generator)
            order = torch.randperm(count, generator=self.generator, device=self.generator.device)
            crops = Crops(*(torch.cat(column)[order] for column in zip(*map(columns_of, parts), strict=True)))
        if mixture.drawings:
            image = drawn(crops.image.permute(0, 3, 1, 2).float(), mixture.drawings, dice)
            crops = replace(crops, image=image.to(torch.uint8).permute(0, 2, 3, 1).contiguous())
        split = zip(*(column.split(mixture.batch) for column in columns_of(crops)), strict=True)
        return [Crops(*parts) for parts in split]


def columns_of(crops: Crops) -> tuple[torch.Tensor, ...]:
    return crops.image, crops.keypoints, crops.visible


class Batches:
    """Crops for train_stage, one batch at a time."""

    def __init__(self, source: CropSource):
        self.source = source
        self.maker: Foreground | Background = Foreground(source.make)
        self.waiting: list[Crops] = []

    def work_beside(self, objective: SimCCObjective, device: torch.device) -> None:
        """Everything but training goes to threads of its own."""
        settle(objective, self(0.0))
        self.source.work_beside(device)
        self.maker = Background(self.source.make, 1, device)

    def __call__(self, progress: float) -> Crops:
        self.source.progress = progress
        if not self.waiting:
            self.waiting = self.maker.take()
        return self.waiting.pop()

    def close(self) -> None:
        self.maker.close()
        self.source.close()
