"""Work that goes on beside training: a thread with a CUDA stream of its own makes what the main thread takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from queue import Full, Queue
from threading import Event, Thread
from typing import Any

import torch

WAKE = 0.2  # seconds between looks at whether it is time to end


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """All tensors in a dataclass or a list of them."""
    if isinstance(value, torch.Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors_in(part)


class Foreground:
    """The same calls where there is nothing to overlap with: each `take` makes what it returns."""

    def __init__(self, make: Callable[[], Any]):
        self.make = make

    def take(self) -> Any:
        return self.make()

    def close(self) -> None:
        pass


class Background:
    """Calls `make()` again and again in a thread; at most `room` results wait.

    A GPU that draws people and composites crops is idle half of the time, because Python is slower than it; here the
    network trains meanwhile. What `make` needs must not change under its hands.
    """

    def __init__(self, make: Callable[[], Any], room: int, device: torch.device):
        self.make = make
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self.stream:  # what is under way on the caller's stream comes first
            self.stream.wait_stream(torch.cuda.current_stream(device))
        self.results: Queue = Queue(room)
        self.closed = Event()
        self.thread = Thread(target=self._work, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while not self.closed.is_set():
            try:
                with torch.cuda.stream(self.stream) if self.stream else nullcontext():
                    result = self.make(), self.stream.record_event() if self.stream else None
            except BaseException as error:  # raised where the result is taken
                result = error
            while not self.closed.is_set():
                try:
                    self.results.put(result, timeout=WAKE)
                    break
                except Full:
                    continue
            if isinstance(result, BaseException):
                return

    def _ready(self, result: Any) -> Any:
        """The result once the caller's stream may read it."""
        if isinstance(result, BaseException):
            self.closed.set()
            raise result
        value, event = result
        if event is not None:
            stream = torch.cuda.current_stream(self.stream.device)  # the caller's device may be another one
            stream.wait_event(event)
            for tensor in tensors_in(value):
                tensor.record_stream(stream)  # the memory is not the thread's again before we are done with it
        return value

    def take(self) -> Any:
        """The next result; raises what `make` raised."""
        return self._ready(self.results.get())

    def take_all(self) -> list[Any]:
        """Whatever is there, without waiting."""
        return [self.take() for _ in range(self.results.qsize())]

    def close(self) -> None:
        """End the thread after what it is making."""
        self.closed.set()
        self.thread.join()
