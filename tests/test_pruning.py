"""A trained network goes on as a smaller one: what counts is kept, in its place."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from dwpose_core.models.rtmcc import VARIANTS, DWPose, create_model
from dwpose_core.models.weights import load_pose
from training.growth import widened
from training.muon import MuonAdamW
from training.pruning import pruned


def same_logits(one: DWPose, other: DWPose) -> None:
    crops = torch.randn(2, 3, *one.config.input_size)
    with torch.no_grad():
        for mine, theirs in zip(one.eval()(crops), other.eval()(crops), strict=True):
            assert theirs.std() > 0.01
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_nothing_is_left_out_of_the_same_network():
    net = load_pose("dwpose-s-synthetic")
    same_logits(pruned(net, net.config, net.name), net)


def test_channels_that_nobody_reads_are_those_left_out():
    """A network grown wider reads none of its new channels, so pruned to its old width it is the old one."""
    net = load_pose("dwpose-nano")
    grown = widened(net, replace(net.config, widen=0.75), "wide")
    same_logits(pruned(grown, net.config, net.name), net)


def test_blocks_after_the_first_ones_are_left_out():
    """Residual blocks that add nothing are no loss."""
    torch.manual_seed(0)
    deep = load_pose("dwpose-s-synthetic")
    for stage in (deep.backbone.stage2, deep.backbone.stage3):
        for block in stage[-1].blocks[1:]:
            nn.init.zeros_(block.conv2.pointwise_conv.bn.weight)
            nn.init.zeros_(block.conv2.pointwise_conv.bn.bias)
    shallow = pruned(deep, replace(deep.config, deepen=0.167), "shallow")
    assert sum(p.numel() for p in shallow.parameters()) < sum(p.numel() for p in deep.parameters())
    same_logits(shallow, deep)


def test_the_student_of_a_catalogue_teacher_learns():
    net = load_pose("dwpose-s-synthetic")
    small = pruned(net, VARIANTS["dwpose-t"], "dwpose-t").train().to(memory_format=torch.channels_last)
    assert small.name == "dwpose-t" and small.config == VARIANTS["dwpose-t"]
    torch.testing.assert_close(small.head.cls_x.weight, net.head.cls_x.weight)
    crops = torch.randn(2, 3, 256, 192)
    optimizer = MuonAdamW(small, 1e-3, 1e-3, 0.0)
    sum(logits.square().mean() for logits in small(crops)).backward()
    optimizer.step(1.0)
    assert all(p.grad is not None and p.grad.abs().sum() for p in small.backbone.parameters())


@pytest.mark.parametrize("changes", [{"widen": 0.75}, {"deepen": 1.0}, {"tokens": 64}, {"input_size": (64, 64)}])
def test_networks_are_only_pruned_and_only_in_width_and_depth(changes):
    net = create_model("dwpose-nano")
    with pytest.raises(ValueError, match=r"only pruned|more than width and depth"):
        pruned(net, replace(net.config, **changes), "other")
