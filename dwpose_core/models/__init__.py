"""Networks in plain PyTorch, one architecture per file; weights and their catalogue beside them."""

from .rtmcc import DWPose, PoseConfig, create_model
from .yolox import YOLOX, YOLOXConfig, create_detector

__all__ = ["YOLOX", "DWPose", "PoseConfig", "YOLOXConfig", "create_detector", "create_model"]
