"""Short training runs on toy data, in this process, in a child, in two that train as one."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from pathlib import Path

import torch

from dwpose_core.models.weights import load_pose
from training import checkpoint
from training.data.wholebody import DataSource

# Short runs with all of the augmentation on.
SHORT = [
    *("debug", "--batch-size", "4", "--log-every", "1", "--warmup-steps", "3", "--epochs", "10", "--cosine-epoch", "5"),
    *("--early.flip", "0.5", "--early.half-body", "0.5", "--early.rotation-probability", "0.6"),
    *("--early.shift-probability", "0.3", "--early.scale", "0.6,1.4", "--early.cutout", "1.0"),
]


def arguments(toy: DataSource, out: Path, *more: str) -> list[str]:
    # On the CPU: forked children cannot use CUDA, and what is compared bit by bit must not depend on a GPU's order.
    return [*SHORT, "--device", "cpu", "--train", f"{toy.annotations},{toy.images}", "--out", str(out), *more]


def losses(folder: Path) -> dict[int, float]:
    lines = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def in_child(main, argv: list[str], environment: dict[str, str] | None = None) -> multiprocessing.Process:
    """Run a recipe in a forked process: a real process to kill, without paying for the imports again."""

    def run() -> None:
        os.environ.update(environment or {})
        main(argv)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    return child


def in_two_processes(main, argv: list[str], second: list[str] | None = None, status: int = 0) -> None:
    """What `torchrun --nproc-per-node 2` does; `second` are other arguments of the second process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    children = [in_child(main, own, {**group, "RANK": str(rank)}) for rank, own in enumerate((argv, second or argv))]
    for child in children:
        child.join(120)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert codes == [status, status]


def assert_same_run(a: Path, b: Path) -> None:
    """Bit for bit: network, average, optimiser, generators."""

    def compare(x, y, where: str) -> None:
        assert type(x) is type(y), where
        if isinstance(x, dict):
            assert x.keys() == y.keys(), where
            for key in x:
                compare(x[key], y[key], f"{where}/{key}")
        elif isinstance(x, list):
            assert len(x) == len(y), where
            for i, pair in enumerate(zip(x, y, strict=True)):
                compare(*pair, f"{where}/{i}")
        elif isinstance(x, torch.Tensor):
            assert torch.equal(x, y), where
        else:
            assert x == y, where

    compare(checkpoint.load_state(a / "last.pt"), checkpoint.load_state(b / "last.pt"), "")
    models = [load_pose(folder / "last.safetensors").state_dict() for folder in (a, b)]
    compare(*({k: v for k, v in state.items()} for state in models), "model")
