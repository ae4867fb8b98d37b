"""DWPose Estimate against a stub of ComfyUI."""

from __future__ import annotations

import collections
import dataclasses
import json
import sys

import numpy as np
import pytest
import torch

from tests import comfy_stub as stub
from tests.comfy_stub import run
from tests.people_samples import some_people


@pytest.fixture(scope="module")
def model(comfy_server):
    return run(comfy_server, "DWPoseLoader", pose="dw-debug.safetensors", detector="yolox_nano.safetensors")[0]


def estimated(comfy, model, frames: int = 3, **inputs):
    images = torch.rand(frames, 96, 128, 3, generator=torch.Generator().manual_seed(0))
    boxes = {"x": 10, "y": 5, "width": 60, "height": 80}
    return run(comfy, "DWPoseEstimate", **{"model": model, "image": images, "boxes": boxes, **inputs})


def test_estimate(comfy, model):
    result = estimated(comfy, model, keypoint_threshold=0.0, size="width x height", width=64, height=32)
    assert result[0].shape == (3, 32, 64, 3) and result[0].dtype == torch.float32
    assert [len(frame["people"]) for frame in result[1]] == [1, 1, 1]
    assert (result[1][0]["canvas_height"], result[1][0]["canvas_width"]) == (96, 128)
    box = result[2][2][0]
    assert (box["x"], box["y"], box["width"], box["height"]) == (10, 5, 60, 80)
    assert json.loads(result.ui["openpose_json"][0]) == result[1]
    assert comfy.progress[-1][:2] == (3, 3) and comfy.progress[-1][2][0] == "JPEG"
    (models, options) = comfy.loaded[0]
    assert [patcher.model for patcher in models] == [model.pose.runner.net, model.detector.runner.net]
    assert options["memory_required"] > 0
    assert comfy.texts == [("7", "3 frames, 1 person in each")]


def test_estimate_does_what_the_library_does(comfy, model):
    from dwpose_core import Options
    from dwpose_core.backends import TorchRunner
    from dwpose_core.models.weights import load_pose
    from dwpose_core.openpose import to_openpose
    from dwpose_core.pipeline import estimate_people

    result = estimated(comfy, model, frames=1, keypoint_threshold=0.0, feet=True)
    image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(0))
    runner = TorchRunner(load_pose(comfy.home / "models" / "dwpose" / "dw-debug.safetensors"), "cpu")
    pixels = (image[0] * 255).round().to(torch.uint8).numpy()
    people = estimate_people([pixels], runner, None, [np.float32([[10, 5, 70, 85]])], Options(keypoint_threshold=0.0))
    assert result[1] == to_openpose(people, threshold=0.0)


def test_a_box_that_leaves_the_picture_is_the_librarys_box(comfy, model):
    """A body half in the picture has its keypoints where the whole box says, not where the rest of it would."""
    from dwpose_core import Options
    from dwpose_core.backends import TorchRunner
    from dwpose_core.models.weights import load_pose
    from dwpose_core.openpose import to_openpose
    from dwpose_core.pipeline import estimate_people

    box = {"x": -30, "y": 20, "width": 80, "height": 160}
    result = estimated(comfy, model, frames=1, keypoint_threshold=0.0, boxes=box)
    image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(0))
    runner = TorchRunner(load_pose(comfy.home / "models" / "dwpose" / "dw-debug.safetensors"), "cpu")
    pixels = (image[0] * 255).round().to(torch.uint8).numpy()
    people = estimate_people(
        [pixels], runner, None, [np.float32([[-30, 20, 50, 180]])], Options(keypoint_threshold=0.0)
    )
    assert result[1] == to_openpose(people, threshold=0.0)
    assert {key: result[2][0][0][key] for key in box} == box


def test_switches_are_for_the_drawing_only(comfy, model):
    off = estimated(comfy, model, frames=1, keypoint_threshold=0.0, hands=False, face=False, body=False)
    on = estimated(comfy, model, frames=1, keypoint_threshold=0.0, feet=True)
    assert off[1] == on[1] and any(on[1][0]["people"][0]["foot_keypoints_2d"])
    assert on[0].any() and not off[0].any()


def test_feet_without_a_body_leave_the_face_its_eyes(comfy, model, monkeypatch):
    people = sys.modules[f"{comfy.package.__name__}.nodes.sockets"].to_people(stub.clip([stub.figure(200)]))
    monkeypatch.setattr(sys.modules[f"{comfy.package.__name__}.nodes.estimate"], "estimate", lambda *_: iter([people]))
    shown = {"image": torch.zeros(1, 300, 400, 3), "size": "source", "hands": False, "body": False}
    face, feet, both = (
        estimated(comfy, model, **shown, face=face, feet=feet)[0]
        for face, feet in ((True, False), (False, True), (True, True))
    )
    assert torch.equal(both, torch.maximum(face, feet)) and face[0, 45, 195].all() and feet.any()


def test_no_images_are_an_error(comfy, model):
    with pytest.raises(ValueError, match="no images"):
        estimated(comfy, model, frames=0)
    with pytest.raises(ValueError, match="no images"):
        estimated(comfy, model, frames=0, boxes=None, mask=torch.ones(1, 96, 128))
    with pytest.raises(ValueError, match="no masks"):
        estimated(comfy, model, boxes=None, mask=torch.ones(0, 96, 128))


def test_nobody_found_is_said(comfy, model):
    mask = torch.zeros(3, 96, 128)
    mask[1, 20:60, 30:70] = 1
    result = estimated(comfy, model, boxes=None, mask=mask.bfloat16(), keypoint_threshold=0.0)
    assert result.ui["text"] == ("Nobody found in 2 of 3 frames: 0, 2",)
    assert comfy.texts == [("7", result.ui["text"][0])]
    assert [len(boxes) for boxes in result[2]] == [0, 1, 0]
    assert result[2][1][0]["x"] == 30 and result[2][1][0]["height"] == 40
    nothing = estimated(comfy, model, boxes=None, mask=torch.zeros(1, 64, 64))
    assert nothing.ui["text"] == ("Nothing is selected in the mask. Nobody found in any of 3 frames.",)
    # the browser ignores an empty text, so a good run has to say something, or "Nobody found" stays on the node
    comfy.texts.clear()
    assert estimated(comfy, model, frames=1, keypoint_threshold=0.0).ui["text"] == ("1 person",)
    assert comfy.texts == [("7", "1 person")]


def test_people_without_a_point_to_draw_are_said(comfy, model):
    for frames, text in ((1, "1 person"), (2, "2 frames, 1 person in each")):
        result = estimated(comfy, model, frames=frames, keypoint_threshold=2.0)
        assert not result[0].any()
        assert result.ui["text"] == (f"{text}; not drawn, as no point scores 2",)
    people = some_people(2)
    hidden = dataclasses.replace(people, score=people.score * [[1], [0]])
    text = sys.modules[f"{comfy.package.__name__}.nodes.sockets"].found_text([hidden, people[:0]], 0.3)
    assert text == "Nobody found in 1 of 2 frames: 1; 1 of 2 not drawn, as no point scores 0.3"


def test_a_mask_beside_boxes_is_said_to_be_ignored(comfy, model):
    result = estimated(comfy, model, frames=1, mask=torch.zeros(1, 96, 128), keypoint_threshold=0.0)
    assert result.ui["text"] == ("The mask is not used, as boxes are connected. 1 person",)


def test_own_boxes_keep_their_scores_and_are_filtered_by_them(comfy, model):
    boxes = [
        {"x": 10 * i, "y": 5, "width": 20, "height": 40 + i, "score": score}
        for i, score in enumerate((0.5, 0.9, 0.2, 0.8))
    ]

    def found(**inputs):
        result = estimated(comfy, model, frames=1, keypoint_threshold=0.0, **{"boxes": boxes, **inputs})
        scores = [round(box["score"], 3) for box in result[2][0]]
        assert [round(person["score"], 3) for person in result[1][0]["people"]] == scores
        return scores

    assert found() == [0.5, 0.9, 0.2, 0.8]
    assert found(max_people=2) == [0.9, 0.8]  # the surest, in the order they came in
    assert found(min_size=42) == [0.2, 0.8]
    assert found(boxes=[(0, 0, 50, 50), (10, 0, 60, 70)], max_people=1) == [1.0]  # BBOX
    assert found(boxes=segs((96, 128), (5, 5, 60, 70)), max_people=1) == [0.9]
    assert found(boxes=[], min_size=10) == []


def test_whole_image_needs_no_detector(comfy, model):
    result = estimated(comfy, model, frames=1, boxes=None, search="whole image", keypoint_threshold=0.0)
    assert len(result[1][0]["people"]) == 1


def test_interrupt_works_inside_a_forward(comfy, model):
    comfy.interrupt = True
    with pytest.raises(stub.Interrupted):
        model.pose.runner.net(torch.zeros(1, 3, *model.pose.runner.input_size))
    with pytest.raises(stub.Interrupted):
        estimated(comfy, model)


@pytest.mark.parametrize("room", [4, 1, 0])
def test_out_of_memory_halves_the_batch(comfy, model, monkeypatch, room):
    """A device with room for so many people per forward: the result is the same, or the error comes through."""
    whole = estimated(comfy, model, frames=5)
    runner = type(model.pose.runner)
    forward, sizes = runner.__call__, []

    def small(self, batch):
        sizes.append(len(batch))
        if len(batch) > room:
            raise stub.OutOfMemory
        return forward(self, batch)

    monkeypatch.setattr(runner, "__call__", small)
    boxes = [[{"x": 10, "y": 5, "width": 60, "height": 80}] * 4] * 5
    if room == 0:
        with pytest.raises(stub.OutOfMemory):
            estimated(comfy, model, frames=5, boxes=boxes)
        assert min(sizes) == 1
        return
    result = estimated(comfy, model, frames=5, boxes=boxes)
    assert max(sizes) > room >= min(sizes)
    assert [frame["people"][3] for frame in result[1]] == [frame["people"][0] for frame in whole[1]]


def segs(size: tuple[int, int], *boxes: tuple) -> tuple:
    """SEGS of ltdrdata/ComfyUI-Impact-Pack."""
    seg = collections.namedtuple(
        "SEG", "cropped_image cropped_mask confidence crop_region bbox label control_net_wrapper"
    )
    found = [seg(None, np.ones((4, 4)), 0.9, [0, 0, 9, 9], np.array(box), "person", None) for box in boxes]
    return size, found


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ({"x": 1, "y": 2, "width": 3, "height": 4}, [[[1, 2, 4, 6]], [[1, 2, 4, 6]], [[1, 2, 4, 6]]]),  # one
        ([{"x": 1, "y": 2, "width": 3, "height": 4}] * 2, [[[1, 2, 4, 6]] * 2] * 3),  # flat list: the same in all
        ([[{"x": 1, "y": 2, "width": 3, "height": 4}], []], [[[1, 2, 4, 6]], [], []]),  # per frame, last one repeats
        ((5, 6, 7, 8), [[[5, 6, 7, 8]]] * 3),  # one BBOX
        ([(5, 6, 7, 8), (6, 7, 8, 9)], [[[5, 6, 7, 8]], [[6, 7, 8, 9]], [[6, 7, 8, 9]]]),  # one BBOX per frame
        (np.float32([[5, 6, 7, 8]]), [[[5, 6, 7, 8]]] * 3),
        ([np.float32([5, 6, 7, 8]), torch.tensor([6, 7, 8, 9])], [[[5, 6, 7, 8]], [[6, 7, 8, 9]], [[6, 7, 8, 9]]]),
        ([tuple(np.int64([5, 6, 7, 8])), [tuple(np.float32([6, 7, 8, 9]))]], [[[5, 6, 7, 8]], *[[[6, 7, 8, 9]]] * 2]),
        # somebody half in the picture keeps their whole box; one misses it, one is empty, one is in float32
        ([[(-5, -6, 70, 8), (20, 0, 30, 9), (3, 3, 3, 9), (5, 5, 5 + 1e-9, 6)]], [[[-5, -6, 70, 8]]] * 3),
        ([[]], [[], [], []]),
        (segs((10, 20), (5, 6, 7, 8), (1, 2, 3, 4)), [[[5, 6, 7, 8], [1, 2, 3, 4]]] * 3),  # the Impact Pack's
        (segs((100, 200), (50, 60, 70, 80)), [[[5, 6, 7, 8]]] * 3),  # found in a larger image
        (segs((100, 40), (10, 50, 14, 70)), [[[5, 5, 7, 7]]] * 3),  # and of another shape
        (segs((10, 20)), [[], [], []]),
        (segs((0, 0)), [[], [], []]),  # EmptySEGS
    ],
)  # fmt: skip
def test_read_boxes(comfy, boxes, expected):
    module = sys.modules[f"{comfy.package.__name__}.nodes.boxes"]
    found = module.read_boxes(boxes, 3, (10, 20))
    assert [frame.tolist() for frame, _ in found] == expected
    assert all(len(frame) == len(scores) for frame, scores in found)


def test_all_boxes_of_a_single_image_are_its(comfy):
    """As nodes give them that find several people in a picture; of a clip, BBOX has one for each frame."""
    module = sys.modules[f"{comfy.package.__name__}.nodes.boxes"]
    for boxes in ([(5, 6, 7, 8), (6, 7, 8, 9)], np.float32([[5, 6, 7, 8], [6, 7, 8, 9]])):
        ((found, scores),) = module.read_boxes(boxes, 1, (10, 20))
        assert found.tolist() == [[5, 6, 7, 8], [6, 7, 8, 9]] and scores.tolist() == [1, 1]


def test_scores_of_ultralytics_detectors_are_arrays(comfy):
    module = sys.modules[f"{comfy.package.__name__}.nodes.boxes"]
    size, (seg,) = segs((10, 20), (5, 6, 7, 8))
    for score in (np.float32([0.75]), np.float32(0.75), torch.tensor([0.75]), 0.75):
        assert module.read_boxes((size, [seg._replace(confidence=score)]), 1, (10, 20))[0][1].tolist() == [0.75]


def test_read_boxes_refuses_nonsense(comfy):
    module = sys.modules[f"{comfy.package.__name__}.nodes.boxes"]
    no_width, text = ({"x": 1, "y": 2, "width": width, "height": 4} for width in (None, "3"))
    for nonsense in ("boxes", [["a"]], [(1, 2, 3)], [1, 2, 3], no_width, [text], [(1, 2, float("nan"), 4)]):
        with pytest.raises(ValueError, match="box"):
            module.read_boxes(nonsense, 1, (10, 20))


@pytest.mark.parametrize("every", [1, 2, 5])
def test_detector_on_every_nth_frame(comfy, model, monkeypatch, every):
    """Somebody walks in a straight line; somebody else is there in the first half only."""
    names = [f"{comfy.package.__name__}.dwpose_core.{name}" for name in ("pipeline", "keyframes")]
    __import__(names[1])
    looked_at = []

    def find_boxes(images, detector, options):
        found = []
        for image in images:
            t = int(image[0, 0, 0])
            looked_at.append(t)
            boxes = [[10 + 2 * t, 5, 40 + 2 * t, 80]] + ([[90, 10, 120, 90]] if t <= 5 else [])
            found.append((np.float32(boxes), np.float32([0.9, 0.8][: len(boxes)])))
        return found

    for name in names:
        monkeypatch.setattr(sys.modules[name], "find_boxes", find_boxes)
    images = torch.arange(12)[:, None, None, None].expand(12, 96, 128, 3) / 255
    result = run(comfy, "DWPoseEstimate", model=model, image=images, detect_every=every)
    assert sorted(looked_at) == sorted({*range(0, 12, every), 11})
    for t, boxes in enumerate(result[2]):
        assert boxes[0]["x"] == pytest.approx(10 + 2 * t) and boxes[0]["score"] == pytest.approx(0.9)
        if every == 1 or t in looked_at:
            assert len(boxes) == (2 if t <= 5 else 1)
    gone = [t for t, boxes in enumerate(result[2]) if len(boxes) == 1]
    assert gone == list(range(min(gone), 12)) and abs(min(gone) - 6) <= every / 2


def test_detections_that_are_too_small_or_overlap_are_left_out(comfy, model, monkeypatch):
    pipeline = sys.modules[f"{comfy.package.__name__}.dwpose_core.pipeline"]
    boxes = np.float32([[0, 0, 40, 80], [10, 0, 50, 80], [90, 10, 100, 30]])
    monkeypatch.setattr(pipeline, "decode_people", lambda raw, *_: [(boxes, np.float32([0.9, 0.8, 0.7]))] * len(raw))
    image = torch.zeros(1, 416, 416, 3)  # the detector's own size: nothing is scaled

    def people(**inputs):
        return len(run(comfy, "DWPoseEstimate", model=model, image=image, **inputs)[2][0])

    assert people() == 2 and people(nms_threshold=0.7) == 3
    assert people(min_size=21) == 1 and people(min_size=20) == 2


def test_the_detector_looks_at_a_picture_as_large_as_asked(comfy, model, monkeypatch):
    pipeline, sizes = sys.modules[f"{comfy.package.__name__}.dwpose_core.pipeline"], []
    nobody = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    monkeypatch.setattr(pipeline, "decode_people", lambda raw, size, _: sizes.append(size) or [nobody] * len(raw))
    for inputs in ({}, {"detector_size": 0}, {"detector_size": 96}):
        run(comfy, "DWPoseEstimate", model=model, image=torch.zeros(1, 64, 64, 3), **inputs)
    assert sizes == [(416, 416), (416, 416), (96, 96)]
    with pytest.raises(ValueError, match="multiple of 32"):
        run(comfy, "DWPoseEstimate", model=model, image=torch.zeros(1, 64, 64, 3), detector_size=100)
