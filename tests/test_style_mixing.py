"""MixStyle: pictures wear the statistics of others, and nothing else of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from training.detection.start import DetectorConfig, create, early_layers
from training.style_mixing import StyleMixing, mix_styles


@pytest.fixture
def features() -> torch.Tensor:
    """16 pictures of 3 channels, each with its own mean and deviation."""
    random = torch.Generator().manual_seed(0)
    styles = torch.rand(2, 16, 3, 1, 1, generator=random) * 4 + 1
    return torch.randn(16, 3, 8, 8, generator=random) * styles[0] + styles[1]


def normalised(features: torch.Tensor) -> torch.Tensor:
    variance, mean = torch.var_mean(features, dim=(2, 3), keepdim=True)
    return (features - mean) / variance.sqrt()


def test_styles_are_those_of_the_batch_and_what_is_shown_stays(features):
    mixed = mix_styles(features, 1.0, np.random.default_rng(1))
    torch.testing.assert_close(normalised(mixed), normalised(features), atol=1e-4, rtol=1e-4)
    means, found = features.mean((2, 3)), mixed.mean((2, 3))
    low, high = means.amin(0), means.amax(0)
    assert ((found >= low - 1e-4) & (found <= high + 1e-4)).all(), "between two pictures' own"
    changed = (found - means).abs().amax(1) > 0.01
    assert 4 < changed.sum() < 16, "half of the shares are nearly 1, and some are mixed with themselves"
    # A mixed channel lies as far between the two pictures in its mean as in its deviation, for all channels.
    assert (torch.cdist(found, means).amin(1) < 0.05).sum() > 8, "most wear one style or the other (ALPHA is small)"


@pytest.mark.parametrize(("share", "expected"), [(0.0, (0, 0)), (0.3, (1, 60)), (1.0, (60, 160))])
def test_the_share_of_the_pictures(features, share, expected):
    count = 0
    for seed in range(10):
        mixed = mix_styles(features, share, np.random.default_rng(seed))
        count += int((mixed - features).abs().amax((1, 2, 3)).gt(0.01).sum())
    assert expected[0] <= count <= expected[1]


def test_gradients_go_through_the_picture_not_its_statistics(features):
    features.requires_grad_()
    (mix_styles(features, 1.0, np.random.default_rng(1)) * 3).sum().backward()
    own = features.grad[:, :, :1, :1]
    torch.testing.assert_close(features.grad, own.expand_as(features.grad))  # the same for every pixel
    assert (features.grad > 0).all()


def test_it_depends_on_seed_and_step_alone(features):
    layer = nn.Identity()
    styles = StyleMixing([layer], 0.5, (1, 0))
    styles.begin(7)
    first = layer(features)
    assert not torch.equal(layer(features), first), "drawn anew for every layer"
    styles.begin(7)
    torch.testing.assert_close(layer(features), first, atol=0, rtol=0)
    untouched = nn.Identity()
    StyleMixing([untouched], 0.0, (1, 0))
    torch.testing.assert_close(untouched(features), features, atol=0, rtol=0)


@pytest.mark.parametrize("network", ["yolox-cspnext-nano", "yolox-nano"])
def test_early_layers_end_at_strides_4_and_8(network):
    net, strides = create(DetectorConfig(network=network)).eval(), []
    for layer in early_layers(net):
        layer.register_forward_hook(lambda layer, inputs, output: strides.append(64 // output.shape[-1]))
    with torch.no_grad():
        net.backbone(torch.zeros(1, 3, 64, 64))
    assert strides == [4, 8]
