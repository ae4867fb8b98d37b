"""What a training's log tells, and whether it broke.

Losses are kept on the device: reading them makes the host wait for it, so it is done rarely.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist

from ..monitor import NonFiniteLoss


class Tally:
    """Losses and speed since `restart`, and the first step that broke."""

    def __init__(self, device: torch.device):
        self._broken = torch.full((), -1, device=device)
        self.restart()

    def restart(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._steps = self._pictures = 0
        self._waited, self._began = 0.0, time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what the training waits for."""
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def add(self, step: int, pictures: int, parts: dict[str, torch.Tensor], norm: torch.Tensor) -> None:
        """A step's losses, `loss` among them, and the norm of its gradient."""
        self._sums = {name: self._sums.get(name, 0) + value.detach() for name, value in parts.items()}
        self._steps, self._pictures = self._steps + 1, self._pictures + pictures
        unsound = ~(parts["loss"].detach() + norm).isfinite()
        self._broken = self._broken.masked_fill(unsound & (self._broken < 0), step)

    def check(self, stop: bool, processes: int) -> bool:
        """Whether any of the processes asks to `stop`. All of them call this after the same steps.

        Raises:
            NonFiniteLoss: in all of them, when a loss or its gradient was not finite in any.
        """
        flags = torch.stack((self._broken, torch.full_like(self._broken, stop)))
        if processes > 1:
            dist.all_reduce(flags, dist.ReduceOp.MAX)
        broken, leave = flags.tolist()
        if broken >= 0:
            text = f"the loss of step {broken} or its gradient is not finite; last.pt is sound, lower --lr"
            raise NonFiniteLoss(text)
        return leave > 0

    def row(self) -> dict[str, float]:
        """Mean losses, pictures_per_second, and waited, the share of the time spent in `waiting`."""
        means = (torch.stack(list(self._sums.values())) / self._steps).tolist()
        seconds = time.perf_counter() - self._began  # after the device has done the work
        return dict(zip(self._sums, means, strict=True)) | {
            "pictures_per_second": round(self._pictures / seconds, 1),
            "waited": round(self._waited / seconds, 3),
        }
