"""The model in the box: small, loads, is what its card says, beats the mean pose, stays quiet on empty pictures."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dwpose_core
from dwpose_core.backends import TorchRunner
from dwpose_core.models import catalogue
from dwpose_core.models.rtmcc import create_model
from dwpose_core.models.weights import load_pose
from dwpose_core.pipeline import estimate_people

FOLDER = Path(dwpose_core.__file__).parent / "bundled"
WEIGHTS = FOLDER / "dwpose-s-synthetic.safetensors"
SMALLER = FOLDER / "dwpose-t-synthetic.safetensors"
SMALLEST = FOLDER / "dwpose-nano.safetensors"
MEAN_POSE = 0.156  # body PCK@0.2 torso of the mean training pose placed in the given boxes


@pytest.fixture(scope="module")
def runner() -> TorchRunner:
    net = create_model("dwpose-s")
    net.load_state_dict(load_file(WEIGHTS))
    return TorchRunner(net.float().eval(), "cpu")


@pytest.fixture(scope="module")
def scorer(shared):
    spec = importlib.util.spec_from_file_location("realbench_score", shared / "tools" / "realbench_score.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def people(shared):
    """Labelled people of the development photographs: entry, image, box xyxy."""
    folder = shared / "realbench_dev"
    entries = json.loads((folder / "realbench_dev.json").read_text())["annotations"]
    rows = []
    for entry in entries:
        image = cv2.cvtColor(cv2.imread(str(folder / "images" / entry["image"])), cv2.COLOR_BGR2RGB)
        x, y, w, h = entry["bbox"]
        rows.append((entry, image, np.array([[x, y, x + w, y + h]], np.float32)))
    return rows


@pytest.mark.parametrize("path, megabytes", [(WEIGHTS, 20), (SMALLER, 12), (SMALLEST, 4)])
def test_small_and_half_precision(path, megabytes):
    assert path.stat().st_size < megabytes << 20
    kinds = {tensor.dtype for tensor in load_file(path).values() if tensor.is_floating_point()}
    assert kinds == {torch.float16}
    assert load_pose(path).name == catalogue.find(path.stem).network


@pytest.mark.parametrize("path", [WEIGHTS, SMALLER, SMALLEST])
def test_card_comes_with_the_weights(path):
    text = path.with_suffix(".md").read_text()
    for word in ("CC0", f"python -m training.bundled {path.stem} ", "mean pose", "PCK", "cannot"):
        assert word in text


def test_results_tell_it_from_the_official_one():
    """Both are the network dwpose-s."""
    assert TorchRunner(load_pose("dwpose-s-synthetic"), "cpu").description.startswith("dwpose-s-synthetic on cpu")
    assert TorchRunner(create_model("dwpose-s").eval(), "cpu").description.startswith("dwpose-s on cpu")


def test_output_is_finite_and_batch_invariant(runner):
    crops = torch.randn(5, 3, *runner.input_size, generator=torch.Generator().manual_seed(0))
    batch = runner(crops)
    for k, (together, bins) in enumerate(zip(batch, (runner.input_size[1] * 2, runner.input_size[0] * 2), strict=True)):
        assert together.shape == (5, 133, bins)
        assert together.isfinite().all()
        alone = torch.cat([runner(crop[None])[k] for crop in crops])
        torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)


def test_beats_the_mean_pose_on_photographs(runner, scorer, people):
    """Ground-truth boxes, no flip test: the command line of the card, and its figure."""
    predictions = []
    for entry, image, box in people:
        found = estimate_people([image], runner, None, [box])[0]
        keypoints = np.concatenate((found.xy[0], found.score[0][:, None]), axis=1)
        predictions.append({"image": entry["image"], "bbox": entry["bbox"], "keypoints": keypoints.tolist()})
    result = scorer.score([entry for entry, _, _ in people], predictions)
    assert result["matched"] == len(people)
    assert result["body_pck_torso02"] > 0.55 > 3.4 * MEAN_POSE  # asked of a bundled model; the card says 0.70
    assert result["face_nme_median"] < 0.08 and result["hand_nme_median"] < 0.27


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((240, 180, 3), np.uint8),
        np.full((240, 180, 3), 200, np.uint8),
        np.random.default_rng(0).integers(0, 256, (240, 180, 3), dtype=np.uint8),
        np.broadcast_to(np.linspace(0, 255, 180)[None, :, None], (240, 180, 3)).astype(np.uint8),
    ],
    ids=["black", "bright", "noise", "ramp"],
)
def test_nobody_in_an_empty_picture(runner, image):
    assert len(estimate_people([image], runner, None)[0]) == 0
