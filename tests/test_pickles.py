"""Pickles of other packages' objects are read without those packages; malicious ones do nothing."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from dwpose_core.models import create_model, pickles
from dwpose_core.models.rtmcc import DWPose
from dwpose_core.models.weights import load_pose
from tests.weight_files import assert_equal, filled


@pytest.fixture(scope="module")
def pose() -> DWPose:
    return filled(create_model("debug"))


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


def test_an_archive_with_a_damaged_table(tmp_path, pose):
    path = tmp_path / "a.pth"
    torch.save(pose.state_dict(), path)
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02")] ^= 0xFF  # the last entry of the table of contents
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.pth is damaged .*BadZipFile"):
        load_pose(path)


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
