"""What runs in the worker processes: bytes to pixels, people to an encoded map. Results never raise: they say so."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from ..geometry import map_size
from ..images import from_pil
from ..people import People
from ..render import render
from .storage import is_url, open_input

# By Pillow's names of formats. MPO is a JPEG with further ones behind it, as many cameras write.
_SUFFIXES = {"JPEG": "jpg", "MPO": "jpg", "TIFF": "tif"}


@dataclass(frozen=True)
class Task:
    """One item to decode; `data` and `text` are filled in where the reader already has them."""

    item: dict[str, Any]
    data: bytes | None = None
    text: Any = None
    error: str | None = None
    short_side: int | None = None  # shrink to this before the networks
    want_file: bool = False  # the sink copies the image, and its caption


@dataclass(frozen=True)
class Decoded:
    """Pixels of one item, or the reason why there are none.

    Attributes:
        image: (h, w, 3) uint8 RGB, upright; smaller than `size` where it was shrunk. None when it failed.
        size: (H, W) of the original, upright.
        file, suffix: the image file as trainers shall read it. It is the original's bytes, unless those need turning
            by an EXIF flag that trainers do not obey: then it is encoded anew.
    """

    item: dict[str, Any]
    image: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    error: str | None = None
    text: str | None = None
    file: bytes | None = field(default=None, repr=False)
    suffix: str = ""


def start_worker() -> None:
    """Once in each process: one thread each, and no life after the parent's death."""
    cv2.setNumThreads(1)
    follow_parent()


def follow_parent() -> None:
    """End this process when its parent is gone: one that is killed cannot tell its workers, and they would live on."""
    import multiprocessing

    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=follow, daemon=True).start()


def reason_of(error: Exception) -> str:
    """The first line of what an error says, or its name where it says nothing."""
    return str(error).splitlines()[0] if str(error).strip() else type(error).__name__


def decode(task: Task) -> Decoded:
    """Read and decode one item."""
    if task.error is not None:
        return Decoded(task.item, error=task.error)
    try:
        text = caption(task.item.get("text") if task.text in (None, "") else task.text, task.want_file)
    except ValueError as error:
        return Decoded(task.item, error=str(error))
    try:
        return _decode(task, text)
    except FileNotFoundError as error:
        return Decoded(task.item, error=f"no such file: {error.filename or error}")
    except Exception as error:  # whatever a damaged file makes a decoder raise becomes that file's row
        reason = reason_of(error)
        if "cannot identify image" in reason:  # Pillow's text names the buffer's address
            reason = "not an image, or of a format Pillow cannot read"
        return Decoded(task.item, error=f"cannot be decoded: {reason}")


def caption(value: Any, wanted: bool = True) -> str | None:
    """Text of a caption as lists and tables hold it: of several the first, of a number its digits.

    Raises:
        ValueError: when it is something else, and `wanted`.
    """
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, str):
        return re.sub("[\ud800-\udfff]", "\ufffd", value)  # of lists that are no UTF-8: nothing could store them
    if not wanted or value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"the caption is no text but {type(value).__name__}; choose its column with --text-column")
    return str(value)


def _decode(task: Task, text: str | None) -> Decoded:
    from PIL import Image

    data = task.data
    if data is None:
        data, text = _read(task, text)
    if not data:
        raise ValueError("empty file (0 bytes)")
    with Image.open(io.BytesIO(data)) as file:
        suffix = "." + _SUFFIXES.get(file.format, str(file.format).lower())
        orientation = file.getexif().get(0x0112, 1)
        turned = orientation in range(2, 9)  # others mean nothing and are not obeyed
        width, height = file.size
        if task.short_side and not task.want_file:
            # JPEG decodes at 1/2, 1/4, 1/8 in a fraction of the time; never below what is asked for.
            factor = task.short_side / min(file.size)
            file.draft("RGB", (int(width * factor) + 1, int(height * factor) + 1))
        drafted = file.size != (width, height)
        file.load()
        image = from_pil(file)
    # Formats differ in whether the size they give is the upright one: only a JPEG in draft is asked for it.
    size = image.shape[:2]
    if drafted:
        size = (width, height) if orientation in range(5, 9) else (height, width)
    if task.want_file and turned:
        buffer = io.BytesIO()
        if suffix == ".jpg":
            Image.fromarray(image).save(buffer, "JPEG", quality=95)
        else:
            Image.fromarray(image).save(buffer, "PNG", compress_level=1)
            suffix = ".png"
        data = buffer.getvalue()
    if task.short_side and min(image.shape[:2]) > task.short_side:
        factor = task.short_side / min(size)
        target = (max(1, round(size[1] * factor)), max(1, round(size[0] * factor)))
        image = cv2.resize(image, target, interpolation=cv2.INTER_AREA)
    return Decoded(task.item, image, size, None, text, data if task.want_file else None, suffix)


def _read(task: Task, text: str | None) -> tuple[bytes, str | None]:
    """The bytes of a file or of a part of one, and the caption beside it."""
    item = task.item
    # Of a tar behind a URL only the image itself is fetched: each is read by another process, in an order of its own.
    with open_input(item["path"], ahead="at" not in item) as file:
        if "at" not in item:
            data = file.read()
        else:
            file.seek(item["at"][0])
            data = file.read(item["at"][1])
            if len(data) < item["at"][1]:
                raise ValueError(f"{item['path']} ends in the middle of this image")
        if task.want_file and "text_at" in item:
            file.seek(item["text_at"][0])
            text = file.read(item["text_at"][1]).decode("utf-8-sig", "replace").strip()
    if task.want_file and text is None and "at" not in item and not item["path"].startswith("http"):
        beside = os.path.splitext(item["path"])[0] + ".txt"
        # A bucket that may not be listed calls forbidden what is not there.
        none = (FileNotFoundError, IsADirectoryError, *([PermissionError] if is_url(beside) else []))
        with contextlib.suppress(*none), open_input(beside) as file:
            text = file.read().decode("utf-8-sig", "replace").strip()
    return data, text


@dataclass(frozen=True)
class Drawing:
    """How maps are drawn and stored."""

    style: dict[str, Any]  # keywords of render.render
    size: int | tuple[int, int] | None = None  # short side, or (H, W); None as the image
    format: str = "png"  # or webp (lossless)

    def draw(self, people: People) -> np.ndarray:
        """The map of these people, (H, W, 3) uint8 RGB."""
        return render(people, map_size(self.size, people.image_size), **self.style)

    def encode(self, people: People) -> bytes:
        """The map of these people as a PNG or WebP file."""
        from PIL import Image

        pose_map = Image.fromarray(self.draw(people))
        buffer = io.BytesIO()
        if self.format == "webp":
            pose_map.save(buffer, "WEBP", lossless=True, method=0)
        else:
            pose_map.save(buffer, "PNG", compress_level=1)  # mostly black: higher levels save little for much time
        return buffer.getvalue()


def encode(job: tuple[Drawing | None, People | None]) -> tuple[bytes | None, str]:
    """`Drawing.encode` for an executor: None where there is nothing to draw; and why it failed, or ""."""
    drawing, people = job
    if drawing is None or people is None:
        return None, ""
    try:
        return drawing.encode(people), ""
    except Exception as error:  # one map too large for its format, or for the memory, must not end the run
        return None, f"map cannot be stored as {drawing.format}: {reason_of(error)}"
