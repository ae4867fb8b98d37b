"""DWPose Loader: networks from ComfyUI's folders or the hub."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from . import models
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
                    options=models.choices("pose"),
                    default=models.AUTO,
                    tooltip="Pose network. auto: dwpose-l-384 if it is there or can be downloaded, else another file "
                    "that is there, else the small starter model of this pack. Files go into models/dwpose.",
                ),
                io.Combo.Input(
                    "detector",
                    options=models.choices("detector"),
                    default=models.AUTO,
                    tooltip="Person detector. auto: yolox-l if it is there or can be downloaded, else another YOLOX "
                    "file, else the small one of this pack. none: the whole image is searched for one person. Files go "
                    "into models/detection.",
                ),
                io.Combo.Input(
                    "precision",
                    options=[models.AUTO, *models.PRECISIONS],
                    default=models.AUTO,
                    tooltip="Arithmetic of the torch backend. auto: half precision where the device is good at it.",
                ),
                io.Combo.Input(
                    "backend",
                    options=["torch", "onnxruntime", "tensorrt", "openvino"],
                    default="torch",
                    tooltip="torch runs every file on every device and shares memory with your other models. The "
                    "others need onnxruntime and .onnx files, and never fall back to the CPU silently.",
                ),
            ],
            outputs=[Model.Output("model", display_name="model", tooltip="For DWPose Estimate.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, pose, detector):
        # Workflows name files of other people's folders; say what is missing instead of "value not in list".
        for kind, name in (("pose", pose), ("detector", detector)):
            if name not in models.choices(kind) and models.find_file(name) is None:
                folder = models.POSE_FOLDER if kind == "pose" else models.DETECTOR_FOLDER
                return f"There is no {kind} model {name!r} here. Put the file into models/{folder}, or choose auto."
        return True

    @classmethod
    def execute(cls, pose, detector, precision, backend) -> io.NodeOutput:
        model = models.load(pose, detector, precision, backend)
        say(cls, model.note)
        return io.NodeOutput(model, ui={"text": (model.note,)} if model.note else None)
