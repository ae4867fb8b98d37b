"""Files written: converting, a full disk, reading that changes nothing."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from dwpose_core.models import YOLOXConfig, create_model
from dwpose_core.models.convert import convert
from dwpose_core.models.export import export_onnx
from dwpose_core.models.rtmcc import DWPose
from dwpose_core.models.weights import load_network, load_pose, read_metadata, save_safetensors
from dwpose_core.models.yolox import YOLOX
from tests.weight_files import filled, saved


@pytest.fixture(scope="module")
def pose() -> DWPose:
    return filled(create_model("debug"))


@pytest.fixture(scope="module")
def detector() -> YOLOX:
    return filled(YOLOX(YOLOXConfig(depth=0.33, width=0.125, depthwise=True)))


@pytest.mark.parametrize("opset", [0, 5, 99])
def test_an_operator_set_that_cannot_be_written(tmp_path, pose, opset):
    with pytest.raises(ValueError, match=f"opset must be 7 to 20, got {opset}"):
        export_onnx(pose, tmp_path / "pose.onnx", opset=opset)
    assert not list(tmp_path.iterdir())


def test_equal_weights_are_equal_bytes(tmp_path, pose):
    """The library's own order of the text entries differs from call to call."""
    text = {f"entry {k}": 'größer "und" kleiner\n' * k for k in range(9)}
    for number in range(6):
        save_safetensors(pose, tmp_path / f"{number}.safetensors", dict(sorted(text.items(), reverse=number % 2 == 0)))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    assert text.items() <= read_metadata(tmp_path / "0.safetensors").items()
    torch.testing.assert_close(load_pose(tmp_path / "0.safetensors").state_dict(), pose.state_dict(), rtol=0, atol=0)


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
