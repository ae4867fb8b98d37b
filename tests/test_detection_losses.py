"""What a person detector learns from: assignment on cases worked out by hand, losses, the aid, and its figures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from benchmarks.photographs import matches
from tests.detection_toys import CELLS, POINTS, SIDE, STRIDES, TINY, boxes_around, raw_output, toy_pool
from training.detection import aid, simota
from training.detection.batches import numbered, stacked, to_input
from training.detection.evaluate import (
    average_precision,
    balanced_threshold,
    boxes_by_picture,
    find_in_pool,
    hits,
    recall_precision,
)
from training.detection.scenes import KINDS
from training.detection.start import create
from training.optim import build_optimizer

# Assignment ---------------------------------------------------------------------------------------------------------


def assign_one(people, boxes, score):
    """Point, person and IoU of every point taken in one picture."""
    taken, person, iou = (x[0] for x in simota.assign(people[None], boxes[None], score[None], CELLS, STRIDES))
    return taken.nonzero()[:, 0], person[taken], iou[taken]


def test_candidates_lie_in_the_box_or_near_its_centre():
    """All predictions are the label, so all costs but the prior's are equal: k = 10, all of them inside and near."""
    person = torch.tensor([[8.0, 0.0, 56.0, 64.0]])
    boxes = person.expand(len(CELLS), 4)
    point, who, iou = assign_one(person, boxes, torch.full((len(CELLS),), 0.5))
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
    point, _, iou = assign_one(person, boxes, score)
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
        assert assign_one(person, boxes, score)[0].tolist() == [winner]


def test_outside_points_only_when_nothing_else_is_left():
    """A sliver between grid points holds none of stride 8, so points near its centre answer for it."""
    person = torch.tensor([[29.0, 8.0, 31.0, 56.0]])
    assert not ((POINTS > person[0, :2]) & (POINTS < person[0, 2:])).all(1).any()
    point, _, _ = assign_one(person, person.expand(len(CELLS), 4), torch.rand(len(CELLS)))
    assert len(point) == 10
    assert ((POINTS[point] - torch.tensor([30.0, 32.0])).abs() < 2.5 * STRIDES[point]).all()


def test_a_point_answers_for_one_person():
    people = torch.tensor([[0.0, 0.0, 64.0, 64.0], [4.0, 4.0, 60.0, 60.0]])
    boxes = people[1].expand(len(CELLS), 4)
    point, who, _ = assign_one(people, boxes, torch.full((len(CELLS),), 0.5))
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
    parts = simota.losses(perfect_raw(person), person[None, None], SIDE, with_l1=True)
    assert parts["points"].item() == 10
    assert parts["box"].item() == pytest.approx(0, abs=1e-5)
    assert parts["l1"].item() == pytest.approx(0, abs=1e-4)
    assert parts["objectness"].item() == pytest.approx(84 * np.log(2) / 10, rel=1e-5)
    assert parts["person"].item() == pytest.approx(np.log(2), rel=1e-4)
    total = 5 * parts["box"] + parts["objectness"] + parts["person"] + parts["l1"]
    assert parts["loss"].item() == pytest.approx(total.item(), rel=1e-6)


def test_losses_without_people_teach_objectness_only():
    raw = torch.zeros(2, len(CELLS), 6, requires_grad=True)
    parts = simota.losses(raw, torch.zeros(2, 1, 4), SIDE, with_l1=True)
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
    people = stacked([pool.boxes_of(k) for k in range(8)])
    history = []
    for _ in range(70):
        parts = simota.losses(raw_output(net, images), people, SIDE, with_l1=False)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        history.append(parts["loss"].item())
    assert history[-1] < 0.3 * history[0]
    found = find_in_pool(net, pool)  # in training mode: the running statistics of 70 steps are not settled
    figures = average_precision([pool.boxes_of(k) for k in range(8)], found)
    assert figures["ap50"] > 0.9


# The aid ------------------------------------------------------------------------------------------------------------


def test_heatmap_peaks_in_the_cell_of_each_point():
    maps = aid.heatmaps(torch.tensor([[0, 4.0, 4.0, 0], [0, 63.9, 20.0, 0], [0, 30.0, 30.0, 22]]), 2, 8, 8)
    assert maps.shape == (2, KINDS, 8, 8) and (maps == 1).sum() == 3
    assert maps[0, 0, 0, 0] == maps[0, 0, 2, 7] == maps[0, 22, 3, 3] == 1
    assert maps[0, 0, 0, 1].item() == pytest.approx(np.exp(-0.5 / aid.SPREAD**2)) and not maps[1].any()


def test_aid_losses_by_hand():
    """All logits 0. A point: 0.25 ln 2. Every other cell of every map: (1 - target)^4 x 0.25 ln 2. Mask: ln 2."""
    points = torch.tensor([[0, 4.0, 4.0, 3]])
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
    points = numbered([pool.scene(k).points for k in range(8)])
    images, masks = to_input(pool.images[..., :3]), torch.from_numpy(pool.images[..., 3])
    for _ in range(60):
        optimizer.zero_grad()
        logits = both[1](net.backbone(images))
        parts = aid.losses(logits, masks, points)
        sum(parts.values()).backward()
        optimizer.step()
    with torch.no_grad():
        logits = both[1](net.backbone(images))
    share = torch.nn.functional.avg_pool2d(masks[:, None].float() / 255, 8)
    assert ((logits[:, :1] > 0) == (share > 0.5)).float().mean() > 0.9
    best = logits[:, 1].flatten(1).argmax(1)
    right = [int(y) // 8 * 8 + int(x) // 8 == cell for (x, y, _), cell in zip(pool.points, best.tolist(), strict=True)]
    assert sum(right) >= 6


# All pictures at once -----------------------------------------------------------------------------------------------


def plain_assign(people, boxes, score):
    """SimOTA in the words of the paper, person by person."""
    chosen, costs, overlaps = [], [], []
    middles = (people[:, :2] + people[:, 2:]) / 2
    inside = [((POINTS > p[:2]) & (POINTS < p[2:])).all(1) for p in people]
    near = [((POINTS - m).abs() < 2.5 * STRIDES).all(1) for m in middles]
    candidates = torch.stack([a | b for a, b in zip(inside, near, strict=True)]).any(0)
    for k, person in enumerate(people):
        low, high = torch.maximum(person[:2], boxes[:, :2]), torch.minimum(person[2:], boxes[:, 2:])
        overlap = (high - low).clamp(min=0).prod(1)
        areas = (person[2:] - person[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1)
        iou = overlap / (areas - overlap) * candidates
        cost = -score.sqrt().log() - 3 * (iou + 1e-8).log() + 1e5 * ~(inside[k] & near[k])
        cost[~candidates] = float("inf")
        count = max(int(iou.sort(descending=True).values[:10].sum()), 1)
        winners = torch.zeros(len(boxes), dtype=torch.bool)
        winners[cost.argsort()[:count]] = True
        chosen.append(winners & candidates)
        costs.append(cost)
        overlaps.append(iou)
    chosen, costs = torch.stack(chosen), torch.stack(costs)
    points = chosen.any(0).nonzero()[:, 0]
    person = [costs[:, p].argmin() if chosen[:, p].sum() > 1 else chosen[:, p].int().argmax() for p in points]
    return points, torch.stack(person), torch.stack(overlaps)[torch.stack(person), points]


def crowd(pictures: int) -> tuple[list[np.ndarray], torch.Tensor]:
    """0 to 7 people per picture, some of them nearly the same, and raw output that is roughly right for some."""
    rng = np.random.default_rng(0)
    boxes = []
    for count in rng.integers(0, 8, pictures):
        centre, half = rng.uniform(4, 60, (count, 2)), rng.uniform(3, 25, (count, 2))
        mine = np.concatenate((centre - half, centre + half), axis=1)
        mine[1::3] = mine[: len(mine[1::3])] + rng.normal(0, 1, (len(mine[1::3]), 4))
        boxes.append(mine.clip(0, SIDE).astype(np.float32))
    return boxes, torch.from_numpy(rng.normal(0, 1.2, (pictures, len(CELLS), 6)).astype(np.float32))


def test_together_is_as_one_by_one():
    """Assignment and losses of a batch with gaps against a plain loop over pictures and people."""
    boxes, raw = crowd(24)
    assert min(map(len, boxes)) == 0 and max(map(len, boxes)) == 7
    raw.requires_grad_()
    decoded = simota.decode(raw.detach(), CELLS, STRIDES)
    score = raw.detach()[..., 4].sigmoid() * raw.detach()[..., 5].sigmoid()
    found = simota.assign(stacked(boxes), decoded, score, CELLS, STRIDES)
    target, box, person, l1 = torch.zeros(24, len(CELLS)), 0.0, 0.0, 0.0
    shared = 0
    for n, people in enumerate(map(torch.from_numpy, boxes)):
        if not len(people):
            assert not found.taken[n].any()
            continue
        points, who, iou = plain_assign(people, decoded[n], score[n])
        assert found.taken[n].nonzero()[:, 0].tolist() == points.tolist()
        assert found.person[n][points].tolist() == who.tolist()
        torch.testing.assert_close(found.iou[n][points], iou)
        shared += len(points)
        target[n, points] = 1.0
        mine, truth = raw[n, points], people[who]
        box = box + (1 - simota.paired_iou(simota.decode(mine, CELLS[points], STRIDES[points]), truth) ** 2).sum()
        person = person + cross_entropy(mine[:, 5], iou, reduction="sum")
        wanted = ((truth[:, :2] + truth[:, 2:]) / 2 / STRIDES[points] - CELLS[points]).detach()
        extent = ((truth[:, 2:] - truth[:, :2]) / STRIDES[points]).log()
        l1 = l1 + (mine[:, :4] - torch.cat((wanted, extent), dim=1)).abs().sum()
    objectness = cross_entropy(raw[..., 4], target, reduction="sum")
    expected = {"box": box, "person": person, "l1": l1, "objectness": objectness}
    parts = simota.losses(raw, stacked(boxes), SIDE, with_l1=True)
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value / shared)
    (gradient,) = torch.autograd.grad(parts["loss"], raw)
    (wanted,) = torch.autograd.grad((5 * box + person + l1 + objectness) / shared, raw)
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)


def test_heatmaps_together_are_as_point_by_point():
    """Against Gaussians over whole maps. Where they end, what is left of 1 - target is 1."""
    rng = np.random.default_rng(0)
    points = [np.column_stack((rng.uniform(0, 96, (n, 2)), rng.integers(0, KINDS, n))) for n in (0, 40, 3)]
    maps = aid.heatmaps(numbered(points), 3, 12, 12)
    expected = torch.zeros(3, KINDS, 12, 12)
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    for n, mine in enumerate(points):
        for x, y, kind in mine:
            square = (rows - y // 8) ** 2 + (columns - x // 8) ** 2
            bump = (-square / (2 * aid.SPREAD**2)).exp()
            expected[n, int(kind)] = torch.maximum(expected[n, int(kind)], bump.float())
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-8)
    assert torch.equal(1 - maps, 1 - expected)


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


def test_who_has_no_label_is_neither_right_nor_wrong():
    """Half of the box must lie there; a box that meets a label counts as right wherever it lies."""
    boxes = np.array([[0, 0, 10, 10], [50, 50, 60, 60], [50, 56, 60, 66]], np.float32)
    found = [(boxes, np.array([0.9, 0.8, 0.7])), (boxes[:1], np.array([0.6]))]
    regions = [np.array([[48, 40, 70, 60], [0, 0, 20, 20]], np.float32), np.zeros((0, 4), np.float32)]
    assert recall_precision(TRUTH, found, 0.5)["precision"] == 1 / 4
    rates = recall_precision(TRUTH, found, 0.5, ignored=regions)
    assert (rates["recall"], rates["precision"], rates["reported"]) == (1 / 2, 1 / 3, 3)


def test_people_found_in_photographs_belong_to_the_best_box():
    truth = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [50, 50, 60, 60]], np.float32)
    found = np.array([[50, 50, 60, 54], [2, 0, 12, 10], [1, 0, 11, 10]], np.float32)
    assert matches(truth, found) == [(1, 1), (0, 2)]  # each once, and IoU 0.4 is too little
    assert matches(truth, np.zeros((0, 4), np.float32)) == []


def test_average_precision_of_perfect_and_of_nothing():
    exact = [(boxes, np.full(len(boxes), 0.9)) for boxes in TRUTH]
    assert average_precision(TRUTH, exact) == {"ap": pytest.approx(1.0), "ap50": pytest.approx(1.0)}
    none = [(np.zeros((0, 4)), np.zeros(0))] * 2
    assert average_precision(TRUTH, none) == {"ap": 0.0, "ap50": 0.0}


def test_coco_files_are_read_and_their_crowds_ignored(tmp_path):
    rows = [
        {"image_id": 5, "bbox": [1, 2, 10, 20], "iscrowd": 0, "category_id": 1},
        {"image_id": 5, "bbox": [0, 0, 50, 20], "iscrowd": 1, "category_id": 1},
        {"image_id": 5, "bbox": [0, 0, 5, 5], "iscrowd": 0, "category_id": 18},  # a dog
    ]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"images": [{"id": 5, "file_name": "a.jpg"}], "annotations": rows}))
    assert {name: boxes.tolist() for name, boxes in boxes_by_picture(path).items()} == {"a.jpg": [[1, 2, 11, 22]]}
    assert boxes_by_picture(path, crowds=True)["a.jpg"].tolist() == [[0, 0, 50, 20]]
