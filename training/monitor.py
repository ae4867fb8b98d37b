"""What a run tells: progress bar, log.jsonl, TensorBoard. What makes it stop: SIGTERM, a broken loss."""

from __future__ import annotations

import contextlib
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from tqdm import tqdm

from . import checkpoint
from .config import TrainConfig
from .distributed import Process


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became infinite or NaN; the batch is in the run folder."""


@contextlib.contextmanager
def ending(stream: Iterator) -> Iterator[None]:
    """Worker processes of a DataLoader's iterator end with the block, whatever happens in it.

    They ignore SIGTERM. After an error only the garbage collector would end them (the traceback and torch's frames hold
    each other), and where it does not come by, Python waits for them at its own end, for ever.
    """
    try:
        yield
    finally:
        getattr(stream, "_shutdown_workers", lambda: None)()


class StopOnSignal:
    """While active, SIGTERM only sets `requested`: the loop then saves and leaves at the end of a step."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopOnSignal:
        self.previous = signal.signal(signal.SIGTERM, lambda *_: setattr(self, "requested", True))
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGTERM, self.previous)


class StepStatistics:
    """Losses, gradient norm and stop request of each step, averaged over processes.

    They are read one step late, so that a GPU never waits for the host; before anything is logged or saved the newest
    ones are read too, so a broken state is never kept.
    """

    def __init__(self, folder: Path, process: Process):
        self.folder, self.process = folder, process
        self.waiting: list[tuple] = []
        self.values: dict[str, float] = {}
        self.stop_requested = False

    def push(
        self,
        step: int,
        parts: dict[str, torch.Tensor],
        norm: torch.Tensor,
        stop: bool,
        batches: list[dict[str, torch.Tensor]],
    ) -> None:
        mine = torch.stack((*parts.values(), norm, torch.tensor(float(stop), device=norm.device)))
        joint = mine
        if self.process.world > 1:
            joint = mine.clone()
            dist.all_reduce(joint)
            joint /= self.process.world
        self.waiting.append((step, (*parts, "gradient_norm", "stop"), joint, mine, batches))

    def read(self, newest: bool) -> dict[str, float]:
        """Values of the latest step that was read; `newest` reads all that wait.

        Raises:
            NonFiniteLoss: on every process, when the loss or its gradient is not finite on any.
        """
        while len(self.waiting) > (0 if newest else 1):
            step, names, joint, mine, batches = self.waiting.pop(0)
            values = dict(zip(names, joint.tolist(), strict=True))
            if not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"])):
                self._save_culprit(step, mine, batches, values)
                raise NonFiniteLoss(
                    f"step {step} has loss {values['loss']} and gradient norm {values['gradient_norm']}. Its batch is "
                    f"saved in {self.folder}/nonfinite_step{step}_rank*.pt; last.pt is older and sound. Look at the "
                    "batch, lower --lr, or set --clip"
                )
            self.stop_requested |= values.pop("stop") > 0
            self.values = values
        return self.values

    def _save_culprit(self, step: int, mine: torch.Tensor, batches: list[dict], values: dict[str, float]) -> None:
        if math.isfinite(values["loss"]) or not torch.isfinite(mine).all():  # an innocent process keeps quiet
            content = [{name: tensor.cpu() for name, tensor in batch.items()} for batch in batches]
            path = self.folder / f"nonfinite_step{step}_rank{self.process.rank}.pt"
            checkpoint.save_state(path, {"step": step, "batches": content, "statistics": values})


def cut_log(path: Path, step: int) -> None:
    """Leave the lines up to `step` only. A run that was killed has logged steps that it takes again, and perhaps half
    a line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            sound = json.loads(line)["step"] <= step
        except ValueError:
            continue
        if sound:
            kept.append(line + "\n")
    checkpoint.write_atomic(path, lambda temporary: temporary.write_text("".join(kept)))


class Log:
    """Progress bar, log.jsonl and TensorBoard; silent on all processes but the first."""

    def __init__(self, folder: Path, config: TrainConfig, process: Process, step: int, end: int):
        self.active = process.is_first
        self.seconds = self.waited = self.samples = 0.0
        self.writer = None
        self.bar = tqdm(
            total=end, initial=step, desc=config.name, unit="step", disable=not self.active, dynamic_ncols=True
        )
        if not self.active:
            return
        cut_log(folder / "log.jsonl", step)
        self.file = open(folder / "log.jsonl", "a", buffering=1)
        if config.tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ImportError(
                    'TensorBoard is missing: pip install "dwpose-torch[train]", or pass --tensorboard false'
                ) from error
            self.writer = SummaryWriter(
                str(folder), purge_step=step + 1 if step else 0
            )  # what is newer than the checkpoint

    def count(self, seconds: float, waited: float, samples: int) -> None:
        """One step done: its duration, the part of it spent waiting for data, and its samples."""
        self.seconds += seconds
        self.waited += waited
        self.samples += samples
        self.bar.update(1)

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self.active:
            return
        if self.seconds:
            speed = {"images_per_second": self.samples / self.seconds, "data_wait": self.waited / self.seconds}
            values = {**values, **speed}
            self.seconds = self.waited = self.samples = 0.0
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
        shown = ("loss", "accuracy", "images_per_second", "data_wait", "whole/AP")
        self.bar.set_postfix({name: f"{values[name]:.3g}" for name in shown if name in values})

    def say(self, *lines: str) -> None:
        if self.active:
            for line in lines:
                tqdm.write(line)

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}")

    def close(self) -> None:
        self.bar.close()
        if self.active:
            self.file.close()
        if self.writer:
            self.writer.close()
