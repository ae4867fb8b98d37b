"""What the commands of this folder share: mistakes as one plain line, arguments that say what is wrong with them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")
MISTAKES = ValueError, OSError, ImportError


def run(main: Callable[[], int | None]) -> int:
    """The exit status of `main`. What a user can mend is told in a line instead of a traceback, with status 2."""
    # Imported here: config.py, which monitor.py needs, takes its arguments from this file.
    from dwpose_core.models.download import WeightsUnavailable

    from .checkpoint import CheckpointError
    from .monitor import NonFiniteLoss
    from .synthetic.workers import DrawingFailed

    name = Path(sys.argv[0]).stem
    try:
        return main() or 0
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return 130
    except (*MISTAKES, CheckpointError, NonFiniteLoss, WeightsUnavailable, DrawingFailed) as error:
        print(f"{name}: {plain(error)}", file=sys.stderr)
        return 2


def plain(error: BaseException) -> str:
    """The message of an error; of one from a data worker, which carries the worker's traceback, the last line."""
    text = str(error)
    return text.rpartition(f"\n{type(error).__name__}: ")[2].strip() if "Original Traceback" in text else text


def argument(convert: Callable[[str], Value]) -> Callable[[str], Value]:
    """`convert` as a type for argparse, which hides the message of a ValueError."""

    def checked(text: str) -> Value:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


@argument
def at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError(f"must be at least 1, got {value}")
    return value


@argument
def not_negative(text: str) -> int:
    if (value := int(text)) < 0:
        raise ValueError(f"must not be negative, got {value}")
    return value


@argument
def more_than_zero(text: str) -> float:
    if not 0 < (value := float(text)) < math.inf:
        raise ValueError(f"must be a number above 0, got {text}")
    return value


@argument
def share(text: str) -> float:
    if not 0 <= (value := float(text)) <= 1:
        raise ValueError(f"must be a share, from 0 to 1, got {text}")
    return value


def output(path: str | Path) -> Path:
    """`path` as a file that can be written: its folder is made now, not after the work.

    Raises:
        ValueError: when it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name the file to write in it")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
