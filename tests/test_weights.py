"""Weight files: every wrapper of the field, hostile pickles, damaged files, catalogue, conversion."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import sys
import types
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from dwpose_core.models import PoseConfig, YOLOXConfig, catalogue, create_detector, create_model, pickles, rtmcc, yolox
from dwpose_core.models.convert import convert
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

State = dict[str, torch.Tensor]


def filled(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Every parameter and statistic at a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.05, 0.15, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def pose() -> DWPose:
    return filled(create_model("debug"))


@pytest.fixture(scope="module")
def detector() -> YOLOX:
    return filled(YOLOX(YOLOXConfig(depth=0.33, width=0.125, depthwise=True)))


def export(model: torch.nn.Module, images: torch.Tensor, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), str(path), dynamo=False)


def assert_equal(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


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


# ---- pickles ---------------------------------------------------------------------------------------------------------


class HistoryBuffer:
    """Like mmengine's: an object of a package that is not installed here, with numpy inside."""

    def __init__(self):
        self.log = np.arange(3.0)
        self.functions = OrderedDict(mean=len)


@pytest.fixture
def foreign_objects(monkeypatch):
    """What the published checkpoints carry in meta and message_hub. The module is gone when the file is read."""
    module = types.ModuleType("mmengine.logging.history_buffer")
    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return {
        "meta": {"dataset_meta": {"sigmas": np.ones(133), "joint_weights": np.float32(1.5), "classes": {1, 2}}},
        "message_hub": {"log_scalars": OrderedDict(loss=HistoryBuffer())},
        "param_schedulers": [{"step": np.int64(3), "type": np.dtype("float32")}],
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_objects_of_absent_packages(tmp_path, pose, foreign_objects, monkeypatch, zipped):
    path = tmp_path / "a.pth"
    torch.save({**foreign_objects, "state_dict": pose.state_dict()}, path, _use_new_zipfile_serialization=zipped)
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # so the second reader is what is tested here
    assert_equal(load_pose(path).state_dict(), pose.state_dict())
    assert "mmengine" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_both_readers_agree(tmp_path, zipped):
    """Views into one storage, strides, empty tensors and every type, as torch.load returns them."""
    base = torch.arange(24.0).reshape(4, 6)
    checkpoint = {
        "views": [base, base.t(), base[1:3, ::2], base[0, 0], base[:0]],
        "types": {
            str(t): torch.tensor([0, 1, 2, 100]).to(t)
            for t in (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.uint8,
                      torch.int8, torch.bool)
        },
        "parameter": torch.nn.Parameter(base.clone()),
        "plain": [1, 2.5, "text", None, True, (1, 2), torch.Size([4, 5])],
    }  # fmt: skip
    path = tmp_path / "a.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=True)
    found = (pickles._read_zip if zipped else pickles._read_legacy)(path)
    for group in (expected, found):
        group["views"] += group["types"].values()
    for a, b in zip(expected["views"], found["views"], strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    assert torch.equal(expected["parameter"], found["parameter"])
    assert found["plain"] == expected["plain"]


class Attack:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(marker: Path) -> dict[str, Attack]:
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Attack(os.system, f"touch {marker}"),
        "exec": Attack(exec, code),
        "eval": Attack(eval, f"open({str(marker)!r}, 'w')"),
        "import": Attack(__import__, "this"),
        "open": Attack(open, str(marker), "w"),
        "torch.save": Attack(torch.save, {}, str(marker)),
        "torch.load": Attack(torch.load, str(marker)),
        "os.mkdir": Attack(os.mkdir, str(marker)),
    }


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", attacks(Path("x")))
@pytest.mark.parametrize("place", ["meta", "state_dict", "key", "all"])
def test_malicious_pickle_does_not_execute(tmp_path, pose, kind, place, zipped):
    marker, path = tmp_path / "executed", tmp_path / "a.pth"
    attack = attacks(marker)[kind]
    checkpoint = {
        "meta": {"meta": attack, "state_dict": pose.state_dict()},
        "state_dict": {"state_dict": {**pose.state_dict(), "more": attack}},
        "key": {"state_dict": pose.state_dict(), (attack,): 1},
        "all": attack,
    }[place]
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    sys.modules.pop("this", None)
    if place == "all":
        with pytest.raises(ValueError, match="where a state dict is expected"):
            load_pose(path)
    else:
        assert_equal(load_pose(path).state_dict(), pose.state_dict())
    assert not marker.exists() and "this" not in sys.modules
    # the same file does harm where it is trusted, so the test means something
    if kind == "os.system" and place == "meta":
        torch.load(path, weights_only=False)
        assert marker.exists()


def zip_around(path: Path, data: bytes) -> None:
    """A checkpoint file whose pickle is `data`, with one storage of four floats."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())
        archive.writestr("a/version", "3\n")


STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        # a tensor that reaches beyond its storage
        (b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00(K\x64t(K\x01tI00\nNtR.", "storage|bounds"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x03(K\x02t(K\x01tI00\nNtR.", "storage|bounds"),
        # a tensor over something that is no storage
        (b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\nK\x00(K\x01t(K\x01tI00\nNtR.", "no storage"),
        # attributes set on the functions that rebuild tensors, which would outlive this file
        (b"ctorch._utils\n_rebuild_tensor_v2\n(N}X\x0c\x00\x00\x00__defaults__(K\x01tstb.", "state dict is expected"),
        (b"not a pickle", "damaged"),
        (b"", "damaged"),
        (b".", "damaged"),
        (b"0" * 50, "damaged"),
    ],
)
def test_hand_made_pickles(tmp_path, data, reason):
    before = pickles._rebuild_tensor.__defaults__
    zip_around(tmp_path / "a.pth", b"\x80\x02" + data if data[:1] == b"c" else data)
    with pytest.raises(ValueError, match=reason):
        load_pose(tmp_path / "a.pth")
    assert pickles._rebuild_tensor.__defaults__ == before


# ---- damaged and foreign files ---------------------------------------------------------------------------------------


def saved(model: torch.nn.Module, suffix: str, folder: Path, **options) -> bytes:
    path = folder / f"source{suffix}"
    if suffix == ".safetensors":
        save_safetensors(model, path)
    elif suffix == ".onnx":
        export(model, torch.zeros(1, 3, *model.config.input_size), path)
    else:
        torch.save({"state_dict": model.state_dict()}, path, **options)
    return path.read_bytes()


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


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_full_disk_leaves_the_old_file(tmp_path, pose, monkeypatch):
    save_safetensors(pose, tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_safetensors(filled(create_model("debug"), 9), tmp_path / "a.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert (tmp_path / "a.safetensors").read_bytes() == before


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
@pytest.mark.parametrize("which", ["pose", "detector"])
def test_convert(tmp_path, pose, detector, suffix, which):
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    model = {"pose": pose, "detector": detector}[which]
    (tmp_path / f"a{suffix}").write_bytes(saved(model, suffix, tmp_path))
    done = convert(tmp_path / f"a{suffix}", tmp_path / "b.safetensors")
    assert done.difference <= (1e-5 * done.scale if suffix == ".onnx" else 0)
    assert ("ONNX Runtime" in str(done)) == (suffix == ".onnx")
    images = torch.rand((1, 3, *model.config.input_size), generator=torch.Generator().manual_seed(0))
    again = load_network(tmp_path / "b.safetensors", which)
    with torch.inference_mode():
        for a, b in zip(model(images), again(images), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert read_metadata(tmp_path / "b.safetensors")["source"] == f"a{suffix}"


def test_convert_writes_nothing_unchecked(tmp_path, pose, monkeypatch):
    torch.save(pose.state_dict(), tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"must end in \.safetensors"):
        convert(tmp_path / "a.pth", tmp_path / "b.pth")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "none.pth", tmp_path / "b.safetensors")

    def wrong(model, path, metadata):
        save_safetensors(filled(create_model("debug"), 5), path, metadata)

    monkeypatch.setattr("dwpose_core.models.convert.save_safetensors", wrong)
    with pytest.raises(ValueError, match="was read wrongly"):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth"]


def test_reading_does_not_alter_the_file(tmp_path, pose):
    """A memory-mapped file must not be written through the network."""
    (tmp_path / "a.onnx").write_bytes(saved(pose, ".onnx", tmp_path))
    before = (tmp_path / "a.onnx").read_bytes()
    model = load_pose(tmp_path / "a.onnx")
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    assert (tmp_path / "a.onnx").read_bytes() == before


def test_detector_wrappers(tmp_path):
    model = filled(create_detector("yolox-nano"))
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "start_epoch": 300}, buffer)
    (tmp_path / "yolox_nano.pth").write_bytes(buffer.getvalue())
    found = load_detector(tmp_path / "yolox_nano.pth")
    assert found.name == "yolox-nano" and found.config == model.config
    assert_equal(found.state_dict(), model.state_dict())
