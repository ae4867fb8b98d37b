"""Which network is this: configurations from the shapes of weights, never from file names."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from . import rtmcc, yolox
from .rtmcc import PoseConfig
from .yolox import YOLOXConfig

STAGE_BLOCKS = (3, 6, 6, 3)  # CSP blocks per stage at deepen = 1 (CSPNeXt, arXiv 2212.07784)


def pose_config(
    blocks: list[int], final: tuple[int, ...], tokens: int, shared: int, bins: tuple[int, int]
) -> PoseConfig:
    """A pose network from its CSP blocks per stage, the shape of `final_layer.weight` and the widths of its head.

    Args:
        blocks: CSP blocks of each stage.
        final: (K, C, k, k) of the convolution that makes the keypoint maps.
        bins: rows of cls_x and cls_y; two bins are one pixel.

    Raises:
        ValueError: where no depth multiplier gives these blocks.
    """
    stages = len(blocks)
    known = [config.deepen for config in rtmcc.VARIANTS.values()]
    # An unknown depth is a whole number of blocks over the six of the second or the three of the first stage.
    candidates = known + [n / base for n, base in zip(blocks, STAGE_BLOCKS, strict=False)]
    fitting = (
        deepen for deepen in candidates if [max(round(n * deepen), 1) for n in STAGE_BLOCKS[:stages]] == list(blocks)
    )
    deepen = next(fitting, None)
    if deepen is None or stages not in (3, 4):
        raise ValueError(f"no CSPNeXt has {blocks} blocks in its stages")
    stride = 2 ** (stages + 1)
    if any(n % (2 * stride) for n in bins):
        raise ValueError(f"its cls_x and cls_y have {bins[0]} and {bins[1]} rows, not multiples of {2 * stride}")
    num_keypoints, channels, kernel, _ = (int(n) for n in final)
    return PoseConfig(
        deepen=deepen,
        widen=channels / (64 * 2**stages),
        input_size=(bins[1] // 2, bins[0] // 2),
        stages=stages,
        tokens=int(tokens),
        shared=int(shared),
        kernel=kernel,
        num_keypoints=num_keypoints,
    )


def pose_config_of(state: dict[str, torch.Tensor]) -> PoseConfig:
    """A pose network from its state dict. Raises ValueError where keys are missing."""
    stages = len({key.split(".")[1] for key in state if key.startswith("backbone.stage")})
    blocks = []
    for stage in range(1, stages + 1):
        numbers = {
            key.split(".blocks.")[1].split(".")[0]
            for key in state
            if key.startswith(f"backbone.stage{stage}.") and ".blocks." in key
        }
        blocks.append(len(numbers))
    try:
        return pose_config(
            blocks=blocks,
            final=tuple(state["head.final_layer.weight"].shape),
            tokens=state["head.mlp.1.weight"].shape[0],
            shared=state["head.gau.gamma"].shape[1],
            bins=(state["head.cls_x.weight"].shape[0], state["head.cls_y.weight"].shape[0]),
        )
    except KeyError as error:
        raise ValueError(f"no {error.args[0]} in it") from error
    except IndexError as error:
        raise ValueError("its head has tensors with fewer axes") from error


CSPNEXT_STEM = "backbone.backbone.pose.stem.0.conv.weight"  # of a YOLOX on CSPNeXt


def yolox_config(
    stem: int, classes: int, depthwise: bool, convolutions: int, input_size: tuple[int, int] | None = None
) -> YOLOXConfig:
    """A YOLOX from the channels of its stem and the number of its convolutions.

    Without `input_size` the size of the published variant is taken: 416 for nano and tiny, 640 for the others.

    Raises:
        ValueError: where no depth multiplier gives this many convolutions.
    """
    width = stem / 64
    plain = [c for c in yolox.VARIANTS.values() if not c.cspnext]
    known = [c for c in plain if (c.width, c.depthwise) == (width, depthwise)]
    depths = [c.depth for c in known] + [n / 3 for n in range(1, 7)]
    for depth in depths:
        config = YOLOXConfig(depth, width, depthwise, num_classes=classes)
        with torch.device("meta"):
            found = sum(isinstance(module, nn.Conv2d) for module in yolox.YOLOX(config).modules())
        if found == convolutions:
            published = next((c.input_size for c in known if c.depth == depth), (640, 640))
            return YOLOXConfig(depth, width, depthwise, input_size or published, classes)
    raise ValueError(f"no YOLOX with {stem} channels in its stem has {convolutions} convolutions")


def yolox_config_of(state: dict[str, torch.Tensor]) -> YOLOXConfig:
    """A YOLOX from its state dict. Raises ValueError where keys are missing."""
    try:
        if CSPNEXT_STEM in state:
            return _cspnext_config_of(state)
        return yolox_config(
            stem=state["backbone.backbone.stem.conv.conv.weight"].shape[0],
            classes=state["head.cls_preds.0.weight"].shape[0],
            depthwise=any(".dconv." in key for key in state),
            convolutions=sum(value.ndim == 4 for value in state.values()),
        )
    except KeyError as error:
        raise ValueError(f"no {error.args[0]} in it") from error
    except IndexError as error:
        raise ValueError("its stem or its head has tensors with fewer axes") from error


def _cspnext_config_of(state: dict[str, torch.Tensor]) -> YOLOXConfig:
    """Of the variants on CSPNeXt the one whose shapes these are, for any number of classes."""
    classes = state["head.cls_preds.0.weight"].shape[0]
    for published in yolox.VARIANTS.values():
        if published.cspnext:
            config = replace(published, num_classes=classes)
            with torch.device("meta"):
                shapes = {key: value.shape for key, value in yolox.YOLOX(config).state_dict().items()}
            if shapes == {key: value.shape for key, value in state.items()}:
                return config
    raise ValueError("no YOLOX on CSPNeXt has these weights")


def name_of(config: PoseConfig | YOLOXConfig) -> str:
    """The published name of a configuration, or "custom". A detector's input size does not change its name."""
    if isinstance(config, PoseConfig):
        return next((name for name, known in rtmcc.VARIANTS.items() if known == config), "custom")

    def shape(c: YOLOXConfig) -> tuple:
        return c.depth, c.width, c.depthwise, c.cspnext

    return next((name for name, known in yolox.VARIANTS.items() if shape(known) == shape(config)), "custom")
