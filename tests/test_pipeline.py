"""The straight line against the original's numbers, and its promises: batching, empty results, options."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from dwpose_core import pipeline
from dwpose_core.backends import TorchRunner, pick_device
from dwpose_core.models import create_detector, create_model
from dwpose_core.pipeline import Options, estimate_people
from dwpose_core.skeleton import NUM_KEYPOINTS


def read_rgb(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def filled_t(fill):
    return TorchRunner(fill.fill_module(create_model("dwpose-t")), "cpu")


@pytest.fixture(scope="module")
def debug():
    torch.manual_seed(0)
    return TorchRunner(create_model("debug"), "cpu")


class FigurePose:
    """A pose runner with no network: a figure upright in the middle of every crop, with given scores."""

    name = description = "figure"
    device = torch.device("cpu")
    input_size = (64, 48)

    def __init__(self, score=1.0):
        self.score = score

    def __call__(self, crops):
        height, width = self.input_size
        rows = torch.linspace(0.2, 0.8, NUM_KEYPOINTS)
        bins_x, bins_y = (rows.flip(0) * 2 * width).long(), (rows * 2 * height).long()
        x = torch.zeros(len(crops), NUM_KEYPOINTS, 2 * width)
        y = torch.zeros(len(crops), NUM_KEYPOINTS, 2 * height)
        x[:, torch.arange(NUM_KEYPOINTS), bins_x] = self.score
        y[:, torch.arange(NUM_KEYPOINTS), bins_y] = self.score
        return x, y


class BoxDetector:
    """A detector runner that finds one and the same box in every image, at the given score."""

    name = description = "box"
    device = torch.device("cpu")
    input_size = (64, 64)

    def __init__(self, score=0.9, size=(16, 16)):
        self.score, self.size = score, size

    def __call__(self, images):
        raw = torch.zeros(len(images), 84, 85)  # 8*8 + 4*4 + 2*2 anchors
        raw[:, 27, 2:4] = (torch.tensor(self.size) / 8).log()  # (w, h) pixels around cell (3, 3) of stride 8
        raw[:, 27, 4] = self.score
        raw[:, 27, 5] = 1.0
        return (raw,)


@pytest.mark.parametrize("photo", ["000000000785", "000000040083"])
def test_keypoints_match_the_original_onnx_path(shared, filled_t, photo):
    golden = np.load(shared / "golden" / "onnx_pose_t.npz")
    key = f"{photo}/"
    image = read_rgb(shared / "data" / f"{photo}.jpg")
    (people,) = estimate_people([image], filled_t, None, [golden[key + "boxes"]], Options(refine=False))
    sure = golden[key + "margin"] > 1e-3
    assert sure.mean() > 0.9
    difference = np.abs(people.xy - golden[key + "keypoints"]).max(axis=-1)
    assert difference[sure].max() <= 1e-2
    np.testing.assert_allclose(people.score, golden[key + "scores"], atol=1e-4)


@pytest.mark.parametrize("photo", ["000000000785", "000000040083"])
def test_whole_image_matches_the_original_fallback(shared, filled_t, photo):
    golden = np.load(shared / "golden" / "onnx_pose_t.npz")
    image = read_rgb(shared / "data" / f"{photo}.jpg")
    (people,) = estimate_people([image], filled_t, None, options=Options(refine=False))
    np.testing.assert_allclose(people.score, golden[f"{photo}/fullframe_scores"], atol=1e-4)
    close = np.abs(people.xy - golden[f"{photo}/fullframe_keypoints"]).max(axis=-1) <= 1e-2
    assert close.mean() > 0.99  # no margins are stored for these: a near tie may fall either way


@pytest.mark.parametrize("flip_test", ["off", "original", "corrected"])
def test_one_by_one_and_in_one_batch_agree(debug, flip_test):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((90, 120), (64, 64), (200, 50))]
    boxes = [np.array([[10, 10, 60, 80], [20, 5, 110, 85]]), np.zeros((0, 4)), np.array([[-10, 20, 45, 190]])]
    together = estimate_people(images, debug, None, boxes, Options(flip_test=flip_test))
    single = [
        estimate_people([image], debug, None, [b], Options(flip_test=flip_test, people_batch=1))[0]
        for image, b in zip(images, boxes, strict=True)
    ]
    assert [len(people) for people in together] == [2, 0, 1]
    for a, b in zip(together, single, strict=True):
        np.testing.assert_allclose(a.xy, b.xy, atol=1e-4)
        np.testing.assert_allclose(a.score, b.score, atol=1e-5)


def test_tensors_and_arrays_give_the_same_people(debug):
    image = np.random.default_rng(1).integers(0, 256, (80, 60, 3), dtype=np.uint8)
    boxes = [np.array([[5, 5, 50, 70]])]
    (a,) = estimate_people([image], debug, None, boxes)
    (b,) = estimate_people([torch.from_numpy(image)], debug, None, boxes)
    np.testing.assert_array_equal(a.xy, b.xy)


def test_nobody_is_an_empty_result():
    image = np.zeros((100, 80, 3), np.uint8)
    for detector, pose in ((BoxDetector(0.2), FigurePose()), (None, FigurePose(0.1))):
        (people,) = estimate_people([image], pose, detector)
        assert len(people) == 0
        assert people.image_size == (100, 80)


def test_detector_box_and_provenance():
    (people,) = estimate_people([np.zeros((128, 128, 3), np.uint8)], FigurePose(), BoxDetector())
    assert people.source == "box + figure"
    # Cell (3, 3) of stride 8 is centred on 24 letterbox pixels; the image is twice as large.
    np.testing.assert_allclose(people.box, [[32, 32, 64, 64]], atol=1e-4)
    assert people.box_score == pytest.approx(0.9)
    (people,) = estimate_people([np.zeros((128, 128, 3), np.uint8)], FigurePose(), BoxDetector(), [[[0, 0, 9, 9]]])
    assert people.source == "figure", "with boxes that are given no detector runs"


def test_the_detector_sees_bgr_and_the_pose_network_normalised_rgb():
    seen = {}

    class Seeing(FigurePose):
        def __call__(self, crops):
            seen["pose"] = crops[0, :, 32, 24].tolist()
            return super().__call__(crops)

    class SeeingBoxes(BoxDetector):
        def __call__(self, images):
            seen["detector"] = images[0, :, 0, 0].tolist()
            return super().__call__(images)

    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    estimate_people([red], Seeing(), SeeingBoxes())
    assert seen["detector"] == [0, 0, 255]
    expected = [(255 - 123.675) / 58.395, -116.28 / 57.12, -103.53 / 57.375]
    np.testing.assert_allclose(seen["pose"], expected, rtol=1e-5)


@pytest.mark.parametrize(("min_size", "count"), [(39, 1), (41, 0)])
def test_small_is_who_is_small_on_the_longer_side(min_size, count):
    detector, options = BoxDetector(size=(4, 40)), Options(min_size=min_size)
    (people,) = estimate_people([np.zeros((64, 64, 3), np.uint8)], FigurePose(), detector, options=options)
    assert len(people) == count


def test_the_second_box_holds_points_of_half_the_threshold():
    """The hand at the lower end of the figure is as good as unseen."""
    score = torch.ones(NUM_KEYPOINTS)
    image = np.zeros((200, 100, 3), np.uint8)
    boxes = []
    for last in (1.0, 0.2, 0.1):
        score[-21:] = last
        (people,) = estimate_people([image], FigurePose(score), None, options=Options(keypoint_threshold=0.3))
        boxes.append(people.box[0])
    np.testing.assert_array_equal(boxes[0], boxes[1])
    assert boxes[2][3] < boxes[0][3] - 10


def test_two_passes_tighten_the_box():
    image = np.zeros((200, 100, 3), np.uint8)
    (once,) = estimate_people([image], FigurePose(), None, options=Options(refine=False))
    (twice,) = estimate_people([image], FigurePose(), None)
    np.testing.assert_allclose(once.box, [[0, 0, 100, 200]])
    points = once.xy[0]
    padded = (points.max(0) - points.min(0)) * pipeline.KEYPOINT_BOX_PADDING
    np.testing.assert_allclose(twice.box[0, 2:] - twice.box[0, :2], np.minimum(padded, [100, 200]), rtol=1e-5)


def test_a_worse_second_pass_is_dropped():
    class Wavering(FigurePose):
        def __call__(self, crops):
            x, y = super().__call__(crops)
            self.score *= 0.5  # less sure of every later look
            return x, y

    image = np.zeros((200, 100, 3), np.uint8)
    (people,) = estimate_people([image], Wavering(), None)
    np.testing.assert_allclose(people.box, [[0, 0, 100, 200]])
    assert people.score.min() == 1.0


def test_max_people_keeps_the_first_boxes(debug):
    boxes = [np.array([[0, 0, 40, 40], [10, 10, 60, 60], [20, 20, 80, 80]])]
    (people,) = estimate_people([np.zeros((90, 90, 3), np.uint8)], debug, None, boxes, Options(max_people=2))
    np.testing.assert_array_equal(people.box, boxes[0][:2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip_test": "yes"}, "flip_test"),
        ({"people_batch": 0}, "people_batch"),
        ({"max_people": 0}, "max_people"),
        ({"nms_threshold": 0}, "nms_threshold"),
        ({"max_people": 1.5}, "max_people.*whole number"),
        ({"image_batch": True}, r"batch_size \(image_batch\)"),
        ({"detector_threshold": float("nan")}, "detector_threshold.*from 0 to 1"),
        ({"detector_threshold": 3}, "detector_threshold"),
        ({"detector_threshold": "0.3"}, "detector_threshold"),
        ({"keypoint_threshold": -1}, "keypoint_threshold"),
        ({"min_size": -1}, "min_size"),
        ({"detector_size": 300}, "detector_size must be a multiple of 32"),
        ({"detector_size": 0}, "detector_size"),
        ({"detector_size": 320.0}, "detector_size"),
        ({"detector_size": True}, "detector_size"),
        ({"refine": "no"}, "refine"),
    ],
)
def test_bad_options(changes, message):
    with pytest.raises(ValueError, match=message):
        Options(**changes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs(dtype):
    runner = TorchRunner(create_model("debug"), "cpu", dtype)
    boxes = [np.array([[0, 0, 60, 60]])]
    (people,) = estimate_people([np.full((64, 64, 3), 90, np.uint8)], runner, None, boxes)
    assert people.xy.dtype == np.float32
    assert np.isfinite(people.xy).all()
    assert str(dtype).removeprefix("torch.") in people.source


def test_folding_batchnorm_changes_nothing(fill):
    net = fill.fill_module(create_model("dwpose-t")).eval()
    crops = torch.randn(2, 3, 256, 192, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = net(crops)
    folded = TorchRunner(net, "cpu")(crops)
    for a, b in zip(plain, folded, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_detector_runner_accepts_batches():
    runner = TorchRunner(create_detector("yolox-nano"), "cpu")
    (raw,) = runner(torch.zeros(2, 3, 64, 96))
    assert raw.shape == (2, (8 * 12 + 4 * 6 + 2 * 3), 85)


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "xpu:7"])
def test_a_missing_device_is_an_error(device):
    with pytest.raises(ValueError, match="device"):
        pick_device(device)


@pytest.mark.parametrize(("device", "overlaps"), [("cuda:1", True), ("mps", False)])
def test_only_cuda_may_copy_pictures_while_we_go_on(monkeypatch, device, overlaps):
    """Apple's devices read the host's memory later, and would find there what came after the picture."""
    calls = []
    monkeypatch.setattr(torch.Tensor, "to", lambda image, where, **how: calls.append((str(where), how)) or image)
    pipeline._to_runner_device(np.zeros((4, 6, 3), np.uint8), SimpleNamespace(device=torch.device(device)))
    assert calls == [(device, {"non_blocking": overlaps})]


def test_device_path_finds_the_same_people(fill, shared, filled_t, monkeypatch):
    """Images as tensors on the networks' device, as on a GPU: letterbox and crops by PyTorch instead of OpenCV."""
    image = read_rgb(shared / "data" / "000000000785.jpg")
    boxes = [np.array([[280, 40, 500, 400], [-20, 30, 200, 380]])]
    (plain,) = estimate_people([image], filled_t, None, boxes)
    monkeypatch.setattr(pipeline, "_to_runner_device", lambda image, pose: torch.as_tensor(image))
    (device,) = estimate_people([image], filled_t, None, boxes)
    # Crops differ by the CPU's 1/32 pixel grid: random weights amplify that to a hundredth of a score.
    np.testing.assert_allclose(plain.score, device.score, atol=0.05)
    assert np.median(np.abs(plain.xy - device.xy)) < 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.05), (torch.float16, 0.1)])
def test_cuda_agrees_with_the_cpu(dtype, tolerance):
    torch.manual_seed(0)
    net = create_model("dwpose-t")
    torch.nn.init.normal_(net.head.mlp[1].weight)
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    boxes = [np.array([[10, 10, 200, 290], [150, 0, 390, 280]])]
    (cpu,) = estimate_people([image], TorchRunner(net, "cpu"), None, boxes)
    (gpu,) = estimate_people([image], TorchRunner(net, "cuda", dtype), None, boxes)
    np.testing.assert_allclose(cpu.score, gpu.score, atol=tolerance)
