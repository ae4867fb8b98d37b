"""The person detector on real weights and real photographs, through PyTorch and through ONNX Runtime."""

from __future__ import annotations

import zlib

import cv2
import numpy as np
import pytest
import torch

from dwpose_core import DWposeDetector
from dwpose_core.backends import OnnxRunner, TorchRunner
from dwpose_core.geometry import letterbox, nms
from dwpose_core.models import create_detector
from dwpose_core.models.weights import load_detector
from dwpose_core.models.yolox import VARIANTS, anchor_points, decode_people
from dwpose_core.pipeline import Options, find_boxes

PHOTOS = ("000000000785", "000000040083")


@pytest.fixture(scope="module", params=["torch", "onnx"])
def nano(request, shared):
    path = shared / "data" / "yolox_nano.onnx"
    if request.param == "torch":
        return TorchRunner(load_detector(path), "cpu")
    pytest.importorskip("onnxruntime")
    return OnnxRunner(path, "cpu")


@pytest.mark.parametrize("photo", PHOTOS)
def test_boxes_match_the_original(shared, nano, photo):
    golden = np.load(shared / "golden" / "yolox_nano.npz")
    bgr = cv2.imread(str(shared / "data" / f"{photo}.jpg"))
    if zlib.crc32(bgr.tobytes()) != int(golden[f"{photo}/bgr/image_crc32"]):
        pytest.skip("this JPEG decoder gives other pixels than the reference's")
    image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    ((boxes, scores),) = find_boxes([image], nano, Options())
    np.testing.assert_allclose(boxes, golden[f"{photo}/bgr/person_boxes"][:, :4], atol=0.05)
    # Everything above the original's pre-selection at 0.1, too: class-aware NMS leaves people to themselves.
    everyone = golden[f"{photo}/bgr/dets"]
    everyone = everyone[everyone[:, 5] == 0]
    ((boxes, scores),) = find_boxes([image], nano, Options(detector_threshold=0.1))
    np.testing.assert_allclose(boxes, everyone[:, :4], atol=0.05)
    np.testing.assert_allclose(scores, everyone[:, 4], atol=1e-4)


def test_colour_order_matters(shared, nano):
    """Feeding BGR where RGB is due gives the golden of the wrong order: the check above can tell the two apart."""
    golden = np.load(shared / "golden" / "yolox_nano.npz")
    bgr = cv2.imread(str(shared / "data" / "000000000785.jpg"))
    ((boxes, _),) = find_boxes([bgr], nano, Options())
    right, wrong = (golden[f"000000000785/{order}/person_boxes"] for order in ("bgr", "rgb"))
    np.testing.assert_allclose(boxes, wrong[:, :4], atol=0.05)
    assert np.abs(boxes - right[:, :4]).max() > 0.5


def test_a_batch_gives_the_boxes_of_its_images(shared, nano):
    images = [cv2.cvtColor(cv2.imread(str(shared / "data" / f"{p}.jpg")), cv2.COLOR_BGR2RGB) for p in PHOTOS]
    single = [find_boxes([image], nano, Options())[0] for image in images]
    together = find_boxes(images, nano, Options())
    for (a, _), (b, _) in zip(single, together, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-2)


def test_a_larger_input_finds_smaller_people(shared, nano):
    """A photograph shrunk to a twentieth, in a corner of a grey picture: found at 1280 pixels and not at 416. An ONNX
    file of one size says so."""
    photo = cv2.cvtColor(cv2.imread(str(shared / "data" / "000000000785.jpg")), cv2.COLOR_BGR2RGB)
    image = np.full_like(photo, 114)
    small = cv2.resize(photo, None, fx=0.05, fy=0.05, interpolation=cv2.INTER_AREA)
    image[: small.shape[0], : small.shape[1]] = small
    ((boxes, _),) = find_boxes([image], nano, Options(detector_size=416))
    assert len(boxes) == 0
    large = Options(detector_size=1280)
    if isinstance(nano, OnnxRunner):
        with pytest.raises(ValueError, match="detector_size 1280: yolox_nano takes 416 x 416 pixels only"):
            find_boxes([image], nano, large)
        with pytest.raises(ValueError, match="Leave detector_size out"):  # before the first picture
            DWposeDetector(nano, nano, large)
        return
    ((whole, _),), ((boxes, _),) = find_boxes([photo], nano, Options()), find_boxes([image], nano, large)
    assert len(boxes) == len(whole) == 1
    np.testing.assert_allclose(boxes, whole * 0.05, atol=2)


def test_device_letterbox_finds_the_same_people(shared):
    net = TorchRunner(load_detector(shared / "data" / "yolox_nano.onnx"), "cpu")
    image = cv2.cvtColor(cv2.imread(str(shared / "data" / "000000000785.jpg")), cv2.COLOR_BGR2RGB)
    plain, _ = letterbox([image], net.input_size)
    tensor, _ = letterbox([torch.from_numpy(image)], net.input_size)
    assert np.abs(plain.astype(int) - tensor.numpy()).max() <= 2
    ((a, _),) = find_boxes([image], net, Options())
    ((b, _),) = find_boxes([torch.from_numpy(image)], net, Options())
    np.testing.assert_allclose(a, b, atol=1.0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_runs(name):
    size = (64, 96)
    with torch.inference_mode():
        raw = create_detector(name).eval()(torch.full((1, 3, *size), 114.0))
    assert raw.shape == (1, 8 * 12 + 4 * 6 + 2 * 3, 85)
    assert ((raw[..., 4:] >= 0) & (raw[..., 4:] <= 1)).all()
    ((boxes, scores),) = decode_people(raw, size, threshold=-1.0)
    assert len(boxes) == len(scores) == raw.shape[1]
    kept = nms(boxes, scores, 0.45)
    assert 0 < len(kept) <= len(boxes)


def test_inference_leaves_a_training_alone():
    """The grid of a size is kept; whoever asks first must not make it useless for gradients."""
    size, device = (32 * 7, 32 * 5), torch.device("cpu")
    with torch.inference_mode():
        anchor_points(size, device)
    cells, strides = anchor_points(size, device)
    raw = torch.ones(1, requires_grad=True)
    ((raw + cells) * strides).sum().backward()
    assert raw.grad is not None


def test_unknown_detector():
    with pytest.raises(ValueError, match="yolox-nano"):
        create_detector("yolox-xxl")
