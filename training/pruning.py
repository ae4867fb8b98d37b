"""A trained network goes on as a smaller one: a student that begins as what matters most of its teacher.

Channels and whole residual blocks are left out, and the rest keeps its weights. It does not compute what the teacher
does, but learns to within a fraction of the time that a beginning from random weights takes. A channel counts for the
scale of its BatchNorm (Liu et al., Network Slimming, arXiv 1708.06519) times the size of the weights that read it.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from dwpose_core.models.cspnext import ConvBNAct, CSPLayer, SPPBottleneck
from dwpose_core.models.rtmcc import DWPose, PoseConfig

Kept = torch.Tensor  # (n,) channels that stay, ascending


@torch.no_grad()
def pruned(net: DWPose, config: PoseConfig, name: str) -> DWPose:
    """A network of `config` from the strongest channels of `net`, with its head.

    Raises:
        ValueError: where `config` has more channels or blocks, or differs in more than `widen` and `deepen`.
    """
    if replace(config, widen=net.config.widen, deepen=net.config.deepen) != net.config:
        raise ValueError(f"{name} differs from {net.name} in more than width and depth; start from another network")
    if config.widen > net.config.widen or config.deepen > net.config.deepen:
        raise ValueError(f"{name} is larger than {net.name}, and networks are only pruned; start from another network")
    small = DWPose(config, name)
    old, new = net.backbone, small.backbone
    layers = [*zip(old.stem, new.stem, strict=True)]
    for stage in range(1, old.num_stages + 1):
        layers += zip(getattr(old, f"stage{stage}"), getattr(new, f"stage{stage}"), strict=True)
    readers = [_first_weights(layer) for layer, _ in layers[1:]] + [[net.head.final_layer.weight]]
    kept = torch.arange(3)
    for (source, target), read_by in zip(layers, readers, strict=True):
        kept = _SHRINK[type(source)](source, target, kept, read_by)
    head = {k: v for k, v in net.head.state_dict().items() if k != "final_layer.weight"}
    small.head.load_state_dict(head | {"final_layer.weight": net.head.final_layer.weight[:, kept]})
    return small


def _first_weights(layer: nn.Module) -> list[torch.Tensor]:
    """Weights (out, in, k, k) that read the input of a layer of the backbone."""
    if isinstance(layer, CSPLayer):
        return [layer.main_conv.conv.weight, layer.short_conv.conv.weight]
    return [(layer.conv1 if isinstance(layer, SPPBottleneck) else layer).conv.weight]


def _strongest(layers: list[ConvBNAct], count: int, read_by: list[torch.Tensor]) -> Kept:
    """The `count` channels that count most; several `layers` write them where there are residual connections."""
    scale = torch.stack([layer.bn.weight.abs() for layer in layers]).sum(0)
    reading = torch.stack([weight.square().sum((0, 2, 3)) for weight in read_by]).sum(0).sqrt()
    return (scale * reading).topk(count).indices.sort().values


def _copy(source: ConvBNAct, target: ConvBNAct, kept_out: Kept, kept_in: Kept | None) -> None:
    """`kept_in` is None for a depthwise convolution."""
    weight = source.conv.weight[kept_out]
    target.conv.weight.copy_(weight if kept_in is None else weight[:, kept_in])
    for field in ("weight", "bias", "running_mean", "running_var"):
        getattr(target.bn, field).copy_(getattr(source.bn, field)[kept_out])


def _shrink_conv(source: ConvBNAct, target: ConvBNAct, kept: Kept, read_by: list[torch.Tensor]) -> Kept:
    chosen = _strongest([source], target.bn.num_features, read_by)
    _copy(source, target, chosen, kept)
    return chosen


def _shrink_pyramid(source: SPPBottleneck, target: SPPBottleneck, kept: Kept, read_by: list[torch.Tensor]) -> Kept:
    before, after = source.conv1.bn.num_features, target.conv1.bn.num_features
    runs = source.conv2.conv.weight.split(before, dim=1)  # the map and its three maxima
    half = _strongest([source.conv1], after, list(runs))
    _copy(source.conv1, target.conv1, half, kept)
    chosen = _strongest([source.conv2], target.conv2.bn.num_features, read_by)
    _copy(source.conv2, target.conv2, chosen, torch.cat([half + run * before for run in range(len(runs))]))
    return chosen


def _shrink_csp(source: CSPLayer, target: CSPLayer, kept: Kept, read_by: list[torch.Tensor]) -> Kept:
    before, after = source.main_conv.bn.num_features, target.main_conv.bn.num_features
    of_main, of_short = source.final_conv.conv.weight.split(before, dim=1)
    blocks = list(zip(source.blocks, target.blocks, strict=False))  # the target may have fewer
    residual = source.blocks[0].residual
    firsts = [block.conv1.conv.weight for block, _ in blocks]
    lasts = [block.conv2.pointwise_conv for block, _ in blocks]
    written_by, read = (
        ([source.main_conv, *lasts], [*firsts, of_main]) if residual else ([source.main_conv], firsts[:1])
    )
    main = _strongest(written_by, after, read)
    _copy(source.main_conv, target.main_conv, main, kept)
    for number, (block, smaller) in enumerate(blocks):
        deep, point = block.conv2.depthwise_conv, block.conv2.pointwise_conv
        inner = _strongest([block.conv1], after, [point.conv.weight * deep.bn.weight[:, None, None]])
        _copy(block.conv1, smaller.conv1, inner, main)
        _copy(deep, smaller.conv2.depthwise_conv, inner, None)
        if not residual:
            main = _strongest([point], after, firsts[number + 1 : number + 2] or [of_main])
        _copy(point, smaller.conv2.pointwise_conv, main, inner)
    short = _strongest([source.short_conv], after, [of_short])
    _copy(source.short_conv, target.short_conv, short, kept)
    joined = torch.cat((main, short + before))
    target.attention.fc.weight.copy_(source.attention.fc.weight[joined][:, joined])
    target.attention.fc.bias.copy_(source.attention.fc.bias[joined])
    chosen = _strongest([source.final_conv], target.final_conv.bn.num_features, read_by)
    _copy(source.final_conv, target.final_conv, chosen, joined)
    return chosen


_SHRINK = {ConvBNAct: _shrink_conv, SPPBottleneck: _shrink_pyramid, CSPLayer: _shrink_csp}
