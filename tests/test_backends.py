"""ONNX Runtime beside PyTorch: same keypoints, and errors instead of a silent slide to the CPU."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
import torch

from dwpose_core import cli
from dwpose_core.backends import PROVIDERS, OnnxRunner, TorchRunner, provider_beside
from dwpose_core.images import read_image
from dwpose_core.models import create_model
from dwpose_core.models.export import export_onnx
from dwpose_core.pipeline import estimate_people

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    net = create_model("debug")
    torch.nn.init.normal_(net.head.final_layer.weight, std=1e9)  # features of untrained BatchNorms are tiny
    torch.nn.init.normal_(net.head.mlp[1].weight)
    path = tmp_path_factory.mktemp("onnx") / "debug.onnx"
    export_onnx(net, path)
    return net, path


def test_both_backends_agree_on_photographs(shared, fill, tmp_path):
    net = fill.fill_module(create_model("dwpose-t"))
    export_onnx(net, tmp_path / "t.onnx")
    runners = TorchRunner(net, "cpu"), OnnxRunner(tmp_path / "t.onnx", "cpu")
    labels = json.loads((shared / "realbench_dev" / "realbench_dev.json").read_text())
    photos = {shared / "realbench_dev" / "images" / a["image"]: [] for a in labels["annotations"]}
    for a in labels["annotations"]:
        x, y, w, h = a["bbox"]
        photos[shared / "realbench_dev" / "images" / a["image"]].append((x, y, x + w, y + h))
    photos |= {path: [(20, 20, 300, 320)] for path in (shared / "data").glob("*.jpg")}
    images, boxes = [read_image(path) for path in photos], [np.array(b) for b in photos.values()]
    for a, b in zip(*(estimate_people(images, runner, None, boxes) for runner in runners), strict=True):
        assert np.abs(a.xy - b.xy).max() <= 0.5
        np.testing.assert_allclose(a.score, b.score, atol=1e-4)


def test_dynamic_batch_and_description(exported):
    net, path = exported
    runner = OnnxRunner(path, "cpu", threads=1)
    assert runner.input_size == net.config.input_size
    assert "onnxruntime, cpu" in runner.description
    crops = torch.randn(3, 3, *runner.input_size)
    for a, b in zip(runner(crops), TorchRunner(net, "cpu")(crops), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_fixed_batch_is_padded_and_split(exported, tmp_path, count):
    _, path = exported
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "two.onnx")
    crops = torch.randn(count, 3, 64, 64)
    fixed = OnnxRunner(tmp_path / "two.onnx", "cpu")(crops)
    for a, b in zip(fixed, OnnxRunner(path, "cpu")(crops), strict=True):
        assert len(a) == count
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-4)


def test_a_file_may_list_its_outputs_the_other_way_round(exported, tmp_path):
    _, path = exported
    model = onnx.load(path)
    model.graph.output.extend([model.graph.output.pop(0)])
    onnx.save(model, tmp_path / "yx.onnx")
    crops = torch.randn(1, 3, 64, 64)
    for a, b in zip(OnnxRunner(tmp_path / "yx.onnx", "cpu")(crops), OnnxRunner(path, "cpu")(crops), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda runner: pickle.loads(pickle.dumps(runner))])
def test_copies_for_other_processes(exported, copied, monkeypatch):
    _, path = exported
    monkeypatch.chdir(path.parent)
    runner = OnnxRunner(path.name, "cpu", kind="pose", threads=1)
    monkeypatch.chdir("/")
    again, crops = copied(runner), torch.randn(2, 3, 64, 64)
    assert again.description == runner.description
    for a, b in zip(again(crops), runner(crops), strict=True):
        assert torch.equal(a, b)


def test_channels_last_input(exported):
    _, path = exported
    runner = OnnxRunner(path, "cpu")
    crops = torch.randn(2, 3, 64, 64)
    for a, b in zip(runner(crops), runner(crops.to(memory_format=torch.channels_last)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_provider_this_build_lacks(exported, monkeypatch):
    _, path = exported
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for provider in set(PROVIDERS) - {"cpu"}:
        with pytest.raises(ValueError, match=f"no {provider} provider"):
            OnnxRunner(path, provider)


def test_a_provider_that_does_not_start(exported, monkeypatch):
    """A CUDA build without working CUDA libraries: ONNX Runtime itself would go on with the CPU."""
    _, path = exported
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "get_available_providers", lambda: list(PROVIDERS.values()))
    monkeypatch.setattr(ort, "preload_dlls", lambda: None, raising=False)
    monkeypatch.setattr(ort, "InferenceSession", lambda file, options, providers: real(file, options))
    with pytest.raises(ValueError, match="fell back to CPUExecutionProvider"):
        OnnxRunner(path, "cuda")


@pytest.mark.parametrize(
    ("device", "hip", "have", "expected"),
    [
        ("cuda", None, ["cuda", "cpu"], "cuda"),
        ("cuda", None, ["cpu"], "cuda"),  # refused when it is loaded: the CPU would be a silent fallback
        ("cuda", "6.4", ["cpu"], "cpu"),
        ("cpu", None, ["directml", "cpu"], "directml"),
        ("cpu", None, ["coreml", "cpu"], "cpu"),
        ("mps", None, ["coreml", "cpu"], "cpu"),
    ],
)
def test_the_provider_beside_a_device(monkeypatch, device, hip, have, expected):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [PROVIDERS[name] for name in have])
    assert provider_beside(device) == expected


def test_directml_is_taken_where_it_was_installed(exported, monkeypatch):
    _, path = exported
    real, started = ort.InferenceSession, []

    def session(file, options, providers):
        started.append((providers, options.enable_mem_pattern))
        result = real(file, options, providers=["CPUExecutionProvider"])
        monkeypatch.setattr(result, "get_providers", lambda: [providers[0][0]], raising=False)
        return result

    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["DmlExecutionProvider", "CPUExecutionProvider"])
    runner = OnnxRunner(path, device_index=1)
    assert runner.provider == "directml" and runner.device.type == "cpu"
    assert started == [([("DmlExecutionProvider", {"device_id": 1})], False)]
    assert runner(torch.zeros(1, 3, 64, 64))[0].shape[0] == 1


def test_the_command_knows_all_providers():
    assert cli.PROVIDERS == tuple(PROVIDERS)


@pytest.mark.parametrize(("provider", "content"), [("quantum", None), ("cpu", b"not a model")])
def test_bad_arguments(exported, tmp_path, provider, content):
    path = exported[1]
    if content:
        path = tmp_path / "broken.onnx"
        path.write_bytes(content)
    with pytest.raises(ValueError, match="unknown ONNX Runtime provider" if content is None else "cannot load"):
        OnnxRunner(path, provider)


@pytest.mark.gpu
@pytest.mark.skipif("CUDAExecutionProvider" not in ort.get_available_providers(), reason="no CUDA provider")
def test_cuda_provider_agrees_with_the_cpu(exported):
    _, path = exported
    crops = torch.randn(3, 3, 64, 64)
    for a, b in zip(OnnxRunner(path, "cuda")(crops), OnnxRunner(path, "cpu")(crops), strict=True):
        assert a.device.type == "cuda"
        torch.testing.assert_close(a.cpu(), b, atol=1e-2, rtol=1e-2)
