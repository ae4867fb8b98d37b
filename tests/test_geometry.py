"""Crops, letterboxes and NMS against the original's numbers, and each transform against its inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dwpose_core import geometry


@pytest.mark.parametrize(("tag", "input_size"), [("192x256", (256, 192)), ("288x384", (384, 288))])
def test_crops_match_the_original(shared, tag, input_size):
    golden = np.load(shared / "golden" / "affine.npz")
    center, scale = geometry.box_to_center_scale(golden["boxes"], input_size)
    np.testing.assert_allclose(center, golden[f"center_{tag}"], rtol=1e-6)
    np.testing.assert_allclose(scale, golden[f"scale_{tag}"], rtol=1e-6)
    matrices = geometry.crop_matrix(center, scale, input_size, golden["rot"])
    # The original solves three float32 point pairs, so an absolute error of 1e-3 px across the image is its own noise.
    np.testing.assert_allclose(matrices, golden[f"warp_{tag}"], rtol=1e-6, atol=1e-3)
    points = np.einsum("pij,pkj->pki", matrices[:, :, :2], golden[f"keypoints_in_{tag}"]) + matrices[:, None, :, 2]
    np.testing.assert_allclose(points, golden[f"keypoints_out_{tag}"], rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize(("tag", "input_size"), [("192x256", (256, 192)), ("288x384", (384, 288))])
def test_crop_pixels_match_the_original(shared, tag, input_size):
    golden = np.load(shared / "golden" / "affine.npz")
    for case, expected in zip(golden[f"crop_cases_{tag}"], golden[f"crops_{tag}"], strict=True):
        center, scale = geometry.box_to_center_scale(golden["boxes"][case : case + 1], input_size)
        matrix = geometry.crop_matrix(center, scale, input_size, golden["rot"][case])[0]
        got = geometry.warp_affine(golden["image"], matrix, input_size)
        difference = np.abs(got.astype(int) - expected)
        assert difference.max() <= 6
        assert (difference > 0).mean() < 1e-4
        if golden["rot"][case] == 0:
            own = geometry.crop(golden["image"], golden["boxes"][case : case + 1], input_size)[0]
            np.testing.assert_array_equal(own, expected)


def test_tensor_crop_agrees_with_the_cpu():
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (24, 32, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    boxes = np.array([[30, 20, 200, 220], [-40, -20, 90, 120], [100.5, 50.25, 318.75, 239]])
    plain = geometry.crop(image, boxes, (128, 96))
    device = geometry.crop(torch.from_numpy(image), boxes, (128, 96)).numpy()
    # The CPU interpolates on a grid of 1/32 pixel: at a step of 255 grey levels that is 8 levels.
    assert np.abs(plain.astype(int) - device).max() <= 8
    assert np.abs(plain.astype(int) - device).mean() < 0.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around_a_call_moves_no_crop(dtype):
    rows, columns = torch.meshgrid(torch.arange(600), torch.arange(900), indexing="ij")
    image = torch.stack((columns % 256, rows % 256, columns // 256), dim=-1).to(torch.uint8)
    boxes = np.array([[600.3, 100.7, 800.2, 500.4]])
    plain = geometry.crop(image, boxes, (128, 96))
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(geometry.crop(image, boxes, (128, 96)), plain)


def test_no_boxes_give_no_crops():
    image = np.zeros((50, 60, 3), np.uint8)
    for kind in (image, torch.from_numpy(image)):
        assert geometry.crop(kind, np.zeros((0, 4)), (64, 48)).shape == (0, 64, 48, 3)


@pytest.mark.parametrize("axis", [0, 1])
def test_crops_of_pictures_that_opencv_does_not_take(axis):
    """A strip of 34000 px: a box in it gives the pixels of the same box in a piece of it; all of it is thinned."""
    rng = np.random.default_rng(0)
    strip = np.repeat(rng.integers(0, 256, (3400, 20, 3), np.uint8), 10, axis=0)
    piece, boxes = strip[33000:], np.array([[2, 150, 18, 900]], np.float32)
    moved = boxes + np.float32((0, 33000, 0, 33000))
    if axis:
        strip, piece = (np.ascontiguousarray(image.transpose(1, 0, 2)) for image in (strip, piece))
        boxes, moved = boxes[:, [1, 0, 3, 2]], moved[:, [1, 0, 3, 2]]
    np.testing.assert_array_equal(geometry.crop(strip, moved, (256, 192)), geometry.crop(piece, boxes, (256, 192)))
    whole = geometry.crop(strip, np.array([[0, 0, *strip.shape[1::-1]]]), (256, 192))
    assert whole.any()


def test_points_survive_the_round_trip():
    boxes = np.array([[10, 20, 110, 320], [0, 0, 640, 100]], np.float32)
    center, scale = geometry.box_to_center_scale(boxes, (256, 192))
    matrices = geometry.crop_matrix(center, scale, (256, 192))
    points = np.random.default_rng(1).uniform(0, 300, (2, 50, 2)).astype(np.float32)
    crop_points = np.einsum("pij,pkj->pki", matrices[:, :, :2], points) + matrices[:, None, :, 2]
    np.testing.assert_allclose(geometry.keypoints_to_image(crop_points, boxes, (256, 192)), points, atol=1e-3)


@pytest.mark.parametrize("size", [(480, 640), (1, 1), (10, 20000), (20000, 10), (641, 640)])
def test_letterbox_keeps_every_image_inside(size):
    image = np.full((*size, 3), 200, np.uint8)
    batch, ratio = geometry.letterbox([image], (64, 64))
    other, _ = geometry.letterbox([torch.from_numpy(image)], (64, 64))
    assert batch.shape == (1, 64, 64, 3)
    assert (batch[0, 0, 0] == 200).all()
    assert ratio[0] == pytest.approx(min(64 / size[0], 64 / size[1]))
    np.testing.assert_array_equal(batch, other.numpy())


def test_nms_order_and_threshold():
    boxes = np.array([[0, 0, 99, 99], [0, 0, 99, 89], [200, 0, 299, 99], [0, 50, 99, 149]], np.float32)
    scores = np.array([0.5, 0.9, 0.7, 0.4], np.float32)
    assert geometry.nms(boxes, scores, 0.45).tolist() == [1, 2, 3]
    assert geometry.nms(boxes, scores, 0.95).tolist() == [1, 2, 0, 3]
    assert geometry.nms(boxes[:0], scores[:0], 0.45).tolist() == []


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[10, 10, 10, 50]], "empty"),
        ([[50, 10, 10, 50]], "not x, y, w, h"),
        ([[700, 10, 800, 50]], "outside the image"),
        ([[0, 0, np.nan, 5]], "finite"),
        ([0, 0, 5, 5], "shape"),
        ([[1, 2, 3, 4], [1, 2]], r"boxes must be \(P, 4\) numbers"),
        (["0,0,5,5"], "boxes must be"),
        ({"x": 1}, "boxes must be"),
    ],
)
def test_bad_boxes_say_what_is_wrong(boxes, message):
    with pytest.raises(ValueError, match=message):
        geometry.check_boxes(boxes, (480, 640))


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"requires_grad": True}, {"dtype": torch.int64}])
def test_boxes_as_another_detector_leaves_them(options):
    given = geometry.check_boxes(torch.tensor([[10, 20, 30, 40]], **{"dtype": torch.float32, **options}), (480, 640))
    assert given.dtype == np.float32
    assert given.tolist() == [[10, 20, 30, 40]]


def test_nms_counts_pixels():
    """Boxes of 4 x 4 and, in it, 4 x 2 pixels by the last one included: IoU 8 / 16."""
    boxes = np.array([[0, 0, 3, 3], [0, 0, 3, 1]], np.float32)
    scores = np.array([0.9, 0.8], np.float32)
    assert geometry.nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert geometry.nms(boxes, scores, 0.49).tolist() == [0]


def test_a_crop_at_full_size_is_a_piece_of_the_image():
    """A box whose padded sides are those of the input: columns 26 .. 73, rows 18 .. 81 around (50, 50)."""
    image = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    half = np.array([48, 64]) / geometry.PADDING / 2
    (crop,) = geometry.crop(image, np.array([[*(50 - half), *(50 + half)]]), (64, 48))
    np.testing.assert_array_equal(crop, image[18:82, 26:74])


@pytest.mark.parametrize(("shift", "steps"), [(0.3, 0), (0.6, 1), (1.4, 1), (1.6, 2), (-0.6, -1)])
def test_warps_look_at_the_nearest_thirty_second_of_a_pixel(shift, steps):
    """In a ramp of 32 grey levels a pixel, one step is one level."""
    ramp = np.repeat(np.arange(8, dtype=np.uint8) * 32, 3).reshape(1, 8, 3)
    moved = geometry.warp_affine(ramp, np.array([[1, 0, -shift / 32], [0, 1, 0]]), (1, 8))
    assert moved[0, 4].tolist() == [4 * 32 + steps] * 3
