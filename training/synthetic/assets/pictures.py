"""Textures, light, panoramas and photographs, scaled down. File content in, file content out."""

from __future__ import annotations

import cv2
import numpy as np

TEXTURE_QUALITY = 92
HDRI_SIZE = (256, 128)  # light is used as nine spherical harmonics; more pixels would change nothing
# Photographs and panoramas go through JPEG twice, as those of the reference pack did, so that they are equal to it.
FIRST_QUALITY = 90
PANORAMA_QUALITY = 88
PHOTO_STAGES = (1600, 1280)  # longer side in pixels after each
PHOTO_QUALITY = 86
# Those of photographs.json: once, panoramas twice, as the ones the bundled models have seen.
PHOTOGRAPH_SIZE = 1280
PHOTOGRAPH_QUALITY = 92


def _decode(data: bytes, flags: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise ValueError("not a picture that OpenCV can read")
    return image


def _encode(suffix: str, image: np.ndarray, *options: int) -> bytes:
    done, data = cv2.imencode(suffix, image, options)
    if not done:
        raise ValueError(f"OpenCV cannot write {suffix} pictures")
    return data.tobytes()


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    return _encode(".jpg", image, cv2.IMWRITE_JPEG_QUALITY, quality)


def _shrink(image: np.ndarray, longest: int) -> np.ndarray:
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    return cv2.resize(image, (int(width * scale), int(height * scale)), interpolation=cv2.INTER_AREA)


def texture(data: bytes, longest: int) -> tuple[bytes, str]:
    """Content and suffix: .png where the alpha channel says something, .jpg otherwise."""
    image = _decode(data, cv2.IMREAD_UNCHANGED)
    if image.ndim == 2:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
    image = _shrink(image, longest)
    if image.shape[2] == 4 and image[..., 3].min() < 255:
        return _encode(".png", image, cv2.IMWRITE_PNG_COMPRESSION, 9), ".png"
    return _jpeg(image[..., :3], TEXTURE_QUALITY), ".jpg"


def hdri(data: bytes) -> bytes:
    """Radiance picture of HDRI_SIZE."""
    image = _decode(data, cv2.IMREAD_UNCHANGED)
    return _encode(".hdr", cv2.resize(image, HDRI_SIZE, interpolation=cv2.INTER_AREA))


def panorama(data: bytes) -> bytes:
    """A Radiance panorama tone-mapped to sRGB JPEG: the median is brought to one half, lights are rolled off."""
    image = _decode(data, cv2.IMREAD_UNCHANGED)
    exposed = image * (0.5 / np.median(image))
    mapped = np.clip(exposed / (1 + 0.6 * exposed) * 1.3, 0, 1) ** (1 / 2.2)
    first = _jpeg((mapped * 255).astype(np.uint8), FIRST_QUALITY)
    return _jpeg(_decode(first, cv2.IMREAD_COLOR), PANORAMA_QUALITY)


def photo(data: bytes) -> bytes:
    """A photograph as JPEG."""
    first = _jpeg(_shrink(_decode(data, cv2.IMREAD_COLOR), PHOTO_STAGES[0]), FIRST_QUALITY)
    image = _decode(first, cv2.IMREAD_COLOR)
    scale = PHOTO_STAGES[1] / max(image.shape)
    if scale >= 1:
        return first
    return _jpeg(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), PHOTO_QUALITY)


def dim_panorama(data: bytes) -> bytes:
    """A Radiance panorama tone-mapped to sRGB JPEG, some 70 of 255 levels darker than `panorama` would make it.

    The brightness that 60 of 100 pixels about the horizon stay below becomes 0.225, 3 becomes white (Reinhard's curve).
    """
    image = _decode(data, cv2.IMREAD_UNCHANGED)
    height = len(image)
    horizon = image.mean(2)[height // 4 : height * 420 // 512]
    exposed = image * (0.225 / np.percentile(horizon, 60))
    mapped = np.clip(exposed * (1 + exposed / 3**2) / (1 + exposed), 0, 1) ** (1 / 2.2)
    first = _jpeg((mapped * 255).astype(np.uint8), PHOTOGRAPH_QUALITY)
    return _jpeg(_decode(first, cv2.IMREAD_COLOR), PHOTOGRAPH_QUALITY)


def photograph(data: bytes, crop: tuple[float, float, float, float] = (0, 0, 1, 1)) -> bytes:
    """A photograph, or the part of it from left, top to right, bottom (1 is the whole width or height), as JPEG."""
    image = _decode(data, cv2.IMREAD_COLOR)
    scale = PHOTOGRAPH_SIZE / max(image.shape)
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    left, top, right, bottom = (int(part * size) for part, size in zip(crop, image.shape[1::-1] * 2, strict=True))
    return _jpeg(image[top:bottom, left:right], PHOTOGRAPH_QUALITY)
