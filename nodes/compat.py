"""DWPose Preprocessor (Compat): the older pack's DWPreprocessor, node for node, on our networks."""

from __future__ import annotations

import os
import weakref
from typing import Any

import comfy.model_management as mm
import comfy.utils
import numpy as np
from comfy_api.v0_0_2 import io

from . import files, models, sockets
from .estimate import CPU_BATCH, GPU_BATCH, estimate, previews
from .paths import digest
from .sockets import ALIASES, CATEGORY, Keypoints, schema

SWITCH = ["enable", "disable"]
DETECTORS = [
    "None",
    "yolox_l.torchscript.pt",
    "yolox_l.onnx",
    "yolo_nas_l_fp16.onnx",
    "yolo_nas_m_fp16.onnx",
    "yolo_nas_s_fp16.onnx",
]
ESTIMATORS = ["dw-ll_ucoco_384_bs5.torchscript.pt", "dw-ll_ucoco_384.onnx", "dw-ll_ucoco.onnx"]
# Their files -> the same networks in our catalogue. YOLO-NAS weights are not free to use; YOLOX does its work.
_POSE = {"dw-ll_ucoco.onnx": "dwpose-l"}


class DWPosePreprocessorCompat(io.ComfyNode):
    """Inputs, values, outputs and `ui` are those of `DWPreprocessor` in Fannovel16/comfyui_controlnet_aux 1.1.5, so
    that its workflows run here; see `replacement`."""

    def __init__(self):
        super().__init__()
        self.networks: tuple[tuple, models.PoseModel] | None = None
        _INSTANCES.add(self)

    @classmethod
    def define_schema(cls):
        def switch(name: str, what: str):
            return io.Combo.Input(name, options=SWITCH, default="enable", optional=True, tooltip=f"Draw the {what}.")

        return schema(
            node_id="DWPosePreprocessorCompat",
            display_name="DWPose Preprocessor (Compat)",
            category=CATEGORY,
            description="Stands in for the DWPose Estimator (DWPreprocessor) of comfyui_controlnet_aux in workflows "
            "made with it. For new workflows use DWPose Loader and DWPose Estimate.",
            search_aliases=[*ALIASES, "DWPreprocessor", "dwpose estimator"],
            inputs=[
                io.Image.Input("image", tooltip="One image, or the frames of a video."),
                switch("detect_hand", "hands"),
                switch("detect_body", "body"),
                switch("detect_face", "face"),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=64,
                    max=16384,
                    step=64,
                    optional=True,
                    tooltip="Shorter side of the pose map in pixels.",
                ),
                io.Combo.Input(
                    "bbox_detector",
                    options=DETECTORS,
                    default="yolox_l.onnx",
                    optional=True,
                    tooltip="None searches the whole image. Every other value runs YOLOX-L.",
                ),
                io.Combo.Input(
                    "pose_estimator",
                    options=ESTIMATORS,
                    default=ESTIMATORS[0],
                    optional=True,
                    tooltip="DWPose-L for 384x288 or (dw-ll_ucoco.onnx) 256x192 crops.",
                ),
                io.Combo.Input(
                    "scale_stick_for_xinsr_cn",
                    options=SWITCH[::-1],
                    default="disable",
                    optional=True,
                    tooltip="Thick sticks for xinsir's SDXL ControlNet.",
                ),
            ],
            outputs=[
                io.Image.Output("IMAGE", display_name="IMAGE", tooltip="The pose map of every frame."),
                Keypoints.Output(
                    "POSE_KEYPOINT", display_name="POSE_KEYPOINT", tooltip="Keypoints in pixels of the image."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, bbox_detector=None, pose_estimator=None):
        return True  # names of models that came and went in old workflows: any of them is a YOLOX or a DWPose here

    @classmethod
    def fingerprint_inputs(cls, bbox_detector=DETECTORS[2], pose_estimator=ESTIMATORS[0], **_: Any):
        return digest(_key(*_choices(bbox_detector, pose_estimator)))

    @classmethod
    def execute(cls, image, **widgets: Any) -> io.NodeOutput:
        maps, keypoints, text = _preprocess(image, **widgets)
        shown = {**previews(cls, maps), "openpose_json": [sockets.to_json(keypoints)], **sockets.say(cls, text)}
        return io.NodeOutput(maps, keypoints, ui=shown)

    @classmethod
    def estimate_pose(cls, image, *args: Any, **widgets: Any) -> dict:
        """As other packs call the older node by its method: {"ui": ..., "result": (IMAGE, POSE_KEYPOINT)}."""
        names = ("detect_hand", "detect_body", "detect_face", "resolution", "bbox_detector", "pose_estimator")
        widgets.update(zip((*names, "scale_stick_for_xinsr_cn"), args, strict=False))
        maps, keypoints, _ = _preprocess(image, **widgets)
        return {"ui": {"openpose_json": [sockets.to_json(keypoints)]}, "result": (maps, keypoints)}


# ComfyUI holds one instance of a node for as long as the node is in the workflow, and lets all of them go on /free.
# Networks that are kept there live exactly as long, and their place on the device is model management's affair.
_INSTANCES: weakref.WeakSet[DWPosePreprocessorCompat] = weakref.WeakSet()


def _networks(pose: str, detector: str) -> models.PoseModel:
    """The networks, from whichever node has them, else loaded and left with every node there is."""
    key = _key(pose, detector)
    for node in _INSTANCES:
        if node.networks is not None and node.networks[0] == key:
            return node.networks[1]
    loaded = models.load(pose, detector)
    for node in _INSTANCES:
        node.networks = key, loaded
    return loaded


def _key(pose: str, detector: str) -> tuple:
    return pose, detector, *files.fingerprint("pose", pose), *files.fingerprint("detector", detector)


def _choices(bbox_detector: str | None, pose_estimator: str | None) -> tuple[str, str]:
    """Our pose network and detector for theirs."""
    name = os.path.basename(str(pose_estimator))
    pose = _POSE.get(name, files.AUTO)
    if name in _POSE and files.find_file(name, "pose") is not None:
        pose = name  # their file, of the same weights as ours, is there already
    return pose, files.NONE if bbox_detector in (None, "None") else files.AUTO


def _preprocess(
    image,
    detect_hand="enable",
    detect_body="enable",
    detect_face="enable",
    resolution=512,
    bbox_detector="yolox_l.onnx",
    pose_estimator="dw-ll_ucoco_384.onnx",
    scale_stick_for_xinsr_cn="disable",
) -> tuple:
    """IMAGE, POSE_KEYPOINT and a remark."""
    from ..dwpose_core.pipeline import Options
    from ..dwpose_core.render import render

    pose, detector = _choices(bbox_detector, pose_estimator)
    model = _networks(pose, detector)
    images, people = CPU_BATCH if mm.is_device_cpu(mm.get_torch_device()) else GPU_BATCH
    options = Options(image_batch=images, people_batch=people)
    # The older node draws at its source's size and resizes the picture to this; ours draws at the size itself.
    source = sockets.image_size(image)
    # Without a detector they take the whole image for the box of one person, whoever is there.
    whole = None
    if detector == files.NONE:
        whole = [(np.float32([[0, 0, source[1], source[0]]]), np.ones(1, np.float32))] * len(image)
    size = tuple(round(side * float(resolution) / min(source)) for side in source)
    body, hand, face = (switch == "enable" for switch in (detect_body, detect_hand, detect_face))
    parts = [part for part, wanted in (("body", body), ("hand", hand), ("face", face)) if wanted]
    style = "xinsir" if scale_stick_for_xinsr_cn == "enable" else "openpose"
    progress = comfy.utils.ProgressBar(len(image))
    maps, found = sockets.new_image(len(image), size), []
    for chunk in estimate(model, image, whole, options):
        for frame in chunk:
            sockets.put(maps[len(found)], np.ascontiguousarray(render(frame, size, style, parts=parts)))
            found.append(frame)
        progress.update_absolute(len(found), len(image))
    text = " ".join(part for part in (model.note, sockets.found_text(found, 0.3)) if part)
    keypoints = sockets.to_keypoints(found, threshold=0.3, confidence="binary")
    return maps, sockets.keep_parts(keypoints, body, hand, face, feet=body), text
