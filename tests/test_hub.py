"""Folders, hub repositories and constructors: what is saved comes back, and nothing is fetched unasked."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from dwpose_core import hub
from dwpose_core.backends import TorchRunner
from dwpose_core.models import catalogue, create_detector, create_model, download
from dwpose_core.models.weights import save_safetensors
from dwpose_core.pipeline import Options
from dwpose_core.preprocessor import DWposeDetector
from tests.stand_ins import FigurePose, photo, random_networks


@pytest.fixture(scope="module")
def networks():
    return random_networks()


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, empty caches."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("DWPOSE_MODELS", raising=False)


def same_weights(a, b):
    first, second = (runner.net.state_dict() for runner in (a, b))
    assert first.keys() == second.keys()
    return all(torch.allclose(first[key], second[key], rtol=1e-6, atol=0) for key in first)


def test_a_saved_folder_restores_everything(networks, tmp_path, offline):
    networks.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.json", "pose.safetensors", "detector.safetensors", "README.md"
    }  # fmt: skip
    again = DWposeDetector.from_pretrained(tmp_path, device="cpu")
    assert again.options == networks.options
    assert again.pose.net.config == networks.pose.net.config
    assert same_weights(again.pose, networks.pose)
    assert same_weights(again.detector, networks.detector)
    crops = torch.randn(2, 3, 64, 64)
    for a, b in zip(networks.pose(crops), again.pose(crops), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_weights_keep_their_name(tmp_path, offline):
    """The network is dwpose-s in all of these; only the official weights are called so."""
    shutil.copy(catalogue.cached_path(catalogue.find("dwpose-s-synthetic")), tmp_path / "mine.safetensors")
    loaded = DWposeDetector.from_pretrained(tmp_path / "mine.safetensors", None, device="cpu")
    assert loaded.pose.description.startswith("mine (dwpose-s) on cpu")
    bundled = DWposeDetector.from_pretrained("dwpose-s-synthetic", None, device="cpu")
    assert bundled.pose.description.startswith("dwpose-s-synthetic on cpu")
    bundled.save_pretrained(tmp_path / "folder")
    again = DWposeDetector.from_pretrained(tmp_path / "folder", None, device="cpu")
    assert again.pose.description.startswith("dwpose-s-synthetic on cpu")
    assert "pose detector: dwpose-s-synthetic" in (tmp_path / "folder" / "README.md").read_text()


def test_a_folder_called_like_a_model_does_not_hide_it(tmp_path, monkeypatch, offline):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dwpose-nano").mkdir()
    assert DWposeDetector.from_pretrained("dwpose-nano", None, device="cpu").pose.weights == "dwpose-nano"
    (tmp_path / "auto").mkdir()
    with pytest.warns(UserWarning, match="dwpose-l-384 is not available"):
        assert DWposeDetector.from_pretrained(detector=None, device="cpu").pose.weights == "dwpose-s-synthetic"


def test_saving_leaves_the_random_numbers_alone(networks, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    networks.save_pretrained(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_options_are_options(networks, tmp_path):
    networks.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Options\(\.\.\.\), got dict"):
        DWposeDetector.from_pretrained(tmp_path, options={"max_people": 1}, device="cpu")


def test_options_may_be_numpys_numbers(networks, tmp_path):
    options = Options(max_people=np.int64(2), detector_threshold=np.float32(0.25))
    DWposeDetector(networks.pose, None, options).save_pretrained(tmp_path)
    assert DWposeDetector.from_pretrained(tmp_path, device="cpu").options == options


def test_a_compiled_detector_is_saved(networks, tmp_path, offline):
    compiled = copy.deepcopy(networks)
    for runner in (compiled.pose, compiled.detector):
        runner.net = torch.compile(runner.net, backend="eager")
    compiled.save_pretrained(tmp_path)
    assert same_weights(DWposeDetector.from_pretrained(tmp_path, device="cpu").pose, networks.pose)


def test_half_precision(networks, tmp_path):
    half = DWposeDetector(TorchRunner(networks.pose.net, "cpu"), options=Options()).to(torch.float16)
    assert half.pose.dtype == torch.float16
    assert networks.pose.dtype == torch.float32
    half.save_pretrained(tmp_path)
    size = (tmp_path / "pose.safetensors").stat().st_size
    networks.save_pretrained(tmp_path / "full")
    assert size < 0.6 * (tmp_path / "full" / "pose.safetensors").stat().st_size
    again = DWposeDetector.from_pretrained(tmp_path, device="cpu", dtype="float16")
    assert again.pose.dtype == torch.float16
    assert again.detector is None
    assert same_weights(again.pose, half.pose)
    assert len(again.detect(photo())) <= 1


def test_a_detector_in_half_precision_comes_back_the_same(tmp_path):
    """YOLOX has an eps of 1e-3, and sqrt(1 + eps) is no number of float16: weights would drift with every saving."""
    pose = TorchRunner(create_model("debug"), "cpu", torch.float16)
    detector = TorchRunner(create_detector("yolox-nano"), "cpu", torch.float16)
    DWposeDetector(pose, detector).save_pretrained(tmp_path)
    again = DWposeDetector.from_pretrained(tmp_path, device="cpu", dtype="float16")
    for found, saved in zip(again.detector.net.parameters(), detector.net.parameters(), strict=True):
        assert torch.equal(found, saved)


def test_subfolder_variant_and_dtype_as_pipelines_pass_them(networks, tmp_path):
    networks.save_pretrained(tmp_path / "sub")
    (tmp_path / "sub" / "pose.safetensors").rename(tmp_path / "sub" / "pose.fp16.safetensors")
    with pytest.warns(UserWarning, match="no variant 'fp16' of detector"):
        found = DWposeDetector.from_pretrained(
            tmp_path, subfolder="sub", variant="fp16", revision=None, device="cpu", dtype=torch.bfloat16
        )
    assert found.pose.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="does not hold it"):
        DWposeDetector.from_pretrained(tmp_path / "sub", device="cpu")
    with pytest.warns(FutureWarning, match="torch_dtype"):
        found = DWposeDetector.from_pretrained(
            tmp_path / "sub", None, variant="fp16", device="cpu", torch_dtype=torch.float64
        )
    assert found.pose.dtype == torch.float64
    assert found.detector is None


def test_a_file_and_a_folder_of_something_else(networks, tmp_path, offline):
    save_safetensors(create_model("debug"), tmp_path / "mine.safetensors")
    found = DWposeDetector.from_pretrained(tmp_path / "mine.safetensors", None, device="cpu")
    assert found.pose.name == "debug"
    with pytest.raises(FileNotFoundError, match="gone"):
        DWposeDetector.from_pretrained(tmp_path / "gone.safetensors", None)
    with pytest.raises(ValueError, match="save_pretrained"):
        DWposeDetector.from_pretrained(tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ValueError, match="save_pretrained"):
        DWposeDetector.from_pretrained(tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "DWposeDetector", "pose": 5}))
    with pytest.raises(ValueError, match=r"names 5 in its config\.json"):
        DWposeDetector.from_pretrained(tmp_path, None)
    with pytest.raises(ValueError, match="dwpose-l-384"):
        DWposeDetector.from_pretrained("dwpose-xxl", None)
    with pytest.raises(ValueError, match="dtype"):
        DWposeDetector.from_pretrained(tmp_path / "mine.safetensors", None, dtype="float17")
    with pytest.raises(download.WeightsUnavailable, match="somebody/pose"):
        DWposeDetector.from_pretrained("somebody/pose", None)


def test_options_of_a_newer_version_are_refused(networks, tmp_path):
    networks.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["options"]["clairvoyance"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="clairvoyance"):
        DWposeDetector.from_pretrained(tmp_path)


def test_from_a_hub_repository(networks, tmp_path, monkeypatch):
    """Against a folder that stands for the hub: what is asked for, and with which arguments."""
    import huggingface_hub
    from huggingface_hub.utils import EntryNotFoundError

    networks.save_pretrained(tmp_path)
    asked = []

    def hf_hub_download(repo_id, filename, **options):
        asked.append((repo_id, filename, options["subfolder"], options["revision"], options["token"]))
        if not (tmp_path / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    found = DWposeDetector.from_pretrained("me/pose", revision="v1", subfolder="x", token="t", device="cpu")
    assert same_weights(found.pose, networks.pose)
    files = ("config.json", "pose.safetensors", "detector.safetensors")
    assert asked == [("me/pose", name, "x", "v1", "t") for name in files]
    asked.clear()
    assert DWposeDetector.from_pretrained("me/pose", None, device="cpu").detector is None
    assert [name for _, name, *_ in asked] == ["config.json", "pose.safetensors"]
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"repository me/pose holds no config\.json"):
        DWposeDetector.from_pretrained("me/pose")


def test_push_to_hub_sends_a_folder_that_loads(networks, tmp_path, monkeypatch):
    """The upload is replaced by a copy; everything up to it is the real thing."""
    import shutil

    from huggingface_hub import HfApi

    def upload_folder(self, *, repo_id, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / repo_id)
        return f"https://hub/{repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    networks.push_to_hub("me/pose", model_card_kwargs={"licence": "Apache-2.0", "repo_id": "me/pose"})
    assert same_weights(DWposeDetector.from_pretrained(tmp_path / "me" / "pose", device="cpu").pose, networks.pose)
    card = (tmp_path / "me" / "pose" / "README.md").read_text()
    for words in ("library_name: dwpose-torch", "| pose | debug | 64 x 64 |", "yolox-nano | 416 x 416", "Apache-2.0"):
        assert words in card
    assert 'from_pretrained("me/pose")' in card
    assert "{" not in card


def test_published_repository_and_urls_are_the_catalogue(monkeypatch, offline):
    """yzd-v/DWPose and the URLs scripts for controlnet_aux contain lead to the digest-checked files."""
    fetched = []

    def fetch(entry, **_):
        fetched.append(entry.name)
        raise download.WeightsUnavailable(entry.name)

    monkeypatch.setattr(hub.download, "fetch", fetch)
    with pytest.raises(download.WeightsUnavailable):
        DWposeDetector(pose_ckpt="https://huggingface.co/yzd-v/DWPose/resolve/main/dw-ll_ucoco_384.pth")
    with pytest.raises(download.WeightsUnavailable):
        DWposeDetector.from_pretrained("dwpose-l")
    assert fetched == ["dwpose-l-384-pth", "dwpose-l"]
    with pytest.raises(ValueError, match="not in the catalogue of pose"):
        DWposeDetector(pose_ckpt="https://example.com/other.pth")
    fetched.clear()
    with warnings.catch_warnings(record=True), pytest.raises(download.WeightsUnavailable):
        DWposeDetector.from_pretrained("yzd-v/DWPose", None)
    assert fetched[0] == "dwpose-l-384"


def test_constructors_of_older_detectors(tmp_path, networks, monkeypatch):
    networks.save_pretrained(tmp_path)
    pose, boxes = tmp_path / "pose.safetensors", tmp_path / "detector.safetensors"
    with pytest.warns(FutureWarning, match="det_config"):
        found = DWposeDetector(
            det_config="yolox.py", det_ckpt=boxes, pose_config="dwpose.py", pose_ckpt=pose, device="cpu"
        )
    assert same_weights(found.pose, networks.pose) and same_weights(found.detector, networks.detector)
    found_by = []
    monkeypatch.setattr(hub, "find", lambda *names: found_by.append(names) or hub.Sources(pose, boxes))
    found = DWposeDetector(device="cpu")  # easy_dwpose
    assert found_by == [("auto", "auto")]
    assert found.device.type == found.detector.device.type == "cpu"
    with pytest.raises(TypeError, match="device="):
        DWposeDetector("cuda:0")
    for no_runner in (torch.device("cpu"), networks.pose.net):
        for runners in ((no_runner,), (FigurePose(), no_runner)):
            with pytest.raises(TypeError, match=r"no runner: .*TorchRunner"):
                DWposeDetector(*runners)
    for told in ({"pose": FigurePose(), "device": "cpu"}, {"detector": networks.detector, "det_ckpt": boxes}):
        with pytest.raises(TypeError, match="loaded already"):
            DWposeDetector(**told)


def test_auto_offline_takes_what_ships_and_says_so(monkeypatch, offline, tmp_path):
    save_safetensors(create_model("dwpose-s"), tmp_path / "dwpose-s-synthetic.safetensors")
    save_safetensors(create_detector("yolox-cspnext-s"), tmp_path / "yolox-cspnext-s.safetensors")
    monkeypatch.setattr(
        hub.catalogue, "cached_path", lambda entry, *_: None if entry.repo else tmp_path / entry.filename
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = DWposeDetector.from_pretrained(device="cpu")
    texts = [str(warning.message) for warning in caught]
    assert (found.pose.name, found.detector.name) == ("dwpose-s", "yolox-cspnext-s")
    assert any("dwpose-l-384 is not available" in text and "bundled dwpose-s-synthetic" in text for text in texts)
    assert any("yolox-l is not available" in text and "bundled yolox-cspnext-s" in text for text in texts)
    assert all(warning.filename == __file__ for warning in caught)


def test_a_named_gpu_never_becomes_the_cpu(monkeypatch):
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["DmlExecutionProvider", "CPUExecutionProvider"])
    cpu, cuda, mps = (torch.device(kind) for kind in ("cpu", "cuda", "mps"))
    assert hub._provider("cpu", cpu) == "cpu" and hub._provider(None, cpu) == "directml"
    assert hub._provider("cuda", cuda) == "cuda"
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert hub._provider(None, mps) == "cpu", "nobody named it, and the description says what runs"
    with pytest.raises(ValueError, match="no sure provider for device mps: use backend='torch', or name a provider"):
        hub._provider("mps", mps)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    with pytest.raises(ValueError, match="no sure provider for device cuda:1"):
        hub._provider("cuda:1", cuda)


def test_onnx_runs_on_the_cpu_beside_a_gpu_that_nobody_named(monkeypatch):
    ort = pytest.importorskip("onnxruntime")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    providers = []
    monkeypatch.setattr(hub, "OnnxRunner", lambda path, provider, **_: providers.append(provider) or FigurePose())
    DWposeDetector.from_pretrained("pose.onnx", None, backend="onnx")
    assert providers == ["cpu"]


@pytest.mark.parametrize(("device", "expected"), [("cuda", [2, 2]), ("cuda:0", [0, 0]), ("cuda:1", [1, 1])])
def test_onnx_runs_on_the_gpu_that_torch_would_take(monkeypatch, device, expected):
    """Such as that of torch.cuda.set_device(local_rank): a process for each GPU."""
    monkeypatch.setattr(hub, "pick_device", torch.device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    indices = []
    monkeypatch.setattr(hub, "OnnxRunner", lambda *_, device_index, **__: indices.append(device_index))
    hub.load_runners(hub.Sources(Path("pose.onnx"), Path("detector.onnx")), device, None, "onnx", "cuda")
    assert indices == expected


def test_onnx_files_of_another_kind_are_told_when_they_are_loaded(tmp_path, shared):
    """Such as detectors with NMS inside, pose networks of 17 points, or the two files swapped."""
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")

    def write(name, outputs):
        helper = onnx.helper
        image, *infos = (
            helper.make_tensor_value_info(key, onnx.TensorProto.FLOAT, shape)
            for key, shape in [("input", (1, 3, 256, 192)), *outputs]
        )
        values = [onnx.numpy_helper.from_array(np.zeros(shape, np.float32), f"{key}_") for key, shape in outputs]
        nodes = [helper.make_node("Identity", [f"{key}_"], [key]) for key, _ in outputs]
        graph = helper.make_graph(nodes, "g", [image], infos, values)
        opset = [helper.make_opsetid("", 17)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / name)
        return tmp_path / name

    yolox = shared / "data" / "yolox_nano.onnx"
    pose17 = write("pose17.onnx", [("simcc_x", (1, 17, 384)), ("simcc_y", (1, 17, 512))])
    pose133 = write("pose133.onnx", [("simcc_x", (1, 133, 384)), ("simcc_y", (1, 133, 512))])
    with_nms = write("rtmdet.onnx", [("dets", (1, 2, 5)), ("labels", (1, 2))])
    for pose, detector, message in (
        (pose17, None, r"pose17.* no pose network .*simcc_x \[1, 17, 384\]"),
        (yolox, None, "no pose network"),
        (pose133, with_nms, r"no detector network .*dets \[1, 2, 5\]"),
        (pose133, pose133, "no detector network"),
    ):
        with pytest.raises(ValueError, match=message):
            DWposeDetector.from_pretrained(pose, detector, backend="onnx", device="cpu")
    assert DWposeDetector.from_pretrained(pose133, yolox, backend="onnx", device="cpu").detector.name == "yolox_nano"


def test_the_onnx_backend_is_not_moved_or_saved(tmp_path, shared):
    pytest.importorskip("onnxruntime")
    from dwpose_core.backends import OnnxRunner

    runner = OnnxRunner(shared / "data" / "yolox_nano.onnx", "cpu")
    found = DWposeDetector(FigurePose(), runner)
    with pytest.raises(ValueError, match="torch backend"):
        found.to("cpu")
    half = DWposeDetector(TorchRunner(create_model("debug"), "cpu"), runner)
    with pytest.raises(ValueError, match="torch backend"):
        half.to(torch.float16)
    assert half.pose.dtype == torch.float32, "both networks or none"
    with pytest.raises(ValueError, match="torch backend"):
        found.save_pretrained(tmp_path)
