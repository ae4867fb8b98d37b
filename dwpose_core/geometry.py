"""Boxes, crops and letterboxes, each with its inverse, on CPU arrays (OpenCV) and on device tensors (PyTorch).

Coordinates are pixel indices: pixel centres are whole numbers, as in mmpose's non-UDP `TopdownAffine`, which is what
DWPose and RTMPose use for training and inference. An image is (H, W, 3) uint8, a numpy array or a torch tensor; the
functions take either and answer in kind.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

# Legend: P boxes, H and W of the network input, h and w of the image.

PADDING = 1.25  # a person's box grows by this factor before cropping (mmpose `GetBBoxCenterScale`)
MAX_PIXELS = 8192 * 8192  # of a map whose size follows from its short side
LETTERBOX_VALUE = 114  # grey that YOLOX was trained with

# cv2.remap takes images of less than 32767 pixels a side (SHRT_MAX).
REMAP_LIMIT = 32000

Image = np.ndarray | torch.Tensor


def box_to_center_scale(
    boxes: np.ndarray, input_size: tuple[int, int], padding: float = PADDING
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (P, 4) xyxy -> centre (P, 2) and scale (P, 2) = (w, h) in image pixels, float32.

    The scale is the padded box, grown on one side to the aspect ratio of `input_size` (H, W).
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    center = (boxes[:, :2] + boxes[:, 2:]) * np.float32(0.5)
    width, height = ((boxes[:, 2:] - boxes[:, :2]) * np.float32(padding)).T
    aspect = np.float32(input_size[1] / input_size[0])
    wide = width > height * aspect
    scale = np.stack((np.where(wide, width, height * aspect), np.where(wide, width / aspect, height)), axis=1)
    return center, scale.astype(np.float32)


def crop_matrix(
    center: np.ndarray, scale: np.ndarray, input_size: tuple[int, int], rotation: np.ndarray | float = 0.0
) -> np.ndarray:
    """Image pixels -> crop pixels: (P, 2, 3) float64.

    A similarity: only the width of `scale` sets the zoom. `rotation` (P,) in degrees as mmpose counts it.
    """
    height, width = input_size
    center, scale = np.float64(center), np.float64(scale)
    zoom = width / scale[:, 0]
    angle = np.deg2rad(np.broadcast_to(np.float64(rotation), zoom.shape))
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    x, y = center.T
    rows = (cos, sin, width / 2 - cos * x - sin * y, -sin, cos, height / 2 + sin * x - cos * y)
    return np.stack(rows, axis=1).reshape(-1, 2, 3)


def crop(image: Image, boxes: np.ndarray, input_size: tuple[int, int], out: Image | None = None) -> Image:
    """Cut padded, aspect-fixed people out of one image: (P, H, W, 3) uint8, bilinear, black outside.

    Arrays go through `warp_affine`, tensors through `grid_sample` on their own device; the two differ by the 1/32 pixel
    grid of the former. `out` is a slot of a larger batch to write into.
    """
    height, width = input_size
    matrices = crop_matrix(*box_to_center_scale(boxes, input_size), input_size)
    if isinstance(image, torch.Tensor):
        crops = _crop_on_device(image, matrices, input_size)
        return crops if out is None else out.copy_(crops)
    if out is None:
        out = np.empty((len(matrices), height, width, 3), np.uint8)
    for slot, matrix in zip(out, matrices, strict=True):
        warp_affine(image, matrix, input_size, out=slot)
    return out


def warp_affine(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], out: np.ndarray | None = None
) -> np.ndarray:
    """Bilinear warp by `matrix` (2, 3), image to result pixels; black outside; `size` (H, W).

    Pixel for pixel what `cv2.warpAffine` gives in OpenCV 4, which samples on a grid of 1/32 pixel and which all
    official weights were made with. OpenCV 5 interpolates at full precision and moves 3 % of the pixels by a few grey
    levels, so the grid is laid out here and only looked up there.
    """
    height, width = size
    matrix = np.float64(matrix)
    if max(image.shape[:2]) > REMAP_LIMIT:
        image, matrix = _near(image, matrix, size)
    (a, b, tx), (c, d, ty) = cv2.invertAffineTransform(matrix).tolist()
    fixed = 1 << 10  # OpenCV's AB_SCALE; 16 rounds to the nearest of 32 steps
    limit = 1 << 29
    xs, ys = np.arange(width), np.arange(height)
    row_x, row_y = (np.rint(k * xs * fixed).clip(-limit, limit).astype(np.int32) for k in (a, c))
    col_x, col_y = (
        np.rint((k * ys + t) * fixed).clip(-limit, limit).astype(np.int32)[:, None] + 16 for k, t in ((b, tx), (d, ty))
    )
    x, y = (col_x + row_x) >> 5, (col_y + row_y) >> 5  # 1/32 image pixels
    whole = np.empty((height, width, 2), np.int16)
    np.clip(x >> 5, -32768, 32767, out=whole[..., 0], casting="unsafe")
    np.clip(y >> 5, -32768, 32767, out=whole[..., 1], casting="unsafe")
    fraction = ((y & 31) * 32 + (x & 31)).astype(np.uint16)
    return cv2.remap(image, whole, fraction, cv2.INTER_LINEAR, dst=out, borderValue=(0, 0, 0))


def _near(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The part of a large image that a warp of `size` (H, W) looks at, thinned where it is large still; its matrix."""
    corners = np.float64([(0, 0, 1), (size[1], 0, 1), (0, size[0], 1), (size[1], size[0], 1)])
    seen = corners @ cv2.invertAffineTransform(matrix).T  # (4, 2), image pixels
    sides = np.array(image.shape[1::-1])
    low = np.floor(seen.min(0) - 2).clip(0, sides - 1).astype(int)
    high = np.ceil(seen.max(0) + 3).clip(low + 1, sides).astype(int)
    step = -(-(high - low).max() // REMAP_LIMIT)
    part = image[low[1] : high[1] : step, low[0] : high[0] : step]
    # Pixel p of the part is pixel low + step * p of the image.
    back = np.vstack([matrix, (0, 0, 1)]) @ np.float64([(step, 0, low[0]), (0, step, low[1]), (0, 0, 1)])
    return np.ascontiguousarray(part), back[:2]


def _crop_on_device(image: torch.Tensor, matrices: np.ndarray, input_size: tuple[int, int]) -> torch.Tensor:
    height, width = input_size
    inverse = np.array([cv2.invertAffineTransform(m) for m in matrices]).reshape(-1, 2, 3)
    inverse = torch.as_tensor(inverse, dtype=torch.float32, device=image.device)
    xs = torch.arange(width, device=image.device, dtype=torch.float32)[:, None]
    ys = torch.arange(height, device=image.device, dtype=torch.float32)[:, None, None]
    # No matrix product: autocast and TF32 round its factors, which moves pixels of a large image by whole pixels.
    along_x, along_y, start = inverse[:, None, None].unbind(-1)  # (P, 1, 1, 2) each
    source = along_x * xs + along_y * ys + start  # (P, H, W, 2), image pixels
    size = torch.tensor((image.shape[1], image.shape[0]), device=image.device)
    grid = (2 * source + 1) / size - 1  # grid_sample's own coordinates, align_corners=False
    planes = image.permute(2, 0, 1)[None].float().expand(len(matrices), -1, -1, -1)
    crops = F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return crops.permute(0, 2, 3, 1).round().to(torch.uint8)


def keypoints_to_image(keypoints: np.ndarray, boxes: np.ndarray, input_size: tuple[int, int]) -> np.ndarray:
    """Inverse of `crop` for points: (P, K, 2) crop pixels -> image pixels, float32."""
    center, scale = box_to_center_scale(boxes, input_size)
    size = np.array((input_size[1], input_size[0]), np.float32)
    return keypoints / size * scale[:, None] + center[:, None] - np.float32(0.5) * scale[:, None]


def letterbox(images: list[Image], input_size: tuple[int, int]) -> tuple[Image, np.ndarray]:
    """Shrink or grow images to fit `input_size` (H, W), top left on grey 114.

    Returns:
        (N, H, W, 3) uint8 and ratio (N,): image pixels = letterbox pixels / ratio.
    """
    height, width = input_size
    on_device = isinstance(images[0], torch.Tensor)
    shape = (len(images), height, width, 3)
    if on_device:
        batch = torch.full(shape, LETTERBOX_VALUE, dtype=torch.uint8, device=images[0].device)
    else:
        batch = np.full(shape, LETTERBOX_VALUE, np.uint8)
    ratios = np.empty(len(images), np.float32)
    for i, image in enumerate(images):
        ratio = min(height / image.shape[0], width / image.shape[1])
        # The original truncates; a 20000 x 10 panorama would lose its last row that way.
        new_h, new_w = max(1, int(image.shape[0] * ratio)), max(1, int(image.shape[1] * ratio))
        if on_device:
            planes = image.permute(2, 0, 1)[None].float()
            small = F.interpolate(planes, (new_h, new_w), mode="bilinear", align_corners=False)
            batch[i, :new_h, :new_w] = small[0].permute(1, 2, 0).round().to(torch.uint8)
        else:
            cv2.resize(image, (new_w, new_h), dst=batch[i, :new_h, :new_w], interpolation=cv2.INTER_LINEAR)
        ratios[i] = ratio
    return batch, ratios


def nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Greedy non-maximum suppression: indices kept, in order of falling score.

    A box is kept when its IoU with every better kept box is <= `threshold`. Sides count w + 1 pixels, as in the
    original YOLOX demo.
    """
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = boxes[order].T
    area = (x2 - x1 + 1) * (y2 - y1 + 1)
    alive = np.ones(len(order), bool)
    kept = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(order[i])
        overlap_w = np.minimum(x2[i], x2[i + 1 :]) - np.maximum(x1[i], x1[i + 1 :]) + 1
        overlap_h = np.minimum(y2[i], y2[i + 1 :]) - np.maximum(y1[i], y1[i + 1 :]) + 1
        overlap = overlap_w.clip(min=0) * overlap_h.clip(min=0)
        alive[i + 1 :] &= overlap / (area[i] + area[i + 1 :] - overlap) <= threshold
    return np.array(kept, np.int64)


def check_boxes(boxes: ArrayLike | torch.Tensor, image_size: tuple[int, int]) -> np.ndarray:
    """Boxes given by a user, as an array, a list or a tensor on any device: (P, 4) float32 xyxy in image pixels.

    Raises:
        ValueError: for a wrong shape, not finite numbers, an empty box, or one that misses the image altogether.
    """
    boxes = boxes.detach().float().cpu() if isinstance(boxes, torch.Tensor) else boxes
    try:
        boxes = np.asarray(boxes, np.float32)
    except (TypeError, ValueError):  # text, or rows of different lengths
        raise ValueError(f"boxes must be (P, 4) numbers, xyxy in pixels of the image; got {str(boxes)[:60]}") from None
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes must have shape (P, 4), xyxy in pixels of the image; got {boxes.shape}")
    height, width = image_size
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        text = f"box {i} ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not np.isfinite(boxes[i]).all():
            raise ValueError(f"{text} has a coordinate that is not a finite number")
        if x2 <= x1 or y2 <= y1:
            raise ValueError(f"{text} is empty: boxes are x1, y1, x2, y2 with x2 > x1 and y2 > y1, not x, y, w, h")
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            raise ValueError(f"{text} lies outside the image of {width} x {height} pixels")
    return boxes


def map_size(wanted: int | tuple[int, int] | None, size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of the map of an image of `size` (H, W): as the image (None), with that short side (int), or as said."""
    if wanted is None or isinstance(wanted, tuple):
        return wanted or size
    factor = wanted / min(size)
    return round(size[0] * factor), round(size[1] * factor)


def control_size(size: Sequence[int], resolution: int) -> tuple[int, int]:
    """ControlNet's size rule: (H, W) scaled to the short side `resolution`, both rounded to multiples of 64.

    Raises:
        ValueError: for a resolution that is no number of pixels, and where a strip would become larger than MAX_PIXELS.
    """
    number = isinstance(resolution, (int, float, np.number)) and not isinstance(resolution, bool)
    if not (number and 64 <= resolution < np.inf):
        raise ValueError(f"a resolution is a short side of at least 64 pixels, got {resolution!r}")
    factor = resolution / min(size)
    height, width = (max(64, int(np.round(side * factor / 64)) * 64) for side in size)
    if height * width > MAX_PIXELS:
        raise ValueError(
            f"an image of {size[1]} x {size[0]} pixels has {width} x {height} at the short side {resolution:g}; give "
            "a lower resolution, None for its own size, or, for a map, its (H, W)"
        )
    return height, width
