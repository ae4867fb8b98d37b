"""Rows of tensors that a long run keeps renewing."""

from __future__ import annotations

from dataclasses import fields
from typing import Generic, TypeVar

import torch

Columns = TypeVar("Columns")


class Ring(Generic[Columns]):
    """At most as many rows as `whole` has, a dataclass of tensors on one device; new rows replace the oldest."""

    def __init__(self, whole: Columns):
        self.whole = whole
        self.names = [field.name for field in fields(whole)]
        self.capacity = len(getattr(whole, self.names[0]))
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, new: Columns) -> None:
        first = getattr(new, self.names[0])
        self.added += len(first)
        kept = min(len(first), self.capacity)  # of several rows for one place, a GPU may leave parts of each there
        place = torch.arange(self.added - kept, self.added, device=first.device) % self.capacity
        for name in self.names:
            getattr(self.whole, name)[place] = getattr(new, name)[len(first) - kept :]

    def rows(self, index: torch.Tensor | slice) -> Columns:
        return type(self.whole)(*(getattr(self.whole, name)[index] for name in self.names))
