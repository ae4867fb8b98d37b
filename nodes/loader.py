"""DWPose Loader: networks from ComfyUI's folders or the hub."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from . import files, models
from .paths import digest
from .sockets import ALIASES, CATEGORY, Model, say, schema


class DWPoseLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="DWPoseLoader",
            display_name="DWPose Loader",
            category=CATEGORY,
            description="Loads the pose network and the person detector.",
            search_aliases=[*ALIASES, "load dwpose model", "yolox"],
            inputs=[
                io.Combo.Input(
                    "pose",
                    options=files.choices("pose"),
                    default=files.AUTO,
                    tooltip="Pose network. auto: dwpose-l-384 if present or downloadable, else another file found "
                    "there, else the small starter model of this pack. Files go into models/dwpose.",
                ),
                io.Combo.Input(
                    "detector",
                    options=files.choices("detector"),
                    default=files.AUTO,
                    tooltip="Person detector. auto: yolox-l if present or downloadable, else another YOLOX "
                    "file, else the small one of this pack. none: the whole image is searched for one person. Files go "
                    "into models/detection.",
                ),
                io.Combo.Input(
                    "precision",
                    options=[files.AUTO, *models.PRECISIONS],
                    default=files.AUTO,
                    tooltip="Arithmetic of the torch backend. auto: half precision where the device is good at it.",
                ),
                io.Combo.Input(
                    "backend",
                    options=["torch", "onnxruntime", "tensorrt", "openvino"],
                    default="torch",
                    tooltip="torch runs every file on every device and shares memory with your other models. The "
                    "others need onnxruntime and .onnx files. onnxruntime uses an NVIDIA GPU, or with "
                    "onnxruntime-directml any GPU under Windows, and beside other GPUs the CPU; tensorrt and openvino "
                    "stop with an error where they cannot run.",
                ),
            ],
            outputs=[Model.Output("model", display_name="model", tooltip="For DWPose Estimate.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, pose, detector):
        # Workflows name files of other people's folders; say what is missing instead of "value not in list".
        for kind, name in (("pose", pose), ("detector", detector)):
            if name is not None and name not in files.choices(kind) and files.find_file(name, kind) is None:
                home = files.home_of(kind)
                return f"There is no {kind} model {name!r} here. Put the file into models/{home}, or choose auto."
        return True

    @classmethod
    def fingerprint_inputs(cls, pose=None, detector=None, **_: Any):
        # What "auto" stands for changes when somebody follows its advice and puts a file into a folder.
        return digest(files.fingerprint("pose", pose) + files.fingerprint("detector", detector))

    @classmethod
    def execute(cls, pose, detector, precision, backend) -> io.NodeOutput:
        model = models.load(pose, detector, precision, backend)
        names = [network.path.stem for network in (model.pose, model.detector) if network is not None]
        return io.NodeOutput(model, ui=say(cls, model.note or " + ".join(names)))
