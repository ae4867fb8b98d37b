"""Anything a user calls an image -> (H, W, 3) uint8 RGB, upright; and files written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from PIL import Image as PILImage

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Decode a file: (H, W, 3) uint8 RGB, turned upright by its EXIF orientation, transparency over white.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: for a URL, and when the file is empty, cut short, or not an image this build of Pillow can decode.
    """
    from PIL import Image, UnidentifiedImageError

    if "://" in str(path):
        raise ValueError(f"{path} is a URL: download it first, with diffusers.utils.load_image for instance")
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no image file at {path}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty (0 bytes)")
    try:
        with Image.open(path) as file:
            file.load()
            return from_pil(file)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image, or of a format Pillow cannot read") from error
    except Exception as error:  # Pillow's decoders raise anything, RuntimeError for AVIF, say
        raise ValueError(f"{path} cannot be decoded: {error}") from error


def from_pil(image: PILImage.Image) -> np.ndarray:
    """PIL image of any mode -> (H, W, 3) uint8 RGB, upright, transparency over white, 16 bit scaled down to 8."""
    from PIL import Image

    image = _upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, np.float64)
        top = 65535 if image.mode.startswith("I") else 1.0
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
            raise ValueError(
                f"image of mode {image.mode} has values outside 0..{top:g} ({values.min():g} to {values.max():g}); "
                f"scale it to 8 bits first"
            )
        grey = np.rint(values * (255 / top)).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "La":  # Pillow converts this one to LA only
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _upright(image: PILImage.Image) -> PILImage.Image:
    """Turned by its EXIF orientation alone: Pillow's exif_transpose also writes the other tags anew, and fails at
    damaged ones."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(image.getexif().get(0x0112))  # EXIF 2.32, 4.6.4: tag Orientation
    return image if turn is None else image.transpose(turn)


def as_images(image: Any) -> list[np.ndarray | torch.Tensor]:
    """One image or several, of any accepted kind -> list of (H, W, 3) uint8 RGB.

    Accepted: a path or PIL image; an array or tensor (H, W), (H, W, C), (N, H, W, C), (C, H, W) or (N, C, H, W), C = 1,
    3 or 4, uint8 or float in 0..1, RGB, or RGBA over white; a list or tuple of these. Where both readings are possible
    channels come last.

    Raises:
        ValueError: for another kind, shape or dtype, for floats that are not finite or not in 0..1, and for a batch of
            none. (An empty list is a list of no images.)
    """
    if isinstance(image, (list, tuple)):
        return [single for item in image for single in as_images(item)]
    if isinstance(image, (str, os.PathLike)):
        return [read_image(image)]
    if isinstance(image, np.ndarray):
        # Through torch and back without a copy, so that the rules of shape and range are written once.
        if image.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise ValueError(
                f"image array must be uint8 in 0..255 or float in 0..1, got {image.dtype}; convert it first"
            )
        return [out.numpy() for out in _split(torch.from_numpy(np.require(image, requirements="CW")))]
    if isinstance(image, torch.Tensor):
        return _split(image.detach())
    if hasattr(image, "getexif"):  # a PIL image, without importing PIL to find out
        try:
            return [from_pil(image)]
        except (OSError, SyntaxError, RuntimeError) as error:  # PIL decodes when pixels are asked for, here
            raise ValueError(f"the PIL image cannot be decoded: {error}") from error
    raise ValueError(f"cannot read an image from {type(image).__name__}; give a path, PIL image, array or tensor")


def _split(pixels: torch.Tensor) -> list[torch.Tensor]:
    """Batch of images -> list of (H, W, 3) uint8; channels come last where either reading is possible."""
    shape = tuple(pixels.shape)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim == 4 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[1] in (1, 3, 4):
        pixels = pixels.permute(0, 2, 3, 1)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3, 4) or 0 in shape:
        raise ValueError(f"image must be (H, W), (H, W, C), (C, H, W) or a batch of these, C = 1, 3 or 4; got {shape}")
    if pixels.dtype != torch.uint8:
        if not pixels.dtype.is_floating_point:
            raise ValueError(f"image tensor must be uint8 in 0..255 or float in 0..1, got {pixels.dtype}")
        low, high = (float(v) for v in pixels.aminmax())
        # NaN fails both comparisons. A little overshoot is what interpolation leaves behind.
        if not (low >= -0.01 and high <= 1.01):
            signed = -1.01 <= low < -0.01 and high <= 1.01
            hint = "; take (x + 1) / 2 first?" if signed else "; divide by 255 first?" if np.isfinite(high) else ""
            raise ValueError(f"float image must be finite and in 0..1, got {low:g} to {high:g}{hint}")
        pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    if pixels.shape[-1] == 4:
        alpha = pixels[..., 3:].float() / 255
        pixels = (pixels[..., :3] * alpha + 255 * (1 - alpha)).round().to(torch.uint8)
    return list(pixels.expand(*pixels.shape[:3], 3).contiguous())


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it when the block ends well and vanishes when it does not.

    Ctrl-C or a full disk never leave half a file. Raises what the disk raises, naming `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):  # of a folder that can't be written either
            temporary.unlink(missing_ok=True)
        named = isinstance(error, OSError) and os.path.abspath(str(error.filename))  # FFmpeg is given whole paths
        if named == os.path.abspath(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def check_writable(path: str | os.PathLike) -> None:
    """Raises ValueError where no file of this name can be written: to be asked before long work that ends in it."""
    path = Path(path)
    probe = path.with_name(f".{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); choose another folder") from error


def place_of(path: str | os.PathLike) -> str:
    """The same text for names of the same file; on a Mac, whose disks take A.PNG for a.png, not all that differ do."""
    place = str(Path(path).resolve())
    return place.casefold() if sys.platform in ("darwin", "win32") else place


def check_picture_name(path: str | os.PathLike) -> None:
    """Raises ValueError for a suffix Pillow cannot write."""
    from PIL import Image

    if Image.registered_extensions().get(Path(path).suffix.lower()) not in Image.SAVE:
        raise ValueError(f"{path} has no suffix of a picture; end it in .png, .jpg or .webp")


# Colours tell a ControlNet which limb it sees, so nothing is lost that can be kept. PNG at level 1: pose maps are
# mostly black, and higher levels cost ten times the time for a few kilobytes.
_SAVING: dict[str, dict[str, Any]] = {
    ".png": {"compress_level": 1},
    ".webp": {"lossless": True},
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
}


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB in the format its suffix names, whole or not at all.

    Raises:
        ValueError: for a suffix Pillow cannot write.
    """
    from PIL import Image

    check_picture_name(path)
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, **_SAVING.get(temporary.suffix.lower(), {}))


def in_order(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The files of a folder with one of these suffixes, f_2 before f_10; not hidden ones, as macOS adds ._f_2.png."""
    files = (file for file in folder.iterdir() if not file.name.startswith(".") and file.is_file())
    return sorted((file for file in files if file.suffix.lower() in suffixes), key=_natural)


def _natural(file: Path) -> tuple:
    parts = re.split(r"(\d+)", file.name.lower())
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], file.name
