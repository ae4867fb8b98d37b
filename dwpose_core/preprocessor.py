"""DWposeDetector: the front door. A photograph in any form in, a pose map or keypoints out.

Drop-in for the DWPose and OpenPose detectors of controlnet_aux and easy_dwpose: same names, same output sizes.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import cv2
import numpy as np
import torch
from huggingface_hub import ModelHubMixin

from . import hub
from .backends import Runner, TorchRunner, pick_device
from .geometry import check_boxes, control_size
from .images import as_images
from .people import People
from .pipeline import Options, detector_input, estimate_people
from .render import Style, find_style, render

if TYPE_CHECKING:
    from PIL.Image import Image

_OPTIONS = tuple(field.name for field in dataclasses.fields(Options))


class DWposeDetector(
    ModelHubMixin,
    library_name="dwpose-torch",
    pipeline_tag="keypoint-detection",
    tags=["pose-estimation", "dwpose", "openpose", "controlnet"],
    model_card_template=hub.MODEL_CARD,
):
    """Finds people and draws their pose.

        detector = DWposeDetector.from_pretrained()
        pose_map = detector(Image.open("photo.jpg"))          # PIL in, PIL out
        people = detector.detect(["a.jpg", "b.jpg"])          # keypoints, nothing drawn

    `save_pretrained(folder)` and `push_to_hub("owner/name")` of huggingface_hub's mixin write what `from_pretrained`
    reads: config.json, pose.safetensors, detector.safetensors and a model card. Weights are written as they are in
    memory: those of a detector in float16 as float16. `model_card_kwargs={"licence": ...}` names their licence.

    Args:
        pose: runner of the pose network, see `backends`. None loads what `from_pretrained` loads by default.
        detector: runner of the person detector; None starts from the whole image and refines (two passes).
        options: defaults of every call, see `pipeline.Options`.
        device: as in `from_pretrained`, where networks are loaded here.
        det_ckpt, pose_ckpt: weight files, as controlnet_aux takes them.
        det_config, pose_config: ignored with a warning: which network a file holds is read from the file.

    Raises:
        ValueError: for an `options.detector_size` that the detector does not take.
    """

    def __init__(
        self,
        pose: Runner | None = None,
        detector: Runner | None = None,
        options: Options | None = None,
        *,
        device: str | torch.device | None = None,
        det_config: str | None = None,
        det_ckpt: str | os.PathLike | None = None,
        pose_config: str | None = None,
        pose_ckpt: str | os.PathLike | None = None,
    ):
        if det_config is not None or pose_config is not None:
            _warn("det_config and pose_config are ignored: which network a file holds is read from the file", 2)
        for runner in (pose, detector):
            if runner is not None and not hasattr(runner, "input_size"):
                raise TypeError(
                    f"{str(runner)[:40]!r} is no runner: files, folders and names go to from_pretrained, devices into "
                    f"DWposeDetector(device=...), networks into backends.TorchRunner"
                )
        if (pose is not None and (device or pose_ckpt or det_ckpt)) or (detector is not None and det_ckpt):
            raise TypeError("device, det_ckpt and pose_ckpt say what to load; runners are loaded already")
        if pose is None:
            found = hub.find(pose_ckpt or "auto", (det_ckpt or "auto") if detector is None else None)
            pose, loaded = hub.load_runners(found, device, None, "torch", None)
            detector = detector or loaded
        self.pose = pose
        self.detector = detector
        self.options = options or Options()
        if detector is not None:
            detector_input(detector, self.options)  # before the first of a million pictures

    @classmethod
    def from_pretrained(
        cls,
        pose: str | os.PathLike = "auto",
        detector: str | os.PathLike | None = "auto",
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        backend: str = "torch",
        provider: str | None = None,
        subfolder: str | None = None,
        variant: str | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        options: Options | None = None,
        torch_dtype: torch.dtype | str | None = None,
    ) -> DWposeDetector:
        """Load networks from a name, a file, or a folder or hub repository that `save_pretrained` wrote.

        Args:
            pose: a catalogue name (`dwpose models`); a .safetensors, .pth or .onnx file; a folder; or `owner/name` of a
                hub repository, which brings its person detector along. "auto" takes dwpose-l-384 if it is cached or
                can be downloaded, else the model that ships with the package, with a warning that says so.
            detector: a catalogue name or a file. "auto" takes that of the folder or repository, else yolox-l if it can
                be had, else the small one in the package, with a warning. None: the whole image is the first box.
            device: "cuda", "cuda:1", "mps", "cpu", ...; None takes the best one present.
            dtype: of the arithmetic, torch backend only; None is float32 on the CPU and float16 on a GPU.
            backend: "torch", or "onnx" for ONNX Runtime (needs .onnx weights).
            provider: of ONNX Runtime, a key of `backends.PROVIDERS` ("cpu", "cuda", ...); None follows `device`.
            subfolder: where in the folder or repository. Like the next two, without meaning for names and files.
            variant: "fp16" reads pose.fp16.safetensors; where there is none, the plain file with a warning.
            revision: branch, tag or commit of the repository.
            cache_dir: of downloads; None is the Hugging Face cache.
            local_files_only: never ask the network.
            token: of the hub, for private repositories.
            options: defaults of every call; None takes those saved in the folder or repository.
            torch_dtype: old spelling of `dtype`.

        Raises:
            ValueError: for an unknown name, file or device, weights that do not fit, a folder or repository of
                something else, or a provider that does not run.
            FileNotFoundError: for a weights file that is not there.
            models.download.WeightsUnavailable: when named weights can be neither found nor downloaded.
        """
        if torch_dtype is not None:
            _warn("torch_dtype is an old spelling; use dtype", 2)
            dtype = torch_dtype if dtype is None else dtype
        if not isinstance(options, Options | None):
            raise ValueError(f"options must be dwpose_core.pipeline.Options(...), got {type(options).__name__}")
        pick_device(device)  # before a download: a device that is not here should fail at once
        found = hub.find(
            pose,
            detector,
            subfolder=subfolder,
            variant=variant,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        runners = hub.load_runners(found, device, dtype, backend, provider)
        return cls(*runners, options=options or found.options)

    def _save_pretrained(self, save_directory: Path) -> None:
        hub.save(self.pose, self.detector, self.options, save_directory)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> Any:
        for part, runner in (("pose", self.pose), ("detector", self.detector)):
            if runner is not None:
                kwargs.setdefault(part, runner.weights)
                kwargs.setdefault(f"{part}_input", "{1} x {0}".format(*runner.input_size))
        return super().generate_model_card(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        return self.pose.device

    def to(
        self, device: str | torch.device | torch.dtype | None = None, dtype: torch.dtype | str | None = None
    ) -> DWposeDetector:
        """Move or convert both networks; returns self. As everywhere in torch, `.to(torch.float16)` works, too.

        Raises:
            ValueError: for a device that is not here, a type that is not floating-point, and with the onnx backend,
                whose provider is fixed when it is loaded.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        dtype = hub.as_dtype(dtype)
        runners = [runner for runner in (self.pose, self.detector) if runner is not None]
        if not all(isinstance(runner, TorchRunner) for runner in runners):
            raise ValueError("only the torch backend moves; load again with from_pretrained(..., provider=...)")
        for runner in runners:
            runner.to(device, dtype)
        return self

    @overload
    def detect(
        self, images: str | os.PathLike | Image, boxes: Any = ..., batch_size: int | None = ..., **changes: Any
    ) -> People: ...
    @overload
    def detect(
        self, images: list | tuple, boxes: Any = ..., batch_size: int | None = ..., **changes: Any
    ) -> list[People]: ...
    @overload
    def detect(
        self, images: Any, boxes: Any = ..., batch_size: int | None = ..., **changes: Any
    ) -> People | list[People]: ...
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
        options = self._options(changes, batch_size, self.detect)
        people = estimate_people(frames, self.pose, self.detector, _as_boxes(boxes, several, frames), options)
        return people if several else people[0]

    def __call__(
        self,
        image: Any = None,
        detect_resolution: int | None = 512,
        image_resolution: int | Sequence[int] | None = 512,
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
        batch_size: int | None = None,
        return_people: bool = False,
        **changes: Any,
    ) -> Any:
        """Pose map of an image, or of each image of a list or batch. Where nobody is found it is black.

        Args:
            image: path, PIL image, array or tensor, or a list or batch of them, of any sizes, see `images.as_images`.
            detect_resolution: short side at which people are looked for, rounded to multiples of 64 as ControlNet
                does; None looks at the image as it is, which finds more of small hands and faces.
            image_resolution: short side of the map, likewise; or the (H, W) of the map; None gives the size of the
                image. The map is drawn at that size, never scaled.
            include_body, include_hand, include_face, include_foot: parts to draw.
            output_type: "pil"; "np" for (H, W, 3) uint8 RGB; "pt" for (3, H, W) float32 in 0..1 on the CPU.
            style: see `render.STYLES`.
            keypoint_threshold: score from which a point is drawn; None keeps `options.keypoint_threshold`.
            thickness: multiplies line widths and point sizes.
            boxes: xyxy in pixels of `image` instead of the detector: (P, 4), or a list of them for several images.
            batch_size: images per detector call; None keeps `options.image_batch`.
            return_people: also return the keypoints, in pixels of the map.
            **changes: any field of `pipeline.Options`, `min_size` in pixels at `detect_resolution`; also `input_image`,
                `include_hands`, `hand_and_face` and `return_pil` as older detectors spelled them, with a warning.

        Returns:
            one map for one image, a list of maps for a list. A batch, which is an array or tensor with four axes, gives
            a list as "pil" and a batch as "np" and "pt". With `return_people` (maps, people), where people is as
            `detect` returns it.

        Raises:
            ValueError: for images, boxes, sizes or options that make no sense. TypeError: for an unknown keyword.
        """
        include = {"body": include_body, "hand": include_hand, "face": include_face}
        image, output_type = _accept_old_spellings(image, include, output_type, changes)
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt', got {output_type!r}")
        if keypoint_threshold is not None:
            changes["keypoint_threshold"] = keypoint_threshold
        options = self._options(changes, batch_size, self.__call__)
        several, style = _is_several(image), find_style(style)  # here, before the networks run
        frames = originals = as_images(image)
        boxes = _as_boxes(boxes, several, originals)
        if detect_resolution is not None:
            frames = [_resize(original, detect_resolution) for original in originals]
            boxes = boxes and [
                box * np.tile(_scale(original.shape, frame.shape), 2)
                for box, original, frame in zip(boxes, originals, frames, strict=True)
            ]
        parts, threshold = [part for part, wanted in include.items() if wanted], options.keypoint_threshold
        drawing = {"parts": parts, "feet": include_foot, "threshold": threshold, "thickness": thickness}
        maps, everyone = [], []
        estimated = estimate_people(frames, self.pose, self.detector, boxes, options)
        for original, people in zip(originals, estimated, strict=True):
            if image_resolution is None:
                size = tuple(original.shape[:2])
            elif isinstance(image_resolution, (list, tuple)):
                size = tuple(image_resolution)
            else:
                size = control_size(people.image_size, image_resolution)
            maps.append(render(people, size, style, **drawing))
            everyone.append(_to_size(people, size) if return_people else people)
        maps = _convert(maps, output_type, batch=not isinstance(image, (list, tuple)))
        if not several:
            maps, everyone = maps[0], everyone[0]
        return (maps, everyone) if return_people else maps

    def _options(self, changes: dict[str, Any], batch_size: int | None, method: Callable) -> Options:
        for name in changes:
            if name not in _OPTIONS:
                known = [*_OPTIONS, *(p for p in inspect.signature(method).parameters if p not in ("image", "changes"))]
                near = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else ""
                hint = "; detect() returns keypoints for drawers of your own" if name == "draw_pose" else hint
                raise TypeError(f"unknown keyword {name!r}{hint}; known are {', '.join(known)}")
        if batch_size is not None:
            changes = {**changes, "image_batch": batch_size}
        return dataclasses.replace(self.options, **changes)


def _warn(message: str, stacklevel: int) -> None:
    warnings.warn(message, FutureWarning, stacklevel=stacklevel + 1)


def _is_several(images: Any) -> bool:
    return isinstance(images, (list, tuple)) or getattr(images, "ndim", 3) == 4


def _as_boxes(boxes: Any, several: bool, images: list) -> list[np.ndarray] | None:
    if boxes is None:
        return None
    boxes = boxes if several else [boxes]
    if len(boxes) != len(images):
        raise ValueError(f"boxes must be one array per image: {len(images)} images, {len(boxes)} arrays")
    return [check_boxes(box, image.shape[:2]) for box, image in zip(boxes, images, strict=True)]


def _accept_old_spellings(image: Any, include: dict, output_type: Any, changes: dict) -> tuple[Any, Any]:
    """Takes old keywords out of `changes`; corrects `include`; returns image and output type."""

    def warn(old: str, new: str) -> None:
        _warn(f"{old} is an old spelling; use {new}", 4)

    if "input_image" in changes and image is None:
        warn("input_image", "image, or no keyword")
        image = changes.pop("input_image")
    if image is None:
        raise TypeError("no image given")
    if isinstance(include["body"], str):
        # The fourth of controlnet_aux's DWposeDetector, where its OpenposeDetector has include_body.
        warn("output_type as the fourth argument", "output_type=...")
        output_type, include["body"] = include["body"], True
    if "include_hands" in changes:
        warn("include_hands", "include_hand")
        include["hand"] = changes.pop("include_hands")
    if "hand_and_face" in changes:
        warn("hand_and_face", "include_hand and include_face")
        both = changes.pop("hand_and_face")
        if both is not None:  # None is controlnet_aux's "not given"
            include["hand"] = include["face"] = both
    if "return_pil" in changes:
        warn("return_pil", "output_type")
        output_type = "pil" if changes.pop("return_pil") else "np"
    if isinstance(output_type, bool):
        warn("a bool output_type", "'pil' or 'np'")
        output_type = "pil" if output_type else "np"
    return image, output_type


def _resize(image: np.ndarray | torch.Tensor, resolution: int) -> np.ndarray:
    """ControlNet's resize: Lanczos where the short side is less than the resolution asked for, else area."""
    image = image.cpu().numpy() if isinstance(image, torch.Tensor) else image
    height, width = control_size(image.shape[:2], resolution)
    interpolation = cv2.INTER_LANCZOS4 if resolution > min(image.shape[:2]) else cv2.INTER_AREA
    return cv2.resize(image, (width, height), interpolation=interpolation)


def _scale(old: Sequence[int], new: Sequence[int]) -> np.ndarray:
    """Factors (x, y) from size (H, W, ...) to another."""
    return np.array((new[1] / old[1], new[0] / old[0]), np.float32)


def _to_size(people: People, size: Sequence[int]) -> People:
    factor = _scale(people.image_size, size)
    return dataclasses.replace(people, xy=people.xy * factor, box=people.box * np.tile(factor, 2), image_size=size)


def _convert(maps: list[np.ndarray], output_type: str, batch: bool) -> Any:
    """Maps (H, W, 3) as a list of PIL images, arrays or tensors; as one array or tensor for a batch."""
    if output_type == "pil":
        from PIL import Image

        return [Image.fromarray(pose_map) for pose_map in maps]
    if output_type == "pt":
        maps = [torch.from_numpy(pose_map).permute(2, 0, 1).float() / 255 for pose_map in maps]
    if not batch:
        return maps
    return np.stack(maps) if output_type == "np" else torch.stack(maps)
