"""What runs in the worker processes: bytes to pixels, people to an encoded map. Results never raise: they say so."""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from ..images import from_pil
from ..people import People
from ..render import render
from .storage import open_input


@dataclass(frozen=True)
class Task:
    """One item to decode; `data` and `text` are filled in where the reader already has them."""

    item: dict[str, Any]
    data: bytes | None = None
    text: str | None = None
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
    import multiprocessing

    cv2.setNumThreads(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)  # a killed parent cannot tell its workers; they would wait for work forever

    if parent is not None:
        threading.Thread(target=follow, daemon=True).start()


def decode(task: Task) -> Decoded:
    """Read and decode one item."""
    if task.error is not None:
        return Decoded(task.item, error=task.error)
    try:
        return _decode(task)
    except FileNotFoundError as error:
        return Decoded(task.item, error=f"no such file: {error.filename or error}")
    except Exception as error:  # whatever a damaged file makes a decoder raise becomes that file's row
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify image" in reason:  # Pillow's text names the buffer's address
            reason = "not an image, or of a format Pillow cannot read"
        return Decoded(task.item, error=f"cannot be decoded: {reason}")


def _decode(task: Task) -> Decoded:
    from PIL import Image

    data, text = task.data, task.text or task.item.get("text")
    if data is None:
        data, text = _read(task, text)
    if not data:
        raise ValueError("empty file (0 bytes)")
    with Image.open(io.BytesIO(data)) as file:
        suffix = "." + {"JPEG": "jpg", "TIFF": "tif"}.get(file.format, str(file.format).lower())
        turned = file.getexif().get(0x0112, 1) != 1  # EXIF orientation
        width, height = file.size
        size = (width, height) if turned and file.getexif()[0x0112] >= 5 else (height, width)
        if task.short_side and not task.want_file:
            # JPEG decodes at 1/2, 1/4, 1/8 in a fraction of the time; never below what is asked for.
            factor = task.short_side / min(file.size)
            file.draft("RGB", (int(width * factor) + 1, int(height * factor) + 1))
        file.load()
        image = from_pil(file)
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
    with open_input(item["path"]) as file:
        if "at" not in item:
            data = file.read()
        else:
            file.seek(item["at"][0])
            data = file.read(item["at"][1])
            if len(data) < item["at"][1]:
                raise ValueError(f"{item['path']} ends in the middle of this image")
        if task.want_file and "text_at" in item:
            file.seek(item["text_at"][0])
            text = file.read(item["text_at"][1]).decode("utf-8", "replace").strip()
    if task.want_file and text is None and "at" not in item:
        beside = os.path.splitext(item["path"])[0] + ".txt"
        if os.path.isfile(beside):
            with open(beside, encoding="utf-8", errors="replace") as file:
                text = file.read().strip()
    return data, text


@dataclass(frozen=True)
class Drawing:
    """How maps are drawn and stored."""

    style: dict[str, Any]  # keywords of render.render
    size: int | tuple[int, int] | None = None  # short side, or (H, W); None as the image
    format: str = "png"  # or webp (lossless)

    def encode(self, people: People) -> bytes:
        """The map of these people as a PNG or WebP file."""
        from PIL import Image

        pose_map = Image.fromarray(render(people, draw_size(self.size, people.image_size), **self.style))
        buffer = io.BytesIO()
        if self.format == "webp":
            pose_map.save(buffer, "WEBP", lossless=True, method=0)
        else:
            pose_map.save(buffer, "PNG", compress_level=1)  # mostly black: higher levels save little for much time
        return buffer.getvalue()


def draw_size(wanted: int | tuple[int, int] | None, size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the map of an image of `size`."""
    if wanted is None or isinstance(wanted, tuple):
        return wanted or size
    factor = wanted / min(size)
    return round(size[0] * factor), round(size[1] * factor)


def encode(job: tuple[Drawing | None, People | None]) -> bytes | None:
    """`Drawing.encode` for an executor; None where there is nothing to draw."""
    drawing, people = job
    return None if drawing is None or people is None else drawing.encode(people)
