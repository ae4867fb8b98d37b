"""The judge against the original metric on xtcocotools, and its file formats."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from dwpose_core.models.weights import weights_name
from dwpose_core.skeleton import PARTS
from training import evaluate, metric

pytest.importorskip("pycocotools")


@pytest.fixture(scope="module")
def golden(shared):
    return np.load(shared / "golden" / "metric_low.npz")


@pytest.fixture(scope="module")
def truth(shared):
    return json.loads((shared / "data" / "test_coco_wholebody.json").read_text())


def people_of(golden, mode="bbox_keypoint") -> metric.Detections:
    scores = golden["scores"]
    return metric.Detections(
        image_id=golden["img_id"],
        keypoints=golden["keypoints"],
        scores=scores,
        person_score=metric.rescore(golden["bbox_score"].astype(np.float64), scores, mode),
        area=golden["bbox_scale"].astype(np.float64).prod(axis=1),
    )


NAMES = {
    "keypoints_body": "body",
    "keypoints_foot": "foot",
    "keypoints_face": "face",
    "keypoints_lefthand": "left_hand",
    "keypoints_righthand": "right_hand",
    "keypoints_wholebody": "whole",
}


@pytest.mark.parametrize(
    "prefix, mode, suppress",
    [("stats", "bbox_keypoint", True), ("stats_nonms", "bbox_keypoint", False), ("stats_kptscore", "keypoint", True)],
)
def test_stats_of_the_original(golden, truth, prefix, mode, suppress):
    people = people_of(golden, mode)
    stats = metric.coco_stats(truth, metric.oks_nms(people) if suppress else people)
    compared = 0
    for theirs, ours in NAMES.items():
        expected = golden[f"{prefix}/{theirs}"]
        np.testing.assert_allclose([stats[f"{ours}/{s}"] for s in metric.STATS], expected, atol=1e-6, err_msg=theirs)
        compared += 1
    assert compared == 6


@pytest.mark.parametrize("noise", [0, 4])
def test_fast_judge_gives_the_same_numbers(golden, truth, noise):
    pytest.importorskip("faster_coco_eval")
    people = people_of(golden)
    shaken = people.keypoints + np.random.default_rng(0).normal(0, noise, people.keypoints.shape).astype(np.float32)
    people = metric.oks_nms(replace(people, keypoints=shaken))
    slow, fast = (metric.coco_stats(truth, people, fast=flag) for flag in (False, True))
    assert fast == pytest.approx(slow, abs=1e-9)
    assert noise == 0 or 0.05 < slow["whole/AP"] < 0.95


def test_nms_keeps_the_same_people(golden):
    people = people_of(golden)
    kept = metric.oks_nms(people)
    row = {tuple(k.ravel()): i for k, i in zip(golden["keypoints"], golden["id"], strict=True)}
    ours = {row[tuple(k.ravel())]: s for k, s in zip(kept.keypoints, kept.person_score, strict=True)}
    theirs = dict(zip(golden["nms_keep_id"].tolist(), golden["nms_keep_score"].tolist(), strict=True))
    assert ours.keys() == theirs.keys() and len(ours) == 18
    for key, score in theirs.items():
        assert ours[key] == pytest.approx(score, rel=1e-6)


def test_hands_are_the_mean_of_both(golden, truth):
    stats = metric.coco_stats(truth, people_of(golden))
    assert stats["hands/AP"] == pytest.approx((stats["left_hand/AP"] + stats["right_hand/AP"]) / 2)
    assert stats["face/APm"] == -1.0  # nothing of that size


def test_area_rule(golden, truth):
    """A body part's own extent must not decide what is a medium or large person."""
    people = people_of(golden)
    spread = people.keypoints.copy()
    spread[:, PARTS["left_hand"]] += 5000  # a wild hand changes the hand, not the person's size
    stats, wild = (metric.coco_stats(truth, p) for p in (people, replace(people, keypoints=spread)))
    for name in metric.STATS:
        assert wild[f"body/{name}"] == stats[f"body/{name}"]
    assert wild["left_hand/AP"] < stats["left_hand/AP"]
    boxes = metric.coco_stats(
        {**truth, "annotations": [{**a, "area": -1} for a in truth["annotations"]]}, people, False
    )
    assert boxes["body/AP"] > 0.5  # 0.53 x box stands in for the missing area


def test_score_of_a_person():
    box = np.array([0.5, 0.8])
    scores = np.zeros((2, 133))
    scores[0, :2] = 0.6, 0.2  # 0.2 itself does not count
    assert metric.rescore(box, scores).tolist() == pytest.approx([0.3, 0.0])
    assert metric.rescore(box, scores, "bbox").tolist() == [0.5, 0.8]
    with pytest.raises(ValueError, match="mode must be"):
        metric.rescore(box, scores, "keypoints")


def test_results_file_round_trip(golden, truth, tmp_path):
    people = metric.oks_nms(people_of(golden))
    path = tmp_path / "results.json"
    path.write_text(json.dumps(metric.results_json(people)))
    again = metric.read_results(path, truth)
    np.testing.assert_allclose(again.keypoints, people.keypoints, atol=1e-3)
    stats, expected = metric.coco_stats(truth, again), metric.coco_stats(truth, people)
    assert stats == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "content, match",
    [
        ({}, "not a results file"),
        (["x"], "not a results file"),
        ([{"image_id": 785, "keypoints": [0] * 399}], "has no score"),
        ([{"image_id": 1, "score": 1, "keypoints": [0] * 399}], "image_id 1"),
        ([{"image_id": 785, "score": 1, "keypoints": [0] * 51}], "no foot_kpts"),
    ],
)
def test_bad_results_files(tmp_path, truth, content, match):
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=match):
        metric.read_results(tmp_path / "r.json", truth)


def test_command_line_judges_a_results_file(golden, shared, tmp_path, capsys):
    results, stats = tmp_path / "r.json", tmp_path / "stats.json"
    results.write_text(json.dumps(metric.results_json(metric.oks_nms(people_of(golden)))))
    annotations = str(shared / "data" / "test_coco_wholebody.json")
    evaluate.main(
        ["--results", str(results), "--annotations", annotations, "--json", str(stats), "--paper", "dwpose-l"]
    )
    printed = capsys.readouterr().out
    assert "63.1" in printed and "100.0" in printed  # the paper's row and ours
    record = json.loads(stats.read_text())
    assert record["stats"]["whole/AP"] == pytest.approx(1.0) and record["published"]["whole"] == 0.631


def test_several_results_files_are_one_result(golden, shared, tmp_path, capsys):
    """Shards judged together; the same images twice are refused; without anybody AP is 0, with a note."""
    people = metric.oks_nms(people_of(golden))
    first = people.image_id == people.image_id[0]
    parts = {"a": people[first], "b": people[~first], "all": people}
    content = {name: metric.results_json(part) for name, part in parts.items()} | {"nobody": []}
    for name, entries in content.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(entries))

    def judge(*names: str) -> dict:
        files = [str(tmp_path / f"{name}.json") for name in names]
        annotations = str(shared / "data" / "test_coco_wholebody.json")
        evaluate.main(["--results", *files, "--annotations", annotations, "--json", str(tmp_path / "stats.json")])
        return json.loads((tmp_path / "stats.json").read_text())

    record = judge("a", "nobody", "b")
    assert record["stats"]["whole/AP"] == pytest.approx(1.0) and len(record["model"]) == 3
    assert 0 < judge("a")["stats"]["whole/AP"] < 0.5
    with pytest.raises(ValueError, match="share images"):
        judge("all", "a")
    assert "nobody was found" not in capsys.readouterr().out
    stats = judge("nobody")["stats"]
    assert all(stats[f"{part}/{kind}"] == 0 for part in evaluate.COLUMNS for kind in ("AP", "AR"))
    assert "nobody was found" in capsys.readouterr().out


@pytest.mark.parametrize(
    "weights, row",
    [
        ("dwpose-s", "dwpose-s"),
        ("dwpose-l-384-pth", "dwpose-l-384"),
        ("rtmpose-x-384", "rtmpose-x-384"),
        ("rtmpose-l", None),  # the network of dwpose-l, but not its weights
        ("dwpose-s-synthetic", None),
        ("best (dwpose-m)", None),
    ],
)
def test_published_figures_belong_to_official_weights(weights, row):
    assert evaluate.published_row(weights) == row


@pytest.mark.parametrize(
    "file, name", [("dw-ss_ucoco.pth", "dwpose-s"), ("best.pth", "best (dwpose-s)"), ("mine.onnx", "mine")]
)
def test_names_of_judged_weights(file, name):
    """A network knows its weights; a session of ONNX Runtime has the name of its file alone."""
    runner = SimpleNamespace(name=Path(file).stem)
    if not file.endswith("onnx"):
        runner = SimpleNamespace(name="dwpose-s", weights=weights_name(Path(file), "dwpose-s"))
    assert evaluate.weights_of(runner, file) == name
    assert evaluate.weights_of(SimpleNamespace(name="dw-ll_ucoco_384"), "x/dw-ll_ucoco_384.onnx") == "dwpose-l-384"


def test_detector_boxes(shared):
    golden = np.load(shared / "golden" / "dataset_augment.npz")
    boxes = evaluate.detector_boxes(shared / "data" / "test_coco_det_AP_H_56.json")
    assert sum(len(b) for b, _ in boxes.values()) == len(golden["det_img_id"]) == 118
    for image_id, (xyxy, score) in boxes.items():
        mine = golden["det_img_id"] == image_id
        order, theirs = np.lexsort(xyxy.T), np.lexsort(golden["det_bbox"][mine].T)
        np.testing.assert_allclose(xyxy[order], golden["det_bbox"][mine][theirs], rtol=1e-6)
        np.testing.assert_allclose(score[order], golden["det_score"][mine][theirs], rtol=1e-6)


@pytest.mark.parametrize(
    "argv",
    [[], ["model", "--results", "r.json"], ["model.onnx"], ["--results", "r.json", "--save-results", "s.json"]],
)
def test_command_line_mistakes(argv, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    with pytest.raises(SystemExit):
        evaluate.main([*argv, "--annotations", "a.json"])


def test_crowds_without_points_and_other_categories_change_nothing(golden, truth):
    people = metric.oks_nms(people_of(golden))
    first = truth["annotations"][0]
    crowd = {"id": 10**9, "image_id": first["image_id"], "category_id": 1, "iscrowd": 1, "area": 1.0}
    dog = {"id": 10**9 + 1, "image_id": first["image_id"], "category_id": 18, "area": 1.0}
    more = [crowd | {"bbox": [0, 0, 1, 1]}, dog | {"bbox": first["bbox"]}]
    larger = {**truth, "annotations": [*truth["annotations"], *more]}
    metric.check_judging(larger)
    assert metric.coco_stats(larger, people) == metric.coco_stats(truth, people)
