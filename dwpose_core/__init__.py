"""DWPose whole-body pose estimation in plain PyTorch."""

__version__ = "0.1.0"
