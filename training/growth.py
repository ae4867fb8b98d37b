"""A trained network goes on as a larger one: for larger crops, with more channels, or as another one's first stages.

The first two keep all that the small network has learnt; a wider one computes the very same logits before its first
step, a deeper one nearly. The third hands on its backbone only. What has learnt to read pixels may stay as it is
(`hold_pixels`), and stretches of one training may be averaged (`mean_weights`), or what one has learnt added to another
(`add_difference`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

from dwpose_core.models.cspnext import CSPLayer, CSPNeXt, CSPNeXtBlock, SPPBottleneck
from dwpose_core.models.rtmcc import DWPose, PoseConfig
from dwpose_core.models.yolox import YOLOX

Network = TypeVar("Network", DWPose, YOLOX)
PASSING = 2.0  # what a block that passes on multiplies by before its SiLUs


def enlarged(net: DWPose, size: tuple[int, int]) -> DWPose:
    """The same network for crops of another `size` (H, W), to go on training with.

    Layers tied to the size are interpolated: token weights as maps of the crop, classifiers along their bins.
    """
    grown = DWPose(replace(net.config, input_size=size), net.name)
    state = net.state_dict()
    stride = net.backbone.stride
    old, new = (tuple(side // stride for side in s) for s in (net.config.input_size, size))
    tokens = state["head.mlp.1.weight"].float()
    maps = F.interpolate(tokens.unflatten(1, old)[None], size=new, mode="bilinear", align_corners=False)[0]
    # More cells are summed: smaller weights keep the token's size.
    state["head.mlp.1.weight"] = maps.flatten(1) * (old[0] * old[1] / (new[0] * new[1]))
    for axis, side in (("x", size[1]), ("y", size[0])):
        bins = state[f"head.cls_{axis}.weight"].float().T[None]
        resized = F.interpolate(bins, size=2 * side, mode="linear", align_corners=False)
        state[f"head.cls_{axis}.weight"] = resized[0].T.contiguous()
    grown.load_state_dict(state)
    return grown


def widened(net: DWPose, config: PoseConfig, name: str) -> DWPose:
    """A network of `config` that computes what `net` does; its additional channels start random and unread.

    Each layer holds the old weights where its inputs and outputs are old ones. New outputs keep their random weights,
    and old outputs have weight 0 for new inputs, which training changes at once. The width of the tokens is the one
    exception: their norm runs over all of it, so new tokens start as 0, are read at random, and the norm's gain makes
    up for the larger width.

    Raises:
        ValueError: where `config` has fewer channels, or differs in more than widths.
    """
    same = replace(config, widen=net.config.widen, tokens=net.config.tokens)
    if same != net.config:
        raise ValueError(f"{name} differs from {net.name} in more than its widths; start from another network")
    if config.widen < net.config.widen or config.tokens < net.config.tokens:
        raise ValueError(f"{name} is narrower than {net.name}, and networks only grow; start from another network")
    grown = DWPose(config, name)
    old, new = dict(net.named_modules()), dict(grown.named_modules())
    with torch.no_grad():
        for path, source in old.items():
            if isinstance(source, nn.Conv2d):
                parts = _joined(old, path)
                outputs = parts if path.endswith("attention.fc") else 1  # it weighs its own inputs
                _place(source.weight, new[path].weight, outputs, parts)
                if source.bias is not None:
                    _spread(source.bias, new[path].bias, outputs)
            elif isinstance(source, nn.BatchNorm2d):
                for field in ("weight", "bias", "running_mean", "running_var"):
                    _spread(getattr(source, field), getattr(new[path], field), 1)
        _widen_head(net.head, grown.head)
    return grown


@torch.no_grad()
def deepened(net: DWPose, config: PoseConfig, name: str) -> DWPose:
    """A network of `config` whose further blocks pass on what they are given.

    Where the input of a block is added back that is exact. The last stage has no such connections: a further block
    there is as near to the identity as three SiLUs let it be, and training must mend the rest.

    Raises:
        ValueError: where `config` has fewer blocks, or differs in more than depth.
    """
    if replace(config, deepen=net.config.deepen) != net.config:
        raise ValueError(f"{name} differs from {net.name} in more than its depth; start from another network")
    if config.deepen < net.config.deepen:
        raise ValueError(f"{name} is shallower than {net.name}, and networks only grow; start from another network")
    grown = DWPose(config, name)
    grown.load_state_dict(grown.state_dict() | net.state_dict())
    for number in range(1, net.backbone.num_stages + 1):
        new, old = (getattr(n.backbone, f"stage{number}")[-1] for n in (grown, net))
        for before, block in pairwise(list(new.blocks)[len(old.blocks) - 1 :]):
            if block.residual:
                nn.init.zeros_(block.conv2.pointwise_conv.bn.weight)
            else:
                _pass_on(block, before.conv2.pointwise_conv.bn)
    return grown


def grown_as(net: DWPose, config: PoseConfig, name: str) -> DWPose:
    """`net` with the width and then the depth of `config`. Raises ValueError as `widened` and `deepened` do."""
    return deepened(widened(net, replace(config, deepen=net.config.deepen), name), config, name)


def begin_backbone(net: DWPose, trained: DWPose) -> int:
    """Give `net` the stem and first three stages of a `trained` network of the same width; returns its tensors taken.

    A stage of more blocks begins with the trained ones, and its other blocks as the identity. Where the third stage is
    the trained network's last it has pyramid pooling and no residual connections, which `net` does without: that stage
    is a beginning, the ones before it compute what they did.

    Raises:
        ValueError: where the widths differ.
    """
    if net.config.widen != trained.config.widen:
        raise ValueError(
            f"{net.name} has {net.config.widen} times CSPNeXt's channels and {trained.name} {trained.config.widen}; "
            "only a network of the same width can begin its backbone"
        )
    state, taken = net.backbone.state_dict(), 0
    for name, value in trained.backbone.state_dict().items():
        if trained.config.stages == 3 < net.config.stages:
            name = name.replace("stage3.2.", "stage3.1.") if name.startswith("stage3.2.") else name
        if name in state and state[name].shape == value.shape and not name.startswith("stage4"):
            state[name], taken = value, taken + 1
    net.backbone.load_state_dict(state)
    for number in range(1, 4):
        more, fewer = (dict(n.backbone.named_modules())[f"stage{number}"][-1].blocks for n in (net, trained))
        for block in more[len(fewer) :]:
            nn.init.zeros_(block.conv2.pointwise_conv.bn.weight)
    return taken


@torch.no_grad()
def add_difference(net: nn.Module, before: nn.Module, after: nn.Module) -> None:
    """Move the weights of `net`, which began as those of `before`, by what `after` has learnt since.

    Task arithmetic (Ilharco et al., arXiv 2212.04089). Batch norm keeps its statistics: training on renews them.
    """
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    for name, parameter in net.named_parameters():
        parameter += (new[name].float() - old[name].float()).to(parameter)


def _pass_on(block: CSPNeXtBlock, before: nn.BatchNorm2d) -> None:
    """Make a block without residual connection nearly the identity for what follows the SiLU after `before`.

    Its convolutions become the identity. SiLU is nearly linear for positive numbers that are large enough, so the first
    norm multiplies by PASSING; the last one brings back what came out of `before`, by least squares. Distributions
    are those of `before`: normal, with its bias as mean and its weight as deviation.
    """
    spread = torch.erfinv(torch.linspace(-0.99, 0.99, 199))[:, None] * 2**0.5
    wanted = before.bias + before.weight.abs() * spread  # (199, C)
    layers = block.conv1, block.conv2.depthwise_conv, block.conv2.pointwise_conv
    now = F.silu(wanted)
    for layer, scale in zip(layers, (PASSING, 1.0, None), strict=True):
        nn.init.zeros_(layer.conv.weight)
        middle = layer.conv.kernel_size[0] // 2
        index = torch.arange(len(layer.conv.weight))
        layer.conv.weight[index, 0 if layer.conv.groups > 1 else index, middle, middle] = 1.0
        mean, deviation = now.mean(0), (now.var(0, correction=0) + layer.bn.eps).sqrt()
        layer.bn.running_mean.copy_(mean)
        layer.bn.running_var.copy_(now.var(0, correction=0))
        normed = (now - mean) / deviation
        layer.bn.weight.copy_((normed * wanted).mean(0) if scale is None else scale * deviation)
        layer.bn.bias.copy_(wanted.mean(0) if scale is None else scale * mean)
        now = F.silu(normed * layer.bn.weight + layer.bn.bias)


def _joined(modules: dict[str, nn.Module], path: str) -> int:
    """How many equally wide maps were joined to make the input of the convolution at `path`."""
    owner = modules[path.rsplit(".", 2)[0]]
    if isinstance(owner, CSPLayer) and path.endswith(("final_conv.conv", "attention.fc")):
        return 2
    return 4 if isinstance(owner, SPPBottleneck) and path.endswith("conv2.conv") else 1


def _runs(old: int, new: int, parts: int) -> torch.Tensor:
    """Where `old` channels in `parts` equal runs lie among `new` ones in as many."""
    return (torch.arange(parts)[:, None] * (new // parts) + torch.arange(old // parts)).flatten()


def _spread(source: torch.Tensor, target: torch.Tensor, parts: int) -> None:
    target[_runs(len(source), len(target), parts)] = source


def _place(source: torch.Tensor, target: torch.Tensor, out_parts: int, in_parts: int) -> None:
    """Old weights (out, in, ...) into `target`; old outputs do not read new inputs."""
    rows = _runs(len(source), len(target), out_parts)
    columns = _runs(source.shape[1], target.shape[1], in_parts)
    target[rows] = 0
    target[rows[:, None], columns] = source


def _widen_head(source: nn.Module, target: nn.Module) -> None:
    old, new = source.gau, target.gau
    width = old.o.out_features
    for axis in "xy":
        getattr(target, f"cls_{axis}").weight[:, :width] = getattr(source, f"cls_{axis}").weight
    target.mlp[0].g.copy_(source.mlp[0].g)
    target.mlp[1].weight.zero_()
    target.mlp[1].weight[:width] = source.mlp[1].weight
    new.ln.g.copy_(old.ln.g * (width / new.o.out_features) ** 0.5)
    new.res_scale.scale[:width] = old.res_scale.scale
    new.gamma.copy_(old.gamma)
    new.beta.copy_(old.beta)
    # Outputs of uv: u and v, expanded each, and the shared base behind them.
    gated = _runs(2 * old.expanded, 2 * new.expanded, 2)
    base = torch.arange(old.shared) + 2 * new.expanded
    new.uv.weight[torch.cat((gated, base)), :width] = old.uv.weight
    new.o.weight.zero_()
    new.o.weight[:width, : old.expanded] = old.o.weight


def hold_pixels(backbone: CSPNeXt) -> None:
    """Keep stem and first stage as they are, in training too. Most time per weight goes there, to large maps."""
    for part in (backbone.stem, backbone.stage1):
        part.requires_grad_(False).eval()


def mean_weights(nets: Sequence[Network]) -> Network:
    """A network with the mean of the weights and statistics of several that went on from one another.

    Wortsman et al., Model soups (arXiv 2203.05482). Those in one valley of the loss only: not of separate beginnings.

    Raises:
        ValueError: when they are not the same network.
    """
    if len({(net.name, net.config) for net in nets}) != 1:
        found = ", ".join(f"{net.name} for {net.config.input_size}" for net in nets)
        raise ValueError(f"weights of {found} have no mean; give files of one network and input size")
    states = [net.state_dict() for net in nets]
    last = states[-1]  # counts batches
    mean = {k: sum(s[k] for s in states) / len(states) if v.is_floating_point() else v for k, v in last.items()}
    net = copy.deepcopy(nets[-1])
    net.load_state_dict(mean)
    return net
