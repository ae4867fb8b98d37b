"""Reading .onnx files into torch modules: every kind of exporter, and graphs that are something else."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dwpose_core.models import DWPose, PoseConfig, rtmcc
from dwpose_core.models.cspnext import ConvBNAct
from dwpose_core.models.export import export_onnx, run_onnx
from dwpose_core.models.onnx_graph import module_order, read_weights
from dwpose_core.models.weights import load_detector, load_network, load_pose
from tests.onnx_files import SMALL_YOLOX, assert_same, network, outputs, randomise, sample_images, write

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


# ---- exporters ------------------------------------------------------------------------------------------------------

LEGACY = {
    "folded": {"opset_version": 17},
    "opset-11": {"opset_version": 11},
    "opset-13": {"opset_version": 13},
    "opset-20": {"opset_version": 20},
    "constants-not-folded": {"do_constant_folding": False},
    "batchnorm-kept": {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False},
    "batchnorm-training": {"training": torch.onnx.TrainingMode.TRAINING, "do_constant_folding": False},
    "weights-as-inputs": {"keep_initializers_as_inputs": True},
}


@pytest.mark.parametrize("name", ["debug", "dense"])
@pytest.mark.parametrize("options", LEGACY.values(), ids=LEGACY.keys())
def test_torchscript_exporter(tmp_path, name, options):
    model = network(name)
    assert_same(model, write(model, tmp_path / "a.onnx", **options))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "optimize"), [("debug", True), ("debug", False), ("dense", True)])
def test_dynamo_exporter(tmp_path, name, optimize):
    pytest.importorskip("onnxscript")
    model = network(name)
    assert_same(model, write(model, tmp_path / "a.onnx", dynamo=True, optimize=optimize, verbose=False))


@pytest.mark.parametrize("name", ["debug", *SMALL_YOLOX])
def test_own_exporter(tmp_path, name):
    model = network(name)
    done = export_onnx(model, tmp_path / "a.onnx")
    assert done.differences.keys() == {1, 3} and max(done.differences.values()) < 1e-4
    assert_same(model, tmp_path / "a.onnx")
    graph = onnx.load(str(tmp_path / "a.onnx"))
    onnx.checker.check_model(graph, full_check=True)
    assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}
    names = ["input"] if isinstance(model, DWPose) else ["images"]
    assert [i.name for i in graph.graph.input] == names
    assert [o.name for o in graph.graph.output] == (["simcc_x", "simcc_y"] if names == ["input"] else ["output"])
    for batch in (1, 5):  # the batch axis is dynamic
        images = sample_images(model, batch)
        for expected, found in zip(outputs(model, images), run_onnx(tmp_path / "a.onnx", images), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_own_exporter_writes_whole_files_only(tmp_path, monkeypatch):
    (tmp_path / "a.onnx").write_bytes(b"older")
    monkeypatch.setattr(
        "dwpose_core.models.export.run_onnx", lambda path, images: [torch.zeros(len(images), 133, 128)] * 2
    )
    with pytest.raises(ValueError, match="differs from PyTorch"):
        export_onnx(network("debug"), tmp_path / "a.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"] and (tmp_path / "a.onnx").read_bytes() == b"older"
    with pytest.raises(ValueError, match=r"must end in \.onnx"):
        export_onnx(network("debug"), tmp_path / "a.pt")


def test_half_precision_file(tmp_path):
    model = network("debug")
    path = write(network("debug").half(), tmp_path / "a.onnx", sample_images(model, 2).half())
    read = load_pose(path)
    assert {p.dtype for p in read.parameters()} == {torch.float32}
    assert_same(model, path, tolerance=0.02)  # the weights are rounded to 11 bits


def mmpose_attention(self, x: torch.Tensor) -> torch.Tensor:
    """The unit written as in mmpose: query and key from one product over a new axis, then unbound."""
    uv = nn.functional.silu(self.uv(self.ln(x)))
    u, v, base = torch.split(uv, [self.expanded, self.expanded, self.shared], dim=2)
    query, key = torch.unbind(base.unsqueeze(2) * self.gamma[None, None, :] + self.beta, dim=2)
    kernel = torch.square(torch.relu(torch.bmm(query, key.permute(0, 2, 1)) / math.sqrt(self.shared)))
    return self.o(u * torch.bmm(kernel, v)) + self.res_scale(x)


def sliced_attention(self, x: torch.Tensor) -> torch.Tensor:
    """Slices instead of splits, the scale inside the product, operands the other way round."""
    uv = self.uv(self.ln(x))
    uv = torch.sigmoid(uv) * uv
    u, v, base = uv[..., : self.expanded], uv[..., self.expanded : 2 * self.expanded], uv[..., 2 * self.expanded :]
    query = self.beta[0:1] + self.gamma[0:1] * base
    key = (self.beta[1:2] + self.gamma[1:2] * base) * (1 / math.sqrt(self.shared))
    kernel = torch.relu(query @ key.transpose(1, 2)) ** 2
    return self.o((kernel @ v) * u) + self.res_scale(x)


def mmpose_norm(self, x: torch.Tensor) -> torch.Tensor:
    norm = torch.norm(x, dim=2, keepdim=True) * self.scale
    return x / norm.clamp(min=1e-5) * self.g


def decomposed_norm(self, x: torch.Tensor) -> torch.Tensor:
    return self.g * (x / torch.maximum((x * x).sum(-1, keepdim=True).sqrt() * self.scale, torch.tensor(1e-5)))


@pytest.mark.parametrize("attention", [mmpose_attention, sliced_attention])
@pytest.mark.parametrize("norm", [mmpose_norm, decomposed_norm])
@pytest.mark.parametrize("folding", [True, False])
def test_other_ways_to_write_the_head(tmp_path, monkeypatch, attention, norm, folding):
    model = network("debug")
    images = sample_images(model, 2)
    expected = outputs(model, images)
    with monkeypatch.context() as patch:
        patch.setattr(rtmcc.GatedAttentionUnit, "forward", attention)
        patch.setattr(rtmcc.ScaleNorm, "forward", norm)
        for a, b in zip(outputs(model, images), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))  # the same function
        path = write(model, tmp_path / "a.onnx", images, opset_version=11, do_constant_folding=folding)
    assert_same(model, path)


def test_hard_sigmoid_in_parts(tmp_path, monkeypatch):
    """mmdeploy's targets without HardSigmoid get clip((x + 3) / 6)."""
    model = network("debug")
    with monkeypatch.context() as patch:
        patch.setattr(nn.Hardsigmoid, "forward", lambda self, x: ((x + 3) / 6).clamp(0, 1))
        path = write(model, tmp_path / "a.onnx")
    assert_same(model, path)


# ---- the same graph in another order and under other names -----------------------------------------------------------


def shuffle(path: Path, seed: int) -> None:
    """Random names, and a random order of nodes among all that respect the data flow; outputs keep their names."""
    rng = random.Random(seed)
    model = onnx.load(str(path))
    graph = model.graph
    keep = {i.name for i in graph.output}
    names = {n for node in graph.node for n in (*node.input, *node.output)} | {i.name for i in graph.initializer}
    fresh = dict(zip(sorted(names - keep - {""}), (str(n) for n in rng.sample(range(10**6), len(names))), strict=False))
    for node in graph.node:
        node.name = ""
        for field in (node.input, node.output):
            field[:] = [fresh.get(n, n) for n in field]
    for item in (*graph.initializer, *graph.input):
        item.name = fresh.get(item.name, item.name)
    del graph.value_info[:]
    ready = {i.name for i in graph.initializer} | {i.name for i in graph.input} | {""}
    waiting, order = list(graph.node), []
    while waiting:
        node = rng.choice([n for n in waiting if all(i in ready for i in n.input)])
        waiting.remove(node)
        order.append(node)
        ready.update(node.output)
    del graph.node[:]
    graph.node.extend(order)
    initializers = list(graph.initializer)
    rng.shuffle(initializers)
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def weights_as_constant_nodes(path: Path, seed: int) -> None:
    model = onnx.load(str(path))
    nodes = [onnx.helper.make_node("Constant", [], [i.name], value=i) for i in model.graph.initializer]
    nodes += list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(path))


def swap_outputs(path: Path, seed: int) -> None:
    model = onnx.load(str(path))
    outputs = list(model.graph.output)[::-1]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    onnx.save(model, str(path))


@pytest.mark.parametrize("name", ["debug", "dwpose-nano", *SMALL_YOLOX])
@pytest.mark.parametrize(
    ("change", "seed"), [(shuffle, 0), (shuffle, 1), (weights_as_constant_nodes, 0), (swap_outputs, 0)]
)
def test_order_and_names_do_not_matter(tmp_path, name, change, seed):
    model = network(name)
    path = write(model, tmp_path / "a.onnx")
    change(path, seed)
    assert_same(model, path)


def test_batchnorm_with_another_epsilon(tmp_path):
    model = network("debug")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3
    assert_same(model, write(model, tmp_path / "a.onnx", **LEGACY["batchnorm-kept"]))
    assert_same(model, write(model, tmp_path / "a.onnx"))


def test_walk_meets_every_layer_once():
    for model in (network("debug"), network("depthwise")):
        layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        assert sorted(module_order(model)) == sorted(layers)


@pytest.mark.parametrize("name", ["dwpose-t", "dwpose-s", pytest.param("dwpose-l-384", marks=pytest.mark.slow)])
def test_official_size(tmp_path, name):
    model = network(name)
    path = write(model, tmp_path / "a.onnx", sample_images(model, 1))
    config, state = read_weights(path)
    assert config == rtmcc.VARIANTS[name]
    for key, value in model.state_dict().items():
        if key.startswith("head.") and ".bn." not in key:
            torch.testing.assert_close(state[key], value, rtol=0, atol=0)
    assert_same(model, path)


# ---- real weights ----------------------------------------------------------------------------------------------------


def test_real_yolox_nano(shared):
    path = shared / "data" / "yolox_nano.onnx"
    model = load_detector(path)
    assert (model.name, model.config.input_size) == ("yolox-nano", (416, 416))
    images = sample_images(model, 1)
    (expected,) = run_onnx(path, images)
    (found,) = outputs(model, images)
    assert expected.shape == (1, 3549, 85)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


# ---- graphs of other families ----------------------------------------------------------------------------------------


class Normalising(DWPose):
    def forward(self, crops):
        return super().forward((crops - 0.5) / 0.25)


class OneOutput(DWPose):
    def forward(self, crops):
        return torch.cat(super().forward(crops), dim=-1)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(ConvBNAct(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    def forward(self, x):
        return self.net(x)


def leaky() -> nn.Module:
    model = network("depthwise")
    for module in model.modules():
        if hasattr(module, "act"):
            module.act = nn.LeakyReLU(0.1)
    return model


def wider_stem() -> nn.Module:
    model = network("debug")
    model.backbone.stem[1] = randomise(nn.Sequential(ConvBNAct(4, 6, 3), ConvBNAct(6, 4, 3)))
    return model


def other_stride() -> nn.Module:
    model = network("debug")
    model.backbone.stem[1].conv.dilation, model.backbone.stem[1].conv.padding = (2, 2), (2, 2)
    return model


FOREIGN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "classifier": (Classifier, "1 outputs and 1 linear layers"),
    "multilayer perceptron": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 4)),
        "begin with a convolution",
    ),
    "normalises inside": (lambda: Normalising(rtmcc.VARIANTS["debug"]), "normalises its input"),
    "one output": (lambda: OneOutput(rtmcc.VARIANTS["debug"]), "1 outputs and 5 linear"),
    "other activation": (leaky, "LeakyRelu"),
    "one layer more": (wider_stem, "layers where|channels|has weights"),
    "other dilation": (other_stride, r"dilations"),
}


@pytest.mark.parametrize(("make", "reason"), FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_graph(tmp_path, make, reason):
    path = tmp_path / "a.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(make().eval(), (torch.zeros(1, 3, 64, 64),), str(path), dynamo=False)
    with pytest.raises(ValueError, match=reason) as error:
        load_network(path)
    assert 'backend="onnx"' in str(error.value)


def test_body_only_network(tmp_path):
    config = PoseConfig(
        deepen=0.167, widen=0.125, input_size=(64, 64), tokens=32, shared=16, kernel=3, num_keypoints=17
    )
    path = write(randomise(DWPose(config)), tmp_path / "a.onnx", torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match="17 keypoints; a whole-body model has 133"):
        load_pose(path)


def test_quantised_graph(tmp_path):
    quantize = pytest.importorskip("onnxruntime.quantization").quantize_dynamic
    quantize(str(write(network("debug"), tmp_path / "a.onnx")), str(tmp_path / "q.onnx"))
    with pytest.raises(ValueError, match="quantised"):
        load_pose(tmp_path / "q.onnx")
