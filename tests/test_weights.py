"""Weight files: every wrapper of the field, damaged and foreign files, the catalogue."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile
from collections import OrderedDict

import pytest
import torch

from dwpose_core.models import PoseConfig, YOLOXConfig, catalogue, create_detector, create_model, rtmcc, yolox
from dwpose_core.models.rtmcc import DWPose
from dwpose_core.models.weights import (
    load_detector,
    load_network,
    load_pose,
    load_state,
    read_metadata,
    read_state_dict,
    save_safetensors,
)
from dwpose_core.models.yolox import YOLOX
from tests.weight_files import State, assert_equal, export, filled, saved


@pytest.fixture(scope="module")
def pose() -> DWPose:
    return filled(create_model("debug"))


@pytest.fixture(scope="module")
def detector() -> YOLOX:
    return filled(YOLOX(YOLOXConfig(depth=0.33, width=0.125, depthwise=True)))


def prefixed(state: State, prefix: str) -> State:
    return OrderedDict((f"{prefix}{key}", value) for key, value in state.items())


# ---- wrappers -------------------------------------------------------------------------------------------------------

WRAPPERS = {
    "bare": lambda s: s,
    "state_dict": lambda s: {"state_dict": s, "meta": {"epoch": 270}, "optimizer": {"state": {0: torch.ones(3)}}},
    # mmengine stores the averaged weights as state_dict and the running ones as ema_state_dict
    "ema beside": lambda s: {
        "ema_state_dict": {"steps": torch.tensor(7), **prefixed({k: v * 0 for k, v in s.items()}, "module.")},
        "state_dict": s,
    },
    "ema alone": lambda s: {"ema_state_dict": {"steps": torch.tensor(7), **prefixed(s, "module.")}},
    "data parallel": lambda s: {"state_dict": prefixed(s, "module.")},
    "megvii": lambda s: {"start_epoch": 300, "model": s, "optimizer": None},
    "parameters": lambda s: {"state_dict": {k: torch.nn.Parameter(v, requires_grad=False) for k, v in s.items()}},
    "message hub": lambda s: {"state_dict": s, "message_hub": {"log_scalars": {}, "runtime_info": {"iter": 1}}},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
def test_checkpoint_wrappers(tmp_path, pose, wrap, zipped):
    path = tmp_path / "a.pth"
    torch.save(wrap(pose.state_dict()), path, _use_new_zipfile_serialization=zipped)
    assert_equal(read_state_dict(path), pose.state_dict())
    model = load_pose(path)
    assert model.name == "debug" and model.source == str(path) and not model.training
    assert_equal(model.state_dict(), pose.state_dict())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
def test_half_precision_becomes_single(tmp_path, pose, suffix):
    path = tmp_path / f"a{suffix}"
    half = filled(create_model("debug")).half()
    if suffix == ".pth":
        torch.save(half.state_dict(), path)
    elif suffix == ".safetensors":
        save_safetensors(half, path)
    else:
        export(half, torch.zeros(1, 3, 64, 64).half(), path)
    model = load_pose(path)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    key = "head.gau.uv.weight"
    torch.testing.assert_close(model.state_dict()[key], pose.state_dict()[key], rtol=1e-3, atol=0)


def test_safetensors_without_our_metadata(tmp_path, pose):
    from safetensors.torch import save_file

    save_file(pose.state_dict(), tmp_path / "a.safetensors")
    assert_equal(load_pose(tmp_path / "a.safetensors").state_dict(), pose.state_dict())
    counters = {k for k in pose.state_dict() if k.endswith("num_batches_tracked")}
    save_file({k: v for k, v in pose.state_dict().items() if k not in counters}, tmp_path / "b.safetensors")
    assert_equal(load_pose(tmp_path / "b.safetensors").state_dict(), pose.state_dict())


def test_safetensors_metadata(tmp_path):
    model = YOLOX(YOLOXConfig(depth=0.33, width=0.125, input_size=(320, 256), num_classes=1))
    save_safetensors(model, tmp_path / "a.safetensors", {"source": "own training"})
    metadata = read_metadata(tmp_path / "a.safetensors")
    assert metadata["source"] == "own training" and metadata["format"] == "pt"
    assert load_detector(tmp_path / "a.safetensors").config == model.config  # a detector's size is in no shape


def test_safetensors_with_another_suffix(tmp_path, pose):
    save_safetensors(pose, tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    assert_equal(load_pose(tmp_path / "a.pth").state_dict(), pose.state_dict())


# ---- raw distillation checkpoints ------------------------------------------------------------------------------------


def distillation(teacher: DWPose, student: DWPose, aligned: bool) -> dict:
    state = {**prefixed(teacher.state_dict(), "teacher."), **prefixed(student.state_dict(), "student.")}
    if aligned:
        shape = (teacher.backbone.out_channels, student.backbone.out_channels, 1, 1)
        state["distill_losses.loss_fea.align.weight"] = torch.ones(shape)
        state["distill_losses.loss_fea.align.bias"] = torch.ones(shape[0])
    return {"state_dict": state, "ema_state_dict": {"steps": torch.tensor(1), **prefixed(state, "module.")}}


@pytest.fixture(scope="module")
def teachers() -> dict[str, DWPose]:
    config = rtmcc.VARIANTS["debug"]
    return {
        "wider": filled(DWPose(PoseConfig(**{**vars(config), "widen": 0.25})), 1),
        "deeper": filled(DWPose(PoseConfig(**{**vars(config), "deepen": 0.67})), 2),
        "same": filled(create_model("debug"), 3),
    }


@pytest.mark.parametrize(
    ("teacher", "aligned", "part", "stage"),
    [
        ("wider", True, "auto", 1),
        ("deeper", False, "auto", 1),  # equal channels need no alignment; the backbones still differ
        ("same", True, "auto", 1),
        ("same", False, "auto", 2),
        ("same", False, "stage1", 1),  # self-distillation in stage 1 cannot be told from stage 2
        ("same", False, "stage2", 2),
        ("wider", True, "stage1", 1),
    ],
)
def test_distillation_checkpoint(tmp_path, pose, teachers, teacher, aligned, part, stage):
    torch.save(distillation(teachers[teacher], pose, aligned), tmp_path / "a.pth")
    expected = {
        key: teachers[teacher].state_dict()[key] if stage == 2 and key.startswith("backbone.") else value
        for key, value in pose.state_dict().items()
    }
    assert_equal(load_pose(tmp_path / "a.pth", part=part).state_dict(), expected)


def test_wrong_part(tmp_path, pose, teachers):
    torch.save(pose.state_dict(), tmp_path / "plain.pth")
    torch.save(distillation(teachers["same"], pose, False), tmp_path / "raw.pth")
    assert_equal(read_state_dict(tmp_path / "plain.pth", part="plain"), pose.state_dict())
    with pytest.raises(ValueError, match="no raw distillation checkpoint"):
        load_pose(tmp_path / "plain.pth", part="stage1")
    with pytest.raises(ValueError, match="leave part at auto"):
        load_pose(tmp_path / "raw.pth", part="plain")
    with pytest.raises(ValueError, match="part is auto, plain, stage1 or stage2, not 'stage3'"):
        load_pose(tmp_path / "raw.pth", part="stage3")


# ---- damaged and foreign files ---------------------------------------------------------------------------------------


PAGE = b"<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:724f4ff2439ed61a\nsize 134399116\n"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty; download it again"),
        (PAGE, "is a web page"),
        (b"\n  " + PAGE.lower(), "is a web page"),
        (POINTER, "is a Git LFS pointer.*git lfs pull"),
        (b'{"error": "not found"}', "damaged"),
        (bytes(range(256)) * 20, "damaged"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "damaged"),
        (b"\xff" * 8 + b"{" + b"\xff" * 50, "damaged"),
    ],
)
def test_no_weights_at_all(tmp_path, suffix, content, reason):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        load_network(tmp_path / f"a{suffix}")
    assert str(tmp_path / f"a{suffix}") in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".legacy", ".safetensors", ".onnx"])
@pytest.mark.parametrize("keep", [0.001, 0.02, 0.5, 0.9, 0.999])
def test_cut_files(tmp_path, pose, suffix, keep):
    options = {"_use_new_zipfile_serialization": False} if suffix == ".legacy" else {}
    data = saved(pose, suffix.replace("legacy", "pth"), tmp_path, **options)
    path = tmp_path / f"a{suffix.replace('legacy', 'pth')}"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"damaged|is no DWPose"):
        load_pose(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_archive(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="TorchScript"):
        load_pose(tmp_path / "a.pt")


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="not a PyTorch checkpoint"):
        load_pose(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(ValueError, match="holds a list where a state dict is expected"):
        load_pose(tmp_path / "b.pth")
    torch.save({"epoch": 3}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="holds no weights"):
        load_pose(tmp_path / "c.pth")


def test_weights_of_other_networks(tmp_path, pose, detector):
    def check(state: State, reason: str) -> None:
        torch.save(state, tmp_path / "a.pth")
        with pytest.raises(ValueError, match=reason):
            load_pose(tmp_path / "a.pth")

    state = pose.state_dict()
    check({k: v for k, v in state.items() if k.startswith("backbone.")}, "a backbone but no head: a pre-training")
    check({**state, "neck.top_down.0.weight": torch.ones(1)}, "RTMW")
    check(torch.nn.Linear(2, 2).state_dict(), r"no backbone\.stem\.0\.conv\.weight in it \(first keys: weight, bias\)")
    check({k: v for k, v in state.items() if k != "head.gau.gamma"}, r"no head\.gau\.gamma in it")
    check({**state, "backbone.extra.weight": torch.ones(2)}, r"backbone\.extra\.weight is unknown")
    check({k: v for k, v in state.items() if k != "head.gau.ln.g"}, r"head\.gau\.ln\.g is missing")
    check({**state, "head.gau.ln.g": torch.ones(2)}, r"head\.gau\.ln\.g has shape \(2,\) where \(1,\) is expected")
    check({**state, "head.cls_x.weight": torch.ones(10, 32)}, r"a\.pth is no .*: its cls_x and cls_y have 10")
    check({**state, "head.gau.gamma": torch.ones(16)}, r"a\.pth is no .*: its head has tensors with fewer axes")
    few = {**detector.state_dict(), "head.cls_preds.0.weight": torch.ones(())}
    check(few, r"a\.pth is no .*: its stem or its head has tensors with fewer axes")
    config = PoseConfig(**{**vars(pose.config), "num_keypoints": 26})
    check(DWPose(config).state_dict(), "predicts 26 keypoints; a whole-body model has 133")
    check(detector.state_dict(), "holds a detector model .* where a pose model is expected")
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"holds a pose model \(debug\) where a detector model is expected"):
        load_detector(tmp_path / "a.pth")


def test_wrong_size_says_which_one_it_is(pose):
    small = create_model("dwpose-t").state_dict()
    with pytest.raises(ValueError) as error:
        load_state(pose, small, "t.pth")
    message = str(error.value)
    assert "do not fit debug" in message and "The file fits dwpose-t" in message
    assert "has shape (12, 3, 3, 3) where (4, 3, 3, 3) is expected" in message
    with pytest.raises(ValueError, match="The file fits dwpose-l-384"):
        with torch.device("meta"):
            load_state(create_model("dwpose-l"), create_model("dwpose-l-384").state_dict(), "a.onnx")
    with pytest.raises(ValueError, match=r"conv\.weight has shape .* is expected$"):
        load_state(pose, {**pose.state_dict(), "backbone.stage1.0.conv.weight": torch.ones(3)}, "debug.pth")


@pytest.mark.parametrize(
    "change", [{"deepen": 1e9}, {"deepen": "a"}, {"widen": -1}, {"input_size": [0, 0]}, {"stages": 9}, {"tokens": "a"}]
)
def test_a_config_that_no_network_can_have(tmp_path, pose, change):
    fields = {**dataclasses.asdict(pose.config), **change}
    save_safetensors(pose, tmp_path / "a.safetensors", {"config": json.dumps(fields)})
    with pytest.raises(ValueError, match=r"a\.safetensors has an unreadable config in its metadata"):
        load_pose(tmp_path / "a.safetensors")


def test_a_half_default_type_does_not_cost_precision(tmp_path, pose):
    save_safetensors(pose, tmp_path / "a.safetensors")
    torch.set_default_dtype(torch.float16)
    try:
        loaded = load_pose(tmp_path / "a.safetensors")
    finally:
        torch.set_default_dtype(torch.float32)
    assert_equal(loaded.state_dict(), pose.state_dict())


def test_networks_are_on_the_cpu_whatever_the_default_device(tmp_path, pose):
    save_safetensors(pose, tmp_path / "a.safetensors")
    with torch.device("meta"):  # stands for a GPU
        loaded = load_pose(tmp_path / "a.safetensors")
    assert_equal(loaded.state_dict(), pose.state_dict())


def test_loading_leaves_the_random_numbers_alone(tmp_path, pose):
    save_safetensors(pose, tmp_path / "a.safetensors")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_pose(tmp_path / "a.safetensors")
    assert torch.equal(torch.rand(3), expected)


def test_names_and_paths(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"unknown pose weights 'dwpose-xl'; give a file .* or one of dwpose-l-384"):
        load_pose("dwpose-xl")
    with pytest.raises(ValueError, match=r"unknown detector weights 'dwpose-l'; .* one of yolox-l"):
        load_detector("dwpose-l")
    for missing in ("model.pth", "folder/model", tmp_path / "none.onnx"):
        with pytest.raises(FileNotFoundError, match="no weights at"):
            load_pose(missing)


# ---- catalogue -------------------------------------------------------------------------------------------------------


def test_catalogue():
    names = [entry.name for entry in catalogue.ENTRIES]
    assert len(set(names)) == len(names)
    for entry in catalogue.ENTRIES:
        assert entry.network in (rtmcc if entry.kind == "pose" else yolox).VARIANTS
        assert catalogue.find(entry.name) is entry
        assert entry.weights_licence and entry.data_licence and entry.note
        # nothing is downloaded that cannot be checked
        assert entry.repo is None or re.fullmatch("[0-9a-f]{64}", entry.sha256)
    known = {entry.filename: (entry.sha256, entry.bytes) for entry in catalogue.ENTRIES}
    assert known["dw-ll_ucoco_384.onnx"] == (
        "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
        134399116,
    )
    assert known["yolox_l.onnx"] == ("7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411", 216746733)
    # openmmlab and IDEA put the first eight digits of the digest into the file name
    for filename, (sha256, _) in known.items():
        prefix = re.search(r"-([0-9a-f]{8})_\d{8}\.pth", filename)
        assert prefix is None or sha256.startswith(prefix[1])


def test_models_table(tmp_path, monkeypatch):
    monkeypatch.setenv("DWPOSE_MODELS", str(tmp_path))
    (tmp_path / "yolox_l.onnx").write_bytes(b"x")
    table = catalogue.models_table()
    for entry in catalogue.ENTRIES:
        assert entry.name in table and entry.filename in table
    assert f"on disk   {tmp_path / 'yolox_l.onnx'}" in table
    assert "216.7 MB" in table and "640x640" in table and "288x384" in table


def test_detector_wrappers(tmp_path):
    model = filled(create_detector("yolox-nano"))
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "start_epoch": 300}, buffer)
    (tmp_path / "yolox_nano.pth").write_bytes(buffer.getvalue())
    found = load_detector(tmp_path / "yolox_nano.pth")
    assert found.name == "yolox-nano" and found.config == model.config
    assert_equal(found.state_dict(), model.state_dict())
