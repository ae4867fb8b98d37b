"""DWposeDetector: the front door. A photograph in any form in, a pose map or keypoints out.

Drop-in for the DWPose and OpenPose detectors of controlnet_aux and easy_dwpose: same names, same output sizes.
"""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from .backends import OnnxRunner, TorchRunner, pick_device
from .images import as_images
from .models import catalogue, download
from .models.weights import load_detector, load_pose
from .people import People
from .pipeline import Options, Runner, estimate_people
from .render import Style, render

DEFAULT_POSE = "dwpose-l-384"
DEFAULT_DETECTOR = "yolox-l"
BUNDLED_POSE = "dwpose-nano"


class DWposeDetector:
    """Finds people and draws their pose.

        detector = DWposeDetector.from_pretrained()
        pose_map = detector(Image.open("photo.jpg"))          # PIL in, PIL out
        people = detector.detect(["a.jpg", "b.jpg"])          # keypoints, nothing drawn

    Args:
        pose: runner of the pose network, see `backends`.
        detector: runner of the person detector; None starts from the whole image and refines (two passes).
        options: defaults of every call, see `pipeline.Options`.
    """

    def __init__(self, pose: Runner, detector: Runner | None = None, options: Options | None = None):
        self.pose = pose
        self.detector = detector
        self.options = options or Options()

    @classmethod
    def from_pretrained(
        cls,
        pose: str | os.PathLike = "auto",
        detector: str | os.PathLike | None = "auto",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        backend: str = "torch",
        provider: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        options: Options | None = None,
    ) -> DWposeDetector:
        """Load networks by catalogue name (`dwpose models`) or from a .safetensors, .pth or .onnx file.

        Args:
            pose: "auto" takes dwpose-l-384 if it is cached or can be downloaded, else the model that ships with the
                package, with a warning that says so.
            detector: "auto" takes yolox-l likewise, else none. None: no detector, the whole image is the first box.
            device: "cuda", "cuda:1", "mps", "cpu", ...; None takes the best one present.
            dtype: of the arithmetic, torch backend only; None is float32 on the CPU and float16 on a GPU.
            backend: "torch", or "onnx" for ONNX Runtime (needs .onnx weights).
            provider: of ONNX Runtime: "cpu", "cuda", "tensorrt", "openvino"; None follows `device`.
            cache_dir: of downloads; None is the Hugging Face cache.
            local_files_only: never ask the network.
            options: defaults of every call.

        Raises:
            ValueError: for an unknown name, file or device, weights that do not fit, or a provider that does not run.
            download.DownloadError: when named weights can be neither found nor downloaded.
        """
        if backend not in ("torch", "onnx"):
            raise ValueError(f"backend must be 'torch' or 'onnx', got {backend!r}")
        if backend == "torch" and provider is not None:
            raise ValueError("provider belongs to backend='onnx'; the torch backend takes device")
        if backend == "onnx" and dtype is not None:
            raise ValueError("dtype belongs to backend='torch'; an .onnx file has its own precision")
        where = pick_device(device)
        where_to_look = {"cache_dir": cache_dir, "local_files_only": local_files_only}
        pose_file = _find_weights(pose, DEFAULT_POSE, where_to_look)
        detector_file = None if detector is None else _find_weights(detector, DEFAULT_DETECTOR, where_to_look)
        if backend == "onnx":
            provider = provider or ("cuda" if where.type == "cuda" else "cpu")
            runners = [
                OnnxRunner(_need_onnx(f), provider, device_index=where.index or 0)
                for f in (pose_file, detector_file)
                if f
            ]
        else:
            dtype = dtype or (torch.float32 if where.type == "cpu" else torch.float16)
            nets = [load_pose(pose_file)] + ([load_detector(detector_file)] if detector_file else [])
            runners = [TorchRunner(net, where, dtype) for net in nets]
        return cls(*runners, options=options)

    @property
    def device(self) -> torch.device:
        return self.pose.device

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> DWposeDetector:
        """Move both networks; returns self.

        Raises:
            ValueError: with the onnx backend, whose provider is fixed when it is loaded.
        """
        for runner in (self.pose, self.detector):
            if runner is None:
                continue
            if not isinstance(runner, TorchRunner):
                raise ValueError("only the torch backend moves; load again with from_pretrained(..., provider=...)")
            runner.to(device, dtype)
        return self

    def detect(
        self, images: Any, boxes: Any = None, batch_size: int | None = None, **changes: Any
    ) -> People | list[People]:
        """Keypoints of everyone, in pixels of the image given; nothing is drawn.

        Args:
            images: path, PIL image, array or tensor, or a list or batch of them, see `images.as_images`.
            boxes: xyxy in pixels instead of the detector: (P, 4) for one image, a list of them for several.
            batch_size: images per detector call; None keeps `options.image_batch`.
            **changes: any field of `pipeline.Options` for this call.

        Returns:
            People for one image, a list of People for a list or batch.

        Raises:
            ValueError: for images, boxes or options that make no sense. TypeError: for an unknown keyword.
        """
        several = _is_several(images)
        frames = as_images(images)
        if batch_size is not None:
            changes["image_batch"] = batch_size
        options = dataclasses.replace(self.options, **changes)
        if boxes is not None and not several:
            boxes = [boxes]
        people = estimate_people(frames, self.pose, self.detector, boxes, options)
        return people if several else people[0]

    def __call__(
        self,
        image: Any,
        detect_resolution: int | None = 512,
        image_resolution: int | None = 512,
        include_body: bool = True,
        include_hand: bool = True,
        include_face: bool = True,
        output_type: str = "pil",
        style: str | Style = "openpose",
        *,
        include_foot: bool = False,
        keypoint_threshold: float | None = None,
        thickness: float = 1.0,
        boxes: Any = None,
        **changes: Any,
    ) -> Any:
        """Pose map of an image, or of each image of a list or batch.

        Args:
            image: path, PIL image, array or tensor, or a list or batch of them, see `images.as_images`.
            detect_resolution: short side at which people are looked for, rounded to multiples of 64 as ControlNet
                does; None looks at the image as it is.
            image_resolution: short side of the map, likewise; None gives the size of the image. The map is drawn at
                that size, never scaled.
            include_body, include_hand, include_face, include_foot: parts to draw.
            output_type: "pil"; "np" for (H, W, 3) uint8 RGB; "pt" for (3, H, W) float32 in 0..1 on the CPU.
            style: see `render.STYLES`.
            keypoint_threshold: score from which a point is drawn; None keeps `options.keypoint_threshold`.
            thickness: multiplies line widths and point sizes.
            boxes: xyxy in pixels of `image` instead of the detector.
            **changes: any field of `pipeline.Options`; also `include_hands`, `hand_and_face` and `return_pil` as
                older detectors spelled them, with a warning.

        Raises:
            ValueError, TypeError: as `detect`.
        """
        include = {"include_body": include_body, "include_hand": include_hand, "include_face": include_face}
        include["include_foot"] = include_foot
        output_type = _accept_old_spellings(changes, include, output_type)
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}")
        if keypoint_threshold is not None:
            changes["keypoint_threshold"] = keypoint_threshold
        options = dataclasses.replace(self.options, **changes)
        several = _is_several(image)
        originals = as_images(image)
        if boxes is not None:
            boxes = [np.asarray(b, np.float32) for b in (boxes if several else [boxes])]
        frames = originals
        if detect_resolution is not None:
            frames = [_resize(frame, control_size(frame.shape[:2], detect_resolution)) for frame in originals]
            boxes = boxes and [_scale_boxes(b, a, f) for b, a, f in zip(boxes, originals, frames, strict=True)]
        maps = []
        for frame, original, people in zip(
            frames, originals, estimate_people(frames, self.pose, self.detector, boxes, options), strict=True
        ):
            size = original.shape[:2] if image_resolution is None else control_size(frame.shape[:2], image_resolution)
            pose_map = render(
                people,
                size,
                style,
                parts=[part for part in ("body", "hand", "face") if include[f"include_{part}"]],
                feet=include["include_foot"],
                threshold=options.keypoint_threshold,
                thickness=thickness,
            )
            maps.append(_convert(pose_map, output_type))
        return maps if several else maps[0]


def control_size(size: Sequence[int], resolution: int) -> tuple[int, int]:
    """ControlNet's size rule: (H, W) scaled to the short side `resolution`, both rounded to multiples of 64."""
    if resolution < 64:
        raise ValueError(f"resolution must be at least 64 pixels, got {resolution}")
    factor = resolution / min(size)
    height, width = (max(64, int(np.round(side * factor / 64)) * 64) for side in size)
    return height, width


def _find_weights(source: str | os.PathLike, default: str, where_to_look: dict) -> Path | None:
    """The file of a path, a catalogue name, or "auto"; None where "auto" has to do without a detector."""
    if source != "auto":
        path = Path(source).expanduser()
        if path.is_file() or path.suffix:
            return path
        return download.fetch(catalogue.find(str(source)), **where_to_look)
    try:
        return download.fetch(catalogue.find(default), **where_to_look)
    except download.DownloadError as error:
        if default == DEFAULT_POSE:
            instead = (
                f"Using the bundled {BUNDLED_POSE} instead, a rough starter model trained on synthetic people only"
            )
        else:
            instead = "Going without a detector: one person per image, looked for in the whole image"
        warnings.warn(f"{default} is not available. {instead}. ({error})", stacklevel=3)
        return catalogue.cached_path(catalogue.find(BUNDLED_POSE)) if default == DEFAULT_POSE else None


def _need_onnx(path: Path) -> Path:
    if path.suffix != ".onnx":
        raise ValueError(f"backend 'onnx' needs an .onnx file, got {path.name}; make one with `dwpose export`")
    return path


def _is_several(images: Any) -> bool:
    return isinstance(images, (list, tuple)) or getattr(images, "ndim", 3) == 4


def _accept_old_spellings(changes: dict, include: dict, output_type: Any) -> str:
    """Moves old keywords out of `changes` into `include`; returns the output type."""

    def warn(old: str, new: str) -> None:
        warnings.warn(f"{old} is an old spelling; use {new}", FutureWarning, stacklevel=4)

    if "include_hands" in changes:
        warn("include_hands", "include_hand")
        include["include_hand"] = changes.pop("include_hands")
    if "hand_and_face" in changes:
        warn("hand_and_face", "include_hand and include_face")
        both = changes.pop("hand_and_face")
        if both is not None:  # None is controlnet_aux's "not given"
            include["include_hand"] = include["include_face"] = both
    if "return_pil" in changes:
        warn("return_pil", "output_type")
        output_type = "pil" if changes.pop("return_pil") else "np"
    if isinstance(output_type, bool):
        warn("a bool output_type", "'pil' or 'np'")
        output_type = "pil" if output_type else "np"
    return output_type


def _resize(image: np.ndarray | torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """ControlNet's resize: Lanczos up, area down."""
    image = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    grows = min(size) > min(image.shape[:2])
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LANCZOS4 if grows else cv2.INTER_AREA)


def _scale_boxes(boxes: np.ndarray, original: np.ndarray, frame: np.ndarray) -> np.ndarray:
    sx, sy = frame.shape[1] / original.shape[1], frame.shape[0] / original.shape[0]
    return boxes * np.array((sx, sy, sx, sy), np.float32)


def _convert(pose_map: np.ndarray, output_type: str) -> Any:
    if output_type == "np":
        return pose_map
    if output_type == "pt":
        return torch.from_numpy(pose_map).permute(2, 0, 1).float() / 255
    from PIL import Image

    return Image.fromarray(pose_map)
