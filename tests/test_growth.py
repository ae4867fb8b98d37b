"""A trained network goes on as a larger one, and the mean of several."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from dwpose_core.models.rtmcc import VARIANTS, create_model
from dwpose_core.models.weights import load_pose
from training.growth import begin_backbone, deepened, enlarged, grown_as, hold_pixels, mean_weights, widened
from training.muon import MuonAdamW
from training.starter_weights import read_weights, save


def test_an_enlarged_network_goes_on_where_the_small_one_was():
    """The same tokens from an even map, and bin 2k of the classifiers is where bin k was."""
    torch.manual_seed(0)
    net = create_model("debug").eval()
    net.head.cls_x.weight.data.copy_(torch.sin(torch.linspace(0, 3, 128))[:, None].expand(-1, 32))
    grown = enlarged(net, (128, 128)).eval()
    assert grown.config.input_size == (128, 128)
    with torch.no_grad():
        assert [logits.shape for logits in grown(torch.randn(2, 3, 128, 128))] == [(2, 133, 256)] * 2
        small, large = (n.head.mlp(torch.ones(1, 133, cells)) for n, cells in ((net, 4), (grown, 16)))
    torch.testing.assert_close(large, small)
    torch.testing.assert_close(grown.head.cls_x.weight[::2], net.head.cls_x.weight, atol=0.02, rtol=0)


def test_a_wider_network_goes_on_where_the_narrow_one_was(tmp_path):
    """The same logits, by the statistics of the batch and by the running ones, and gradients for every weight."""
    torch.manual_seed(0)
    net = load_pose("dwpose-nano")
    grown = widened(net, VARIANTS["dwpose-micro"], "dwpose-micro")
    assert sum(p.numel() for p in grown.parameters()) > 2 * sum(p.numel() for p in net.parameters())
    crops = torch.randn(2, 3, 192, 144)
    for training in (False, True):
        net.train(training), grown.train(training)
        for mine, theirs in zip(grown(crops), net(crops), strict=True):
            assert theirs.std() > 0.01
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    optimizer = MuonAdamW(grown.to(memory_format=torch.channels_last), 1e-3, 1e-3, 0.0)
    for _ in range(3):  # what nobody reads has no gradient until it is read
        grown.zero_grad()
        sum(logits.square().sum() for logits in grown(crops)).backward()
        optimizer.step(1.0)
    still = [name for name, p in grown.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert not still
    save(net, tmp_path / "a.safetensors")
    again = read_weights(tmp_path / "a.safetensors", "dwpose-micro", (128, 96))
    assert (again.name, again.config.input_size, again.config.widen) == ("dwpose-micro", (128, 96), 0.75)


@pytest.mark.parametrize("changes", [{"widen": 0.25}, {"tokens": 64}, {"deepen": 0.33}, {"shared": 128}])
def test_networks_only_grow_and_only_in_width(changes):
    net = create_model("dwpose-nano")
    with pytest.raises(ValueError, match=r"only grow|more than its widths"):
        widened(net, replace(net.config, **changes), "other")


def test_a_deeper_network_goes_on_where_the_shallow_one_was():
    """Exactly where blocks add their input; the last stage's further blocks let nearly everything through."""
    torch.manual_seed(0)
    small = load_pose("dwpose-t-synthetic")
    third = replace(small.config, deepen=0.33)  # one more block in the second and third stage
    crops = torch.randn(2, 3, 256, 192)
    deeper = deepened(small, third, "deeper")
    assert len(deeper.backbone.stage3[-1].blocks) == 2
    for training in (False, True):
        for mine, theirs in zip(deeper.train(training)(crops), small.train(training)(crops), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    small.eval()
    large = grown_as(small, VARIANTS["dwpose-m"], "dwpose-m").eval()
    assert len(large.backbone.stage4[-1].blocks) == 2
    with torch.no_grad():
        for mine, theirs in zip(large(crops), small(crops), strict=True):
            rows = torch.stack((mine.flatten(), theirs.flatten()))
            assert torch.corrcoef(rows)[0, 1] > 0.9
    large.train()(crops)[0].square().sum().backward()
    assert large.backbone.stage4[-1].blocks[1].conv1.conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{"deepen": 0.05}, {"widen": 0.75}])
def test_networks_only_get_deeper(changes):
    net = create_model("dwpose-s")
    with pytest.raises(ValueError, match=r"only grow|more than its depth"):
        deepened(net, replace(net.config, **changes), "other")


def test_a_backbone_begins_as_another_ones():
    """dwpose-s computes dwpose-nano's first two stages; its further blocks start as the identity."""
    torch.manual_seed(0)
    nano, net = create_model("dwpose-nano").eval(), create_model("dwpose-s").eval()
    for module in nano.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    before = copy.deepcopy(net)
    images = torch.randn(1, 3, 64, 64)
    taken = begin_backbone(net, nano)
    features = {n: n.backbone.stage2(n.backbone.stage1(n.backbone.stem(images))) for n in (nano, net, before)}
    torch.testing.assert_close(features[net], features[nano])
    assert not torch.allclose(features[before], features[nano])
    assert taken == sum(not name.startswith("stage3.1.") for name in nano.backbone.state_dict())  # its pooling
    torch.testing.assert_close(net.backbone.stage4.state_dict(), before.backbone.stage4.state_dict())


def test_what_reads_pixels_may_stay_as_it_is():
    net = create_model("dwpose-nano").to(memory_format=torch.channels_last).train()
    hold_pixels(net.backbone)
    before = copy.deepcopy(net.state_dict())
    optimizer = MuonAdamW(net, 1e-2, 1e-2, 0.1)
    sum(logits.square().sum() for logits in net(torch.randn(2, 3, 192, 144))).backward()
    optimizer.step(1.0)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("backbone.stem", "backbone.stage1")) for name in moved)
    assert {"backbone.stage2.0.conv.weight", "backbone.stage2.0.bn.running_mean", "head.cls_x.weight"} <= moved


def test_stretches_of_one_training_are_averaged():
    torch.manual_seed(0)
    nets = [create_model("dwpose-nano") for _ in range(3)]
    for count, net in enumerate(nets):
        net.backbone.stem[0].bn.num_batches_tracked.fill_(count)
        net.backbone.stem[0].bn.running_mean.fill_(count)
    mean = mean_weights(nets)
    weights = torch.stack([net.head.cls_x.weight for net in nets])
    torch.testing.assert_close(mean.head.cls_x.weight, weights.mean(0))
    assert mean.backbone.stem[0].bn.running_mean.unique().tolist() == [1.0]
    assert mean.backbone.stem[0].bn.num_batches_tracked == 2, "the last one's"
    with pytest.raises(ValueError, match=r"dwpose-nano for \(192, 144\), dwpose-s for \(256, 192\) have no mean"):
        mean_weights([nets[0], create_model("dwpose-s")])


def test_only_the_same_width_begins_a_backbone():
    with pytest.raises(ValueError, match="same width"):
        begin_backbone(create_model("dwpose-t"), create_model("dwpose-nano"))
