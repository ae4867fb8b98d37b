"""Mistakes of users: one plain line and status 2, no traceback, and before the work instead of after it."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dwpose_core.models import create_model
from tests.training_runs import arguments
from training import checkpoint, command, distributed, evaluate, train_pose
from training.data.toy import write_toy_data


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    checkpoint.save_model(tmp_path / "model.safetensors", create_model("debug"), {})
    return tmp_path / "model.safetensors"


MISTAKES = [
    ("train_pose", ["debug", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
    ("train_pose", ["debug", "--early.scale", "0.6"], "early: scale is LOWEST,HIGHEST"),
    ("train_pose", ["debug", "--train", "TOY,nowhere"], "no folder nowhere: the images of"),
    ("train_pose", ["debug", "--device", "quantum"], "--device quantum: no such device"),
    ("train_pose", ["rtmpose-m", "--data-root", "nowhere"], "nowhere/coco/annotations/coco_wholebody_val_v1.0.json"),
    ("distill_stage1", ["debug"], "needs the weights of its teacher"),
    ("distill_stage2", ["debug", "--distill.teacher-weights", "no.safetensors"], "no weights at no.safetensors"),
    ("evaluate", ["no.pth", "--annotations", "TOY", "--images", "."], "no weights at no.pth"),
    ("evaluate", ["dwpose-z", "--annotations", "TOY", "--images", "nowhere"], "there is no folder nowhere"),
    ("evaluate", ["--results", "TOY", "--annotations", "TOY"], "is not a results file"),
    ("evaluate", ["--results", "no.json", "--annotations", "no.json"], "No such file or directory: 'no.json'"),
    ("export", [".", "a.safetensors"], "is it the folder of a run"),
    ("data.check", ["no.json,images"], "No such file or directory: 'no.json'"),
    ("data.ubody", ["nowhere"], "no annotations/<scene>/keypoint_annotation.json"),
    ("synthetic.generate", ["--assets", "nowhere", "--out", "a"], "nowhere holds no base.npz"),
    ("synthetic.objects", ["--assets", "nowhere", "--out", "a"], "nowhere holds no base.npz"),
    ("synthetic.sheet", ["--data", "nowhere", "--out", "a.png"], "nowhere holds no labels_*.npz"),
    ("detection.evaluate", ["no.pth", "--pool", "a"], "no weights at no.pth"),
]


@pytest.mark.parametrize("name, argv, message", MISTAKES, ids=lambda value: "" if isinstance(value, list) else value)
def test_mistakes_are_one_line(toy, tmp_path, monkeypatch, capsys, name, argv, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{name.split('.')[-1]}.py", *(a.replace("TOY", toy.annotations) for a in argv)])
    monkeypatch.delitem(sys.modules, f"training.{name}", raising=False)  # or runpy warns that it is there already
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"training.{name}", run_name="__main__")
    assert end.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed and printed.startswith(f"{name.split('.')[-1]}: ")
    assert "Traceback" not in printed and len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    "name, argv, message",
    [
        ("synthetic.scene_crops", "--scenes a --out b", "a/annotations.json is missing"),
        ("synthetic.pool", "--layers a --objects b --assets c --out d", "a holds no labels_*.npz"),
        ("detection.pool", "--layers a --objects b --assets c --out d", "c/backgrounds holds no photographs"),
    ],
)
def test_mistakes_that_workers_find_are_one_line(tmp_path, name, argv, message):
    """Below a progress bar."""
    code = [sys.executable, "-m", f"training.{name}", *argv.split(), "--count", "1", "--workers", "1"]
    paths = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ended = subprocess.run(code, cwd=tmp_path, env=paths, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    told = ended.stderr.splitlines()[-1]
    assert told.startswith(f"{name.split('.')[-1]}: ") and message in told


@pytest.mark.parametrize(
    "raised, status, printed",
    [
        (None, 0, ""),
        (ValueError("choose another"), 2, "choose another"),
        (checkpoint.CheckpointError("no space"), 2, "no space"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_status(raised, status, printed, capsys):
    def main():
        if raised:
            raise raised

    assert command.run(main) == status
    assert printed in capsys.readouterr().err


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(TypeError):
        command.run(lambda: len(1))


def test_a_data_worker_gives_its_message_alone(toy, tmp_path, capsys):
    broken = write_toy_data(tmp_path / "toy")
    (tmp_path / "toy" / "000003.jpg").unlink()
    argv = arguments(broken, tmp_path, "--workers", "1", "--max-steps", "3")
    before = multiprocessing.active_children()
    gc.disable()
    try:
        assert command.run(lambda: train_pose.main(argv)) == 2
        assert multiprocessing.active_children() == before, "Python would wait for the worker at its end, for ever"
    finally:
        gc.enable()
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "cannot read" in told and "000003.jpg" in told and "Traceback" not in told
    assert "step/s" not in told  # not behind the progress bar


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="cuda:2: this machine has 2 CUDA devices"):
        distributed.start("cuda:2")


@pytest.mark.parametrize("flag", ["--json", "--save-results"])
def test_evaluate_makes_the_folder_of_its_output_first(toy, model, tmp_path, monkeypatch, flag):
    pytest.importorskip("pycocotools")
    argv = [str(model), "--annotations", toy.annotations, "--images", toy.images, "--device", "cpu", "--workers", "0"]
    file = tmp_path / "not yet" / "x.json"
    evaluate.main([*argv, "--no-flip", flag, str(file)])
    assert json.loads(file.read_text())
    monkeypatch.setattr(evaluate, "evaluate_model", lambda *_, **__: pytest.fail("the work was begun"))
    with pytest.raises(ValueError, match="is a folder; name the file"):
        evaluate.main([*argv, flag, str(tmp_path)])


@pytest.mark.parametrize("flag, value", [("--batch-size", "0"), ("--workers", "-1"), ("--batch-size", "many")])
def test_numbers_of_evaluate(toy, flag, value, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(["model", "--annotations", toy.annotations, "--images", toy.images, flag, value])
    assert f"argument {flag}: " in capsys.readouterr().err


@pytest.mark.parametrize("change, match", [("boxes", "not a file of detected boxes"), ("area", "--no-area")])
def test_files_of_something_else(toy, model, tmp_path, change, match):
    """An annotation file as boxes, and annotations without areas, are told before the network runs."""
    content = json.loads(open(toy.annotations).read())
    for annotation in content["annotations"]:
        annotation.pop("area")
    (tmp_path / "bare.json").write_text(json.dumps(content))
    argv = [str(model), "--images", toy.images, "--device", "cpu"]
    more = {
        "boxes": ["--annotations", toy.annotations, "--boxes", toy.annotations],
        "area": ["--annotations", str(tmp_path / "bare.json")],
    }
    with pytest.raises(ValueError, match=match):
        evaluate.main([*argv, *more[change]])


def test_validation_data_is_looked_at_before_training(toy, tmp_path):
    argv = arguments(toy, tmp_path, "--val-annotations", toy.annotations, "--val-images", str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no folder"):
        train_pose.main([*argv, "--val-boxes", ""])
    assert not (tmp_path / "debug").exists()
