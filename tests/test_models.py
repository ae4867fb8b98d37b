"""The pose networks against the original's numbers, and every variant against the published tables."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from dwpose_core import simcc
from dwpose_core.models import DWPose, PoseConfig, create_detector, create_model, rtmcc, yolox
from dwpose_core.models.infer import name_of, pose_config_of, yolox_config_of

# What the official configs normalise with, RGB (ImageNet statistics of mmpose).
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)

# Parameters of backbone and head; 256 x 192 unless the name says otherwise (DWPose technical facts, table of sizes).
PARAMETERS = {
    "dwpose-t": 5_519_779,
    "dwpose-s": 8_383_575,
    "dwpose-m": 17_953_039,
    "dwpose-l": 33_480_871,
    "dwpose-l-384": 33_610_919,
    "rtmpose-x": 56_579_871,
    "rtmpose-x-384": 56_709_919,
}


def on_meta(name: str) -> torch.nn.Module:
    """Shapes without memory."""
    with torch.device("meta"):
        return create_model(name) if name in rtmcc.VARIANTS else create_detector(name)


@pytest.fixture(scope="module", params=["t", "l"])
def forward(request, shared, fill):
    """(golden, network, crops): the network filled by the rule of the goldens, the two golden images normalised."""
    golden = np.load(shared / "golden" / f"forward_{request.param}.npz")
    model = fill.fill_module(create_model(f"dwpose-{request.param}")).eval()
    images = [fill.seeded_image(f"forward/input/{i}", 256, 192)[..., ::-1] for i in range(2)]  # BGR -> RGB
    crops = torch.from_numpy(np.stack([((image - MEAN) / STD).transpose(2, 0, 1) for image in images]))
    return golden, model, crops


def test_forward_golden(forward):
    golden, model, crops = forward
    np.testing.assert_allclose(crops.mean((2, 3)), golden["input_mean"], atol=1e-4)
    seen: dict[str, torch.Tensor] = {}
    stages = {"stem": model.backbone.stem, **{f"stage{i}": getattr(model.backbone, f"stage{i}") for i in range(1, 5)}}
    for name, module in {
        **stages,
        "final_layer": model.head.final_layer,
        "mlp": model.head.mlp,
        "gau": model.head.gau,
    }.items():
        module.register_forward_hook(lambda _, __, out, name=name: seen.__setitem__(name, out))
    with torch.inference_mode():
        x, y = model(crops)
    for name, value in seen.items():
        np.testing.assert_allclose(value.flatten(1).mean(1), golden[f"{name}_mean"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(value.flatten(1).std(1, correction=0), golden[f"{name}_std"], rtol=1e-4)
        np.testing.assert_allclose(value.flatten()[golden[f"{name}_probe_idx"]], golden[f"{name}_probe_val"], atol=1e-4)
    np.testing.assert_allclose(x, golden["simcc_x"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(y, golden["simcc_y"], rtol=0, atol=2e-5)


def test_keypoints_golden(forward):
    """Keypoints of the original's `predict`, without and with its flip test."""
    golden, model, crops = forward
    with torch.inference_mode():
        plain, mirrored = model(crops), model(crops.flip(-1))
    flipped = simcc.flip_average(plain, mirrored, corrected=False)
    for tag, logits in (("noflip", plain), ("flip", flipped)):
        xy, score = simcc.decode(*logits)
        clear = golden[f"margin_{tag}"] > 1e-3  # elsewhere two bins are as good as equal
        assert clear.mean() > 0.8
        np.testing.assert_array_equal(xy[clear], golden[f"keypoints_{tag}"][clear])
        np.testing.assert_allclose(score, golden[f"scores_{tag}"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size"),
    [("dwpose-t", "t"), ("dwpose-s", "s"), ("dwpose-m", "m"), ("dwpose-l", "l"), ("rtmpose-x", "x")],
)
def test_state_dict_is_the_official_one(shared, name, size):
    wanted = json.loads((shared / "golden" / f"state_dict_keys_{size}.json").read_text())
    found = {k: [list(v.shape), str(v.dtype).removeprefix("torch.")] for k, v in on_meta(name).state_dict().items()}
    assert found == {key: [shape, dtype] for key, shape, dtype in wanted}


def test_state_dict_of_the_384_head(shared):
    wanted = json.loads((shared / "golden" / "state_dict_keys_l384_head.json").read_text())
    state = on_meta("dwpose-l-384").state_dict()
    assert {k: list(v.shape) for k, v in state.items() if k.startswith("head.")} == {k: s for k, s, _ in wanted}
    other = on_meta("dwpose-l").state_dict()
    assert {k for k in state if state[k].shape != other[k].shape} == {
        "head.mlp.1.weight",
        "head.cls_x.weight",
        "head.cls_y.weight",
    }


@pytest.mark.parametrize("name", rtmcc.VARIANTS)
def test_every_pose_variant(name):
    model = on_meta(name)
    config = model.config
    height, width = config.input_size
    with torch.device("meta"):
        x, y = model(torch.empty(2, 3, height, width))
    assert x.shape == (2, 133, 2 * width) and y.shape == (2, 133, 2 * height)
    if name in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert pose_config_of(model.state_dict()) == config and name_of(config) == name
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}


@pytest.mark.parametrize("name", yolox.VARIANTS)
def test_every_detector_variant(name):
    model = on_meta(name)
    height, width = model.config.input_size
    with torch.device("meta"):
        raw = model(torch.empty(1, 3, height, width))
    assert raw.shape == (1, sum((height // s) * (width // s) for s in (8, 16, 32)), 85)
    assert yolox_config_of(model.state_dict()) == model.config and name_of(model.config) == name


@pytest.mark.parametrize(
    "config",
    [
        PoseConfig(deepen=0.5, widen=0.3125, input_size=(192, 128), stages=3, tokens=64, shared=32, kernel=5),
        PoseConfig(deepen=2.0, widen=0.125, input_size=(64, 32), tokens=48, shared=8, kernel=1),
        PoseConfig(deepen=0.167, widen=0.4, input_size=(96, 96)),
    ],
)
def test_config_of_an_unknown_size(config):
    """Another multiplier may be found for the same blocks; the network is the same."""
    with torch.device("meta"):
        state = DWPose(config).state_dict()
        again = DWPose(pose_config_of(state)).state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in state.items()}
    assert pose_config_of(state).input_size == config.input_size and name_of(config) == "custom"


def test_attention_by_hand():
    """Tokens of width 1 are 100, 100 and -100 after the norm, and SiLU leaves 100, 100 and 0: the gates. Values are
    the same in one channel, and 0, 0 and 100 in the other. In each of four shared channels a query is 100 * 0.01, a key
    100 * 0.02 + 1, or 1 for the last token: weights (4 * 3 / sqrt(4))^2 = 36, 36 and 4."""
    gau = rtmcc.GatedAttentionUnit(1, 4)
    with torch.no_grad():
        for parameter, value in (
            (gau.ln.g, 100.0),
            (gau.uv.weight, [[1.0], [1.0], [1.0], [-1.0], [1.0], [1.0], [1.0], [1.0]]),  # gates, values, shared
            (gau.gamma, [[0.01], [0.02]]),
            (gau.beta, [[0.0], [1.0]]),
            (gau.o.weight, 1e-5),
            (gau.res_scale.scale, 0.5),
        ):
            parameter.copy_(torch.tensor(value).expand_as(parameter))
        got = gau(torch.tensor([[[3.0], [0.5], [-2.0]]]))
    branch = 1e-5 * 100 * ((36 + 36) * 100 + 4 * 100)
    np.testing.assert_allclose(got[0, :, 0], [1.5 + branch, 0.25 + branch, -1.0], rtol=1e-5)


def test_batch_does_not_matter():
    model = create_model("debug").eval()
    crops = torch.randn(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        together = model(crops)
        single = [model(crop[None]) for crop in crops]
    for axis in range(2):
        torch.testing.assert_close(together[axis], torch.cat([s[axis] for s in single]), rtol=0, atol=1e-7)


def test_unknown_names_and_sizes():
    with pytest.raises(ValueError, match="unknown pose model 'dwpose-xxl'; choose one of dwpose-t"):
        create_model("dwpose-xxl")
    with pytest.raises(ValueError, match="unknown detector 'yolov3'; choose one of yolox-nano"):
        create_detector("yolov3")
    with pytest.raises(ValueError, match="multiple of the stride 32"):
        DWPose(PoseConfig(deepen=0.167, widen=0.125, input_size=(100, 96)))


def test_golden_images(shared, fill):
    """The inputs are those the goldens were made with."""
    golden = np.load(shared / "golden" / "forward_t.npz")
    images = np.stack([fill.seeded_image(f"forward/input/{i}", 256, 192) for i in range(2)])
    assert hashlib.sha256(images.tobytes()).digest() == golden["input_sha256"].tobytes()
