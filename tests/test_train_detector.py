"""Training of the person detector: assignment on cases worked out by hand, losses, boxes of scenes, exact resume."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dwpose_core
from dwpose_core.backends import TorchRunner
from dwpose_core.models import catalogue
from dwpose_core.models.infer import name_of
from dwpose_core.models.weights import config_of, load_detector, load_pose
from dwpose_core.models.yolox import YOLOX, anchor_points, create_detector, decode_people
from dwpose_core.pipeline import Options, find_boxes
from training import checkpoint, train_detector
from training.detection import aid, simota
from training.detection.batches import Picture, draw_batch, mirrored, to_input
from training.detection.evaluate import average_precision, balanced_threshold, find_in_pool, hits, recall_precision
from training.detection.pool import ScenePool
from training.detection.scenes import KINDS, Cut, Material, Scene, box_of, compose, cut_layer, on_mask, placement
from training.objectives import normalize
from training.optim import build_optimizer
from training.synthetic.composite import lay_over, similarity
from training.synthetic.labels import VISIBLE
from training.train_detector import DetectorConfig, Job, begin, calibrate, create, finish, train

SIDE = 64
CELLS, STRIDES = anchor_points((SIDE, SIDE), torch.device("cpu"))
POINTS = (CELLS + 0.5) * STRIDES  # 64 of stride 8, 16 of stride 16, 4 of stride 32


def boxes_around(centers: torch.Tensor, side: float) -> torch.Tensor:
    return torch.cat((centers - side / 2, centers + side / 2), dim=1)


def toy_pool(count: int, seed: int = 0, people: bool = True) -> ScenePool:
    """Bright upright bars on noise: something a detector can learn in seconds."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, SIDE, SIDE, 4), dtype=np.uint8)
    images[..., 3] = 0
    boxes, points = [], []
    for image in images:
        w, h = rng.integers(12, 24), rng.integers(24, 44)
        x, y = rng.integers(0, SIDE - w), rng.integers(0, SIDE - h)
        if people:
            image[y : y + h, x : x + w] = (*rng.integers(180, 255, 3), 255)
            boxes.append((x, y, x + w, y + h))
            points.append((x + w / 2, y + 1, 0))  # the nose is at the top
    boxes, points = np.array(boxes, np.float32).reshape(-1, 4), np.array(points, np.float32).reshape(-1, 3)
    first = np.arange(count + 1) if people else np.zeros(count + 1, int)
    return ScenePool(images, boxes, first, np.full((count, 2), SIDE), points, first)


def save_pools(folder: Path) -> Path:
    folder.mkdir()
    for name, pool in (("train", toy_pool(8)), ("test", toy_pool(8)), ("test_empty", toy_pool(4, 1, people=False))):
        np.save(folder / f"{name}.npy", pool.images)
        np.savez(folder / f"{name}.npz", **{k: v for k, v in vars(pool).items() if k != "images"})
    return folder


def raw_output(net: YOLOX, images: torch.Tensor) -> torch.Tensor:
    return simota.logits(net.head, net.backbone(images))


TINY = DetectorConfig(
    "yolox-nano", side=SIDE, smallest=32, largest=SIDE, steps=4, batch=4, workers=1, mosaic=0.5, tail=0.5
)


# Assignment ---------------------------------------------------------------------------------------------------------


def test_candidates_lie_in_the_box_or_near_its_centre():
    """All predictions are the label, so all costs but the prior's are equal: k = 10, all of them inside and near."""
    person = torch.tensor([[8.0, 0.0, 56.0, 64.0]])
    boxes = person.expand(len(CELLS), 4)
    point, who, iou = simota.assign(person, boxes, torch.full((len(CELLS),), 0.5), CELLS, STRIDES)
    assert len(point) == simota.CANDIDATES
    assert (who == 0).all() and torch.equal(iou, torch.ones(10))
    inside = ((POINTS[point] > person[0, :2]) & (POINTS[point] < person[0, 2:])).all(1)
    near = ((POINTS[point] - torch.tensor([32.0, 32.0])).abs() < 2.5 * STRIDES[point]).all(1)
    assert (inside & near).all()


def test_k_is_the_sum_of_the_best_ious():
    """Points of stride 16 predict the person with IoU 0.5, all others nothing: 4 of them are candidates in the box
    (44 x 44 around the middle), so k = 4 x 0.5 = 2."""
    person = torch.tensor([[16.0, 16.0, 48.0, 48.0]])
    boxes = boxes_around(POINTS + 1000, 4.0)
    half = torch.tensor([16.0, 16.0, 48.0, 32.0])  # half of the person: IoU 0.5
    chosen = [64 + 4 * row + column for row in (1, 2) for column in (1, 2)]
    boxes[chosen] = half
    score = torch.full((len(CELLS),), 0.1)
    score[chosen[1]], score[chosen[3]] = 0.9, 0.8
    point, _, iou = simota.assign(person, boxes, score, CELLS, STRIDES)
    assert point.tolist() == [chosen[1], chosen[3]]  # equal IoU: the surer ones cost less
    assert iou.tolist() == [0.5, 0.5]


def test_cost_is_class_plus_three_times_iou():
    """Point a: IoU 0.5, score 1; point b: IoU 0.25, score 1. One is taken (k = 0.75, at least 1): a. With score s,
    a costs 3 ln 2 - ln(s) / 2 against b's 6 ln 2, so it loses below s = 2^-6."""
    person = torch.tensor([[16.0, 16.0, 48.0, 48.0]])
    a, b = 64 + 5, 64 + 6
    boxes = boxes_around(POINTS + 1000, 4.0)
    boxes[a] = torch.tensor([16.0, 16.0, 48.0, 32.0])
    boxes[b] = torch.tensor([16.0, 16.0, 48.0, 24.0])
    for score_of_a, winner in ((1.0, a), (1.1 / 64, a), (0.9 / 64, b)):
        score = torch.full((len(CELLS),), 1e-9)
        score[a], score[b] = score_of_a, 1.0
        assert simota.assign(person, boxes, score, CELLS, STRIDES)[0].tolist() == [winner]


def test_outside_points_only_when_nothing_else_is_left():
    """A sliver between grid points holds none of stride 8, so points near its centre answer for it."""
    person = torch.tensor([[29.0, 8.0, 31.0, 56.0]])
    assert not ((POINTS > person[0, :2]) & (POINTS < person[0, 2:])).all(1).any()
    point, _, _ = simota.assign(person, person.expand(len(CELLS), 4), torch.rand(len(CELLS)), CELLS, STRIDES)
    assert len(point) == 10
    assert ((POINTS[point] - torch.tensor([30.0, 32.0])).abs() < 2.5 * STRIDES[point]).all()


def test_a_point_answers_for_one_person():
    people = torch.tensor([[0.0, 0.0, 64.0, 64.0], [4.0, 4.0, 60.0, 60.0]])
    boxes = people[1].expand(len(CELLS), 4)
    point, who, _ = simota.assign(people, boxes, torch.full((len(CELLS),), 0.5), CELLS, STRIDES)
    assert len(set(point.tolist())) == len(point)
    assert (who == 1).all()  # every claimed point predicts the second exactly


# Losses -------------------------------------------------------------------------------------------------------------


def perfect_raw(person: torch.Tensor) -> torch.Tensor:
    center = (person[:2] + person[2:]) / 2 / STRIDES - CELLS
    extent = ((person[2:] - person[:2]) / STRIDES).log()
    raw = torch.cat((center, extent, torch.zeros(len(CELLS), 2)), dim=1)
    assert torch.allclose(simota.decode(raw, CELLS, STRIDES), person.expand(len(CELLS), 4), atol=1e-4)
    return raw[None]


def test_losses_by_hand():
    """Right boxes, all logits 0: no box and no L1 loss, ln 2 for each of 84 objectness and 10 person terms."""
    person = torch.tensor([8.0, 0.0, 56.0, 64.0])
    parts = simota.losses(perfect_raw(person), [person[None]], SIDE, with_l1=True)
    assert parts["points"].item() == 10
    assert parts["box"].item() == pytest.approx(0, abs=1e-5)
    assert parts["l1"].item() == pytest.approx(0, abs=1e-4)
    assert parts["objectness"].item() == pytest.approx(84 * np.log(2) / 10, rel=1e-5)
    assert parts["person"].item() == pytest.approx(np.log(2), rel=1e-4)
    total = 5 * parts["box"] + parts["objectness"] + parts["person"] + parts["l1"]
    assert parts["loss"].item() == pytest.approx(total.item(), rel=1e-6)


def test_losses_without_people_teach_objectness_only():
    raw = torch.zeros(2, len(CELLS), 6, requires_grad=True)
    parts = simota.losses(raw, [torch.zeros(0, 4)] * 2, SIDE, with_l1=True)
    assert parts["loss"].item() == pytest.approx(2 * 84 * np.log(2), rel=1e-5)
    parts["loss"].backward()
    assert (raw.grad[..., 4] > 0).all() and (raw.grad[..., [0, 1, 2, 3, 5]] == 0).all()


def test_logits_are_the_network_before_its_sigmoid():
    torch.manual_seed(0)
    net = create(TINY).eval()
    images = torch.rand(2, 3, SIDE, SIDE) * 255
    with torch.no_grad():
        raw, expected = raw_output(net, images), net(images)
    torch.testing.assert_close(raw[..., :4], expected[..., :4])
    torch.testing.assert_close(raw[..., 4:].sigmoid(), expected[..., 4:])


def test_overfits_eight_pictures():
    """Both ways a loss is wrong show here: it does not fall, or it falls and the boxes are elsewhere."""
    torch.manual_seed(0)
    pool = toy_pool(8)
    net = create(TINY).to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(net, 4e-3, 0.0)
    images = to_input(pool.images[..., :3])
    labels = [torch.from_numpy(pool.boxes_of(k)) for k in range(8)]
    history = []
    for _ in range(70):
        parts = simota.losses(raw_output(net, images), labels, SIDE, with_l1=False)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        history.append(parts["loss"].item())
    assert history[-1] < 0.3 * history[0]
    found = find_in_pool(net, pool)  # in training mode: the running statistics of 70 steps are not settled
    figures = average_precision([pool.boxes_of(k) for k in range(8)], found)
    assert figures["ap50"] > 0.9


# Pictures and boxes -------------------------------------------------------------------------------------------------


def disc_layer() -> np.ndarray:
    """(80, 60, 4): an ellipse 41 wide and 61 high around the pixel (30, 40)."""
    y, x = np.mgrid[:80, :60]
    rgba = np.zeros((80, 60, 4), np.uint8)
    rgba[((x - 30) / 20.5) ** 2 + ((y - 40) / 30.5) ** 2 <= 1] = (200, 50, 50, 255)
    return rgba


FAR = np.array((-1e5, -1e5, 1e5, 1e5))


@pytest.mark.parametrize("bottom, cut", [(1e5, False), (50.0, True), (50.7, True)])
def test_a_layer_ends_at_its_photograph(bottom, cut):
    layer = cut_layer(disc_layer(), np.array((-1e5, -1e5, 1e5, bottom)))
    assert layer.extent.tolist() == [10, 10, 51, 51 if cut else 71]
    assert layer.sides.tolist() == [False, False, False, cut]
    assert layer.rgba[51:, :, 3].any() != cut


def test_nothing_within_the_photograph():
    assert cut_layer(disc_layer(), np.array((-1e5, -1e5, 1e5, 5.0))) is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sides", [(), (3,), (0, 2, 3), (1,)])
def test_boxes_are_tight_around_what_is_seen(seed, sides):
    """The box of a placed layer against its extent sent through the matrix; cut sides lie on the picture's border."""
    layer = cut_layer(disc_layer(), FAR)
    layer = Cut(layer.rgba, layer.extent, np.isin(np.arange(4), sides))
    size = (160, 120)
    matrix = placement(layer, 0.5, size, np.random.default_rng(seed))
    _, alpha = lay_over(np.zeros((120, 160, 3), np.float32), layer.rgba, matrix)
    box = box_of(alpha, int((alpha > 0.4).sum()))
    if not sides:  # may be turned or partly outside: compare with the pixels themselves
        rows, columns = np.nonzero(alpha > 0.4)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return
    corners = (layer.extent.reshape(2, 2) - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    expected = np.clip(corners, 0, size).ravel()
    np.testing.assert_allclose(box, expected, atol=1.5)
    for side in sides:
        border = 0 if side < 2 else size[side - 2]
        assert abs(box[side] - border) <= 1, "a cut side shows in the picture"


def test_too_little_left_has_no_box():
    mask = np.zeros((50, 50), np.float32)
    mask[10:20, 10:20] = 1.0
    assert box_of(mask, 100).tolist() == [10, 10, 20, 20]
    assert box_of(mask, 401) is None  # less than a quarter of the person
    mask[10:20, 13:] = 0.0
    assert box_of(mask, 30) is None  # three pixels wide


class OneLayer:
    """Stands in for a LayerStore, whose pictures lie on disk."""

    def __init__(self, path: Path):
        import cv2

        cv2.imwrite(str(path), cv2.cvtColor(disc_layer(), cv2.COLOR_RGBA2BGRA))
        self.paths, self.frame = [path], FAR[None]
        self.keypoints, self.visible = np.zeros((1, 133, 2), np.float32), np.zeros((1, 133), np.uint8)
        self.keypoints[0, 0], self.visible[0, 0] = (30, 40), VISIBLE  # a nose in the middle

    def __len__(self) -> int:
        return 1


class Grey:
    """Stands in for the backgrounds."""

    def sample(self, size, rng):
        return np.full((size[1], size[0], 3), 90, np.uint8)

    def texture(self, size, rng):
        return np.full((size[1], size[0], 3), 40, np.uint8)


def test_scenes_are_reproducible_and_hidden_people_have_smaller_boxes(tmp_path):
    material = Material(OneLayer(tmp_path / "a.png"), Grey(), [disc_layer()])
    areas, whole = [], 0
    for k in range(30):
        scene = compose(material, 96, np.random.default_rng((3, k)), people=4)
        again = compose(material, 96, np.random.default_rng((3, k)), people=4)
        assert np.array_equal(scene.image, again.image) and np.array_equal(scene.boxes, again.boxes)
        assert max(scene.image.shape[:2]) == 96 and scene.image.dtype == np.uint8
        height, width = scene.image.shape[:2]
        assert (scene.boxes >= 0).all() and (scene.boxes[:, 2:] <= (width, height)).all()
        assert ((scene.boxes[:, 2:] - scene.boxes[:, :2]) >= 4).all()
        for x, y, kind in scene.points:
            assert kind == 0 and scene.mask[int(y), int(x)] > 100
        assert len(scene.points) <= 4 and scene.mask.any()
        areas.append(len(scene.boxes))
        whole += len(scene.boxes) == 4
    assert 2 < np.mean(areas) < 4 and whole > 0  # some people are hidden by those before them
    assert len(compose(material, 96, np.random.default_rng(1), people=0).boxes) == 0


def test_place_moves_labels_with_their_pixels():
    rng = np.random.default_rng(0)
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:32] = 255
    boxes = np.array([[20, 10, 32, 30]], np.float32)
    points = np.array([[26, 20, 5], [59.5, 39.5, 6]], np.float32)
    for zoom in (0.5, 1.0, 1.5):
        for flip in (False, True):
            scene = Scene(image, boxes, image[..., 0], points)
            picture = Picture.blank(64)
            picture.place((0, 0, 64, 64), mirrored(scene) if flip else scene, zoom, rng)
            rows, columns = np.nonzero(picture.canvas[..., 0] > 200)
            seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(picture.boxes[0], seen, atol=1.0)
            middle = (picture.boxes[0, :2] + picture.boxes[0, 2:]) / 2
            np.testing.assert_allclose(picture.points[0], (*middle, 6 if flip else 5), atol=0.5)  # shoulders swap
            inside = picture.canvas[..., 3] > 128
            assert inside.any() and (picture.canvas[inside, :3] > 100).all(), (
                "the mask lies on the pixels of the person"
            )
            assert (picture.points[:, :2] < 64).all()
    corner = Picture.blank(64)
    corner.place((0, 0, 10, 64), scene, 1.0, np.random.default_rng(2))
    assert (corner.boxes[:, 2] <= 10).all() and (corner.points[:, 0] < 10).all()


def test_batches_depend_on_the_generator_alone_and_have_labels_on_their_pixels():
    pool = toy_pool(8)
    first = draw_batch(pool, 16, SIDE, 0.5, np.random.default_rng(4))
    second = draw_batch(pool, 16, SIDE, 0.5, np.random.default_rng(4))
    assert np.array_equal(first.images, second.images) and first.images.shape == (16, SIDE, SIDE, 3)
    for image, mask, boxes, points in zip(first.images, first.masks, first.boxes, first.points, strict=True):
        bright = image.max(2) > 110
        for x1, y1, x2, y2 in boxes.round().astype(int):
            assert bright[y1:y2, x1:x2].mean() > 0.7 and (mask[y1:y2, x1:x2] > 128).mean() > 0.7
        for x, y, kind in points:
            assert kind == 0 and bright[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2].any()


def test_points_lie_on_their_own_visible_pixels():
    points = np.array([[0.5, 0.5, 0], [2.5, 1.5, 1], [3.2, 0.1, 2], [-1, 0, 3], [4.0, 0, 4]], np.float32)
    mask = np.zeros((2, 4), bool)
    mask[0, 0] = mask[1, 2] = True
    assert on_mask(points, mask)[:, 2].tolist() == [0, 1]


# The aid ------------------------------------------------------------------------------------------------------------


def test_heatmap_peaks_in_the_cell_of_each_point():
    points = [torch.tensor([[4.0, 4.0, 0], [63.9, 20.0, 0], [30.0, 30.0, 22]]), torch.zeros(0, 3)]
    maps = aid.heatmaps(points, 8, 8)
    assert maps.shape == (2, KINDS, 8, 8) and (maps == 1).sum() == 3
    assert maps[0, 0, 0, 0] == maps[0, 0, 2, 7] == maps[0, 22, 3, 3] == 1
    assert maps[0, 0, 0, 1].item() == pytest.approx(np.exp(-0.5 / aid.SPREAD**2)) and not maps[1].any()


def test_aid_losses_by_hand():
    """All logits 0. A point: 0.25 ln 2. Every other cell of every map: (1 - target)^4 x 0.25 ln 2. Mask: ln 2."""
    points = [torch.tensor([[4.0, 4.0, 3]])]
    logits = torch.zeros(1, 1 + KINDS, 2, 2)
    parts = aid.losses(logits, torch.zeros(1, 16, 16, dtype=torch.uint8), points)
    assert parts["mask"].item() == pytest.approx(np.log(2))
    beside, diagonal = (1 - np.exp(-d / (2 * aid.SPREAD**2)) for d in (1, 2))
    weights = 1 + 4 * (KINDS - 1) + 2 * beside**4 + diagonal**4
    assert parts["parts"].item() == pytest.approx(0.25 * np.log(2) * weights, rel=1e-5)


def test_aid_learns_where_people_and_their_noses_are():
    torch.manual_seed(0)
    pool = toy_pool(8)
    net = create(TINY)
    both = torch.nn.ModuleList((net, aid.PartsAid(net))).to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(both, 4e-3, 0.0)
    batch = [pool.scene(k) for k in range(8)]
    images, masks = to_input(pool.images[..., :3]), torch.from_numpy(pool.images[..., 3])
    for _ in range(60):
        optimizer.zero_grad()
        logits = both[1](net.backbone(images))
        parts = aid.losses(logits, masks, [torch.from_numpy(scene.points) for scene in batch])
        sum(parts.values()).backward()
        optimizer.step()
    with torch.no_grad():
        logits = both[1](net.backbone(images))
    share = torch.nn.functional.avg_pool2d(masks[:, None].float() / 255, 8)
    assert ((logits[:, :1] > 0) == (share > 0.5)).float().mean() > 0.9
    best = logits[:, 1].flatten(1).argmax(1)
    right = [int(y) // 8 * 8 + int(x) // 8 == cell for (x, y, _), cell in zip(pool.points, best.tolist(), strict=True)]
    assert sum(right) >= 6


def test_input_is_bgr():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[..., 0] = 7  # red
    assert to_input(images)[0, :, 0, 0].tolist() == [0.0, 0.0, 7.0]


# Measurement --------------------------------------------------------------------------------------------------------


TRUTH = [np.array([[0, 0, 10, 10], [20, 20, 30, 40]], np.float32), np.zeros((0, 4), np.float32)]


def test_recall_and_precision_by_hand():
    twice = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], np.float32)
    found = [(twice, np.array([0.9, 0.8, 0.2])), (twice[:1], np.array([0.6]))]
    assert hits(TRUTH[0], twice).tolist() == [True, False, False]
    rates = recall_precision(TRUTH, found, 0.5)
    assert (rates["recall"], rates["precision"], rates["people"]) == (1 / 2, 1 / 3, 2)
    assert recall_precision(TRUTH, found, 0.5, least_height=15)["recall"] == 0.0
    assert balanced_threshold(TRUTH, found) == 0.9  # 1/2 x 1 beats 1/2 x 1/3
    late = [(twice[[2, 0]], np.array([0.9, 0.8])), (twice[2:], np.array([0.7]))]
    assert balanced_threshold(TRUTH, late) == 0.8  # 1/2 x 1/2 beats 0 and 1/2 x 1/3
    assert np.isnan(balanced_threshold(TRUTH, [(twice[2:], np.array([0.9])), late[1]]))


def test_average_precision_of_perfect_and_of_nothing():
    exact = [(boxes, np.full(len(boxes), 0.9)) for boxes in TRUTH]
    assert average_precision(TRUTH, exact) == {"ap": pytest.approx(1.0), "ap50": pytest.approx(1.0)}
    none = [(np.zeros((0, 4)), np.zeros(0))] * 2
    assert average_precision(TRUTH, none) == {"ap": 0.0, "ap50": 0.0}


# The recipe ---------------------------------------------------------------------------------------------------------


def same_state(a: dict, b: dict) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a) and a.keys() == b.keys()


def test_resume_is_exact(tmp_path, monkeypatch):
    """Two steps, SIGTERM, the rest: the same weights to the bit as without interruption. Both losses are seen."""
    pools = save_pools(tmp_path / "pool")
    whole, parts = (Job(pools, tmp_path / name, save_every=100, report_every=100) for name in ("whole", "parts"))
    for job in (whole, parts):
        job.out.mkdir()
    train(0, TINY, whole)

    drawn = []

    def draw_and_stop(*args):
        drawn.append(1)
        if len(drawn) == 2:
            signal.raise_signal(signal.SIGTERM)
        return draw_batch(*args)

    monkeypatch.setattr(train_detector, "draw_batch", draw_and_stop)
    with pytest.raises(SystemExit) as stopped:
        train(0, TINY, parts)
    assert stopped.value.code == 143
    assert checkpoint.load_state(parts.out / "last.pt")["step"] == 2
    train(0, TINY, parts)
    states = [checkpoint.load_state(job.out / "last.pt") for job in (whole, parts)]
    assert states[0]["step"] == states[1]["step"] == 4
    assert same_state(states[0]["both"], states[1]["both"]) and same_state(states[0]["average"], states[1]["average"])
    rows = [json.loads(line) for line in (parts.out / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 4 and {"loss", "box", "l1", "mask", "parts", "ap50", "false_alarms"} <= rows[-1].keys()
    with pytest.raises(ValueError, match="same options"):
        train(0, dataclasses.replace(TINY, lr=1e-3), parts)


def test_result_loads_by_path_and_runs(tmp_path):
    job = Job(save_pools(tmp_path / "pool"), tmp_path)
    config = dataclasses.replace(TINY, steps=2)
    train(0, config, job)
    path = finish(config, job, "mine")
    net = load_detector(path)
    assert (net.name, net.config.num_classes, net.config.input_size) == ("yolox-nano", 1, (SIDE, SIDE))
    assert path.stat().st_size < 2e6
    found = find_boxes([np.zeros((90, 50, 3), np.uint8)], TorchRunner(net, "cpu"), Options(detector_threshold=0.0))
    assert found[0][0].shape[1] == 4 and len(found[0][0]) > 0
    assert {"ap", "recall", "score_shift"} <= json.loads((tmp_path / "metrics.json").read_text()).keys()


def test_calibration_puts_the_balanced_threshold_at_the_default():
    """A detector that knows the people but is far too unsure of them: the default would reject nearly all."""
    torch.manual_seed(0)
    pool = toy_pool(8)
    net = create(TINY).train()
    optimizer = build_optimizer(net, 4e-3, 0.0)
    images = to_input(pool.images[..., :3])
    labels = [torch.from_numpy(pool.boxes_of(k)) for k in range(8)]
    for _ in range(70):
        optimizer.zero_grad()
        simota.losses(raw_output(net, images), labels, SIDE, with_l1=False)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        for predictor in net.head.obj_preds:
            predictor.bias -= 8.0
    truth = [pool.boxes_of(k) for k in range(8)]
    before = recall_precision(truth, find_in_pool(net, pool), 0.3)["recall"]
    assert calibrate(net, [pool]) > 1.0
    after = recall_precision(truth, find_in_pool(net, pool), 0.29)["recall"]
    assert before < 0.5 < after


def test_two_processes_share_their_gradients(tmp_path):
    """Spawned as the recipe does. The partner's other pictures change the weights the first process saves."""
    pools = save_pools(tmp_path / "pool")
    states = []
    for workers in (1, 2):
        config = dataclasses.replace(TINY, workers=workers, steps=2)
        job = Job(pools, tmp_path / str(workers))
        job.out.mkdir()
        torch.multiprocessing.spawn(train, (config, job), nprocs=workers)
        states.append(checkpoint.load_state(job.out / "last.pt"))
    assert [state["step"] for state in states] == [2, 2]
    assert not same_state(states[0]["both"], states[1]["both"])


def test_cspnext_begins_with_the_pose_network_and_keeps_its_first_stages(tmp_path):
    job = Job(save_pools(tmp_path / "pool"), tmp_path)
    config = dataclasses.replace(TINY, network="yolox-cspnext-nano", steps=2)
    pose = load_pose("dwpose-nano").backbone.state_dict()
    before = begin(config).backbone.backbone.pose.state_dict()
    assert same_state(pose, before)
    train(0, config, job)
    after = load_detector(finish(config, job, "mine"))
    assert (after.name, after.config.num_classes) == ("yolox-cspnext-nano", 1)
    for key, value in after.backbone.backbone.pose.state_dict().items():
        kept = key.startswith(("stem.", "stage1."))
        assert torch.equal(value, before[key].half().to(value.dtype)) == kept or value.ndim == 0, key


def test_cspnext_takes_bgr_and_sees_what_the_pose_network_sees():
    net = begin(dataclasses.replace(TINY, network="yolox-cspnext-nano")).eval()
    backbone = load_pose("dwpose-nano").backbone
    rgb = np.random.default_rng(0).integers(0, 255, (1, SIDE, SIDE, 3), dtype=np.uint8)
    seen = []
    net.backbone.backbone.pose.stage3.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        net(to_input(rgb))
        expected = backbone(normalize(torch.from_numpy(rgb)))
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


def test_weights_without_metadata_are_known_by_their_shapes():
    net = create_detector("yolox-cspnext-nano")
    config = config_of(net.state_dict(), "a file")
    assert config == net.config and name_of(config) == "yolox-cspnext-nano"


def test_sizes_grow_with_the_run():
    config = DetectorConfig(steps=1000)
    sizes = [config.side_at(step) for step in range(1000)]
    assert set(sizes) <= {128, 160, 192, 224, 256, 288, 320}
    assert max(sizes[:100]) < 256 and np.mean(sizes[:200]) < np.mean(sizes[600:800]) and set(sizes[850:]) == {320}


def test_official_detectors_keep_eighty_classes():
    raw = torch.zeros(1, len(CELLS), 85)
    raw[0, 3, 4], raw[0, 3, 5] = 0.9, 0.9
    assert create_detector("yolox-nano").config.num_classes == 80
    assert len(decode_people(raw, (SIDE, SIDE), 0.3)[0][0]) == 1


# What ships ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rendered(assets, egl) -> np.ndarray:
    """A rendered person on a grey wall, (240, 320, 3), 80 pixels from the left, 200 high."""
    from training.synthetic.generate import PersonGenerator

    layer = PersonGenerator(assets, (192, 256), supersample=1).person(seed=5, number=2, framing="full")
    return layer.rgba


def test_bundled_detector_works_offline_and_finds_a_person(rendered, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    entry = catalogue.find("yolox-nano-synthetic", "detector")
    net = load_detector("yolox-nano-synthetic", local_files_only=True)
    assert net.config.input_size == entry.input_size and net.config.num_classes == 1
    assert 0 < Path(net.source).stat().st_size < 2e6
    assert {t.dtype for t in load_file(net.source).values() if t.is_floating_point()} == {torch.float16}
    cut = cut_layer(rendered, FAR)
    scale = 200 / (cut.extent[3] - cut.extent[1])
    matrix = similarity(0.0, scale, cut.extent[:2] - 0.5, np.array((100.0, 20.0)))
    wall = np.linspace(90, 160, 320)[None, :, None] * np.ones((240, 320, 3), np.float32)
    image, alpha = lay_over(wall.astype(np.float32), rendered, matrix)
    runner = TorchRunner(net, "cpu")
    pictures = [np.clip(image, 0, 255).astype(np.uint8), wall.astype(np.uint8)]
    (boxes, _), (nobody, _) = find_boxes(pictures, runner, Options())
    assert hits(box_of(alpha, 1)[None], boxes).sum() == 1
    assert len(nobody) == 0


def test_bundled_detector_card():
    text = (Path(dwpose_core.__file__).parent / "bundled" / "yolox-nano-synthetic.md").read_text()
    for word in ("CC0", "python -m training.train_detector", "recall", "precision", "cannot", "256"):
        assert word in text
