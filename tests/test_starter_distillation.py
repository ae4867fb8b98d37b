"""The starter by DWPose's two stages: what is trained, what stays, which stage's network is kept."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest
import torch

from benchmarks import realism
from dwpose_core.models.rtmcc import create_model
from dwpose_core.models.weights import load_pose
from tests.synthetic_tools import noise_pool, write_pool
from training import starter
from training.objectives import Stage1Distillation, Stage2Distillation
from training.starter import check_start, finish, train, weights_of
from training.starter_phases import STAGE1, STAGE2, objective_of, phases_of
from training.starter_weights import as_trained, build_network, save

SMALL = {"network": "debug", "size": (64, 64), "pools": (("crops", 1.0),), "steps": 2}
FIRST, SECOND = replace(STAGE1, **SMALL), replace(STAGE2, **SMALL)


@pytest.fixture
def one_thread():
    """`train` sets these for its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


@pytest.fixture
def teacher(tmp_path) -> Path:
    torch.manual_seed(1)
    save(build_network("debug", (64, 64)), tmp_path / "teacher.safetensors")
    return tmp_path / "teacher.safetensors"


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in after.items() if not torch.equal(before[key].to(value), value)}


def test_two_stages_from_files_to_weights(tmp_path, teacher, one_thread):
    """Stage 1 trains everything; stage 2 keeps the backbone to the bit and makes a new head. The teacher stays."""
    for name in ("crops", "test_strong"):
        write_pool(noise_pool(), tmp_path / "pool", name)
    torch.manual_seed(0)
    begun = build_network("debug", (64, 64))
    save(begun, tmp_path / "start.safetensors")
    starts = [tmp_path / "start.safetensors"]
    as_given = teacher.read_bytes()
    for number, phase in enumerate((FIRST, SECOND)):
        (tmp_path / "rendezvous").unlink(missing_ok=True)
        train(0, 1, phase, starts, teacher, tmp_path / "pool", tmp_path, number)
        (tmp_path / "state.pt").unlink()
        starts = [weights_of(phase, tmp_path)]
    first, second = (as_trained(tmp_path / f"debug{stage}.safetensors").state_dict() for stage in ("-stage1", ""))
    moved = changed(begun.half().state_dict(), first)
    assert any(key.startswith("backbone") for key in moved) and any(key.startswith("head") for key in moved)
    assert all(key.startswith("head") for key in changed(first, second))
    assert {"head.cls_x.weight", "head.final_layer.weight"} <= changed(first, second)
    assert teacher.read_bytes() == as_given
    rows = json.loads((tmp_path / "metrics.json").read_text())
    assert [row["kind"] for row in rows] == ["stage1", "stage2"]


@pytest.mark.parametrize(("strong", "kept"), [((0.5, 0.4), "-stage1"), ((0.4, 0.5), "")])
def test_the_better_stage_is_what_ships(tmp_path, monkeypatch, strong, kept):
    monkeypatch.setattr(starter, "calibrate", lambda net, pool: 2.0)
    write_pool(noise_pool(), tmp_path / "pool", "test_strong")
    nets = {}
    for stage, value in zip(("-stage1", ""), strong, strict=True):
        nets[stage] = build_network("debug", (64, 64))
        torch.nn.init.constant_(nets[stage].head.cls_x.weight, value)
        save(nets[stage], tmp_path / f"debug{stage}.safetensors")
    rows = [
        {"kind": kind, "strong": {"body_pck": value}} for kind, value in zip(("stage1", "stage2"), strong, strict=True)
    ]
    (tmp_path / "metrics.json").write_text(json.dumps(rows))
    finish("debug", tmp_path, [])
    finish("debug", tmp_path, [])  # again, the same
    shipped = load_pose(tmp_path / "debug.safetensors").head.cls_x.weight
    torch.testing.assert_close(shipped, nets[kept].head.cls_x.weight.half().to(shipped))


@pytest.mark.parametrize(("before", "kept"), [(0.9, "teacher"), (0.1, "stage2")])
def test_a_head_that_is_worse_than_its_teacher_is_not_kept(tmp_path, teacher, monkeypatch, before, kept):
    monkeypatch.setattr(starter, "calibrate", lambda net, pool: 1.0)
    monkeypatch.setattr(starter, "measure", lambda net, pool: {"body_pck": before})
    write_pool(noise_pool(), tmp_path / "pool", "test_strong")
    save(build_network("debug", (64, 64)), tmp_path / "debug.safetensors")
    nets = {"teacher": load_pose(teacher), "stage2": load_pose(tmp_path / "debug.safetensors")}
    (tmp_path / "metrics.json").write_text(json.dumps([{"kind": "stage2", "strong": {"body_pck": 0.5}}]))
    finish("debug", tmp_path, [], teacher)
    shipped = load_pose(tmp_path / "debug.safetensors").head.cls_x.weight
    torch.testing.assert_close(shipped, nets[kept].head.cls_x.weight)


def test_a_network_is_taught_by_larger_ones_or_by_itself(tmp_path):
    assert [phase.kind for phase in phases_of("dwpose-t", True, "dwpose-s")] == ["stage1", "stage2"]
    (alone,) = phases_of("dwpose-s", True, "dwpose-s")
    assert (alone.kind, alone.network) == ("stage2", "dwpose-s")
    student, teacher = create_model("dwpose-t"), create_model("dwpose-s")
    first = objective_of(STAGE1, student, teacher)
    second = objective_of(STAGE2, create_model("dwpose-t"), student)
    assert isinstance(first, Stage1Distillation) and isinstance(second, Stage2Distillation)
    first.train(), second.train()
    assert not first.teacher.training and not second.student.backbone.training
    first.set_epoch(STAGE1.steps // 2)
    assert first.fade == 0.5


def test_what_cannot_teach_is_refused_before_anything_is_drawn(tmp_path):
    large, out = tmp_path / "s.safetensors", tmp_path / "out"
    save(create_model("dwpose-s"), large)
    with pytest.raises(ValueError, match="leave out --start"):
        check_start("dwpose-s", [large], out, teacher=large)
    nano = tmp_path / "nano.safetensors"
    save(create_model("dwpose-nano"), nano)
    with pytest.raises(ValueError, match="dwpose-t differs from dwpose-nano"):
        check_start("dwpose-t", [], out, teacher=nano)
    assert not out.exists()
    phases = check_start("dwpose-t", [], out, 0.5, large)  # begins as its teacher's strongest channels
    assert [phase.steps for phase in phases] == [STAGE1.steps // 2, STAGE2.steps // 2]
    tiny = tmp_path / "t.safetensors"
    save(create_model("dwpose-t"), tiny)
    with pytest.raises(ValueError, match="choose another --out"):
        check_start("dwpose-t", [tiny], out, 0.5)


def test_names_of_the_catalogue_are_no_files(tmp_path, monkeypatch, capsys):
    command = ["starter", "--assets", "a", "--out", str(tmp_path), "--teacher", "dwpose-s-synthetic"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        starter.main()
    assert "dwpose-s-synthetic is no file" in capsys.readouterr().err


def test_the_table_of_levers_calls_the_training_as_it_is(tmp_path, monkeypatch):
    """benchmarks/realism.py takes hours: here its training is a stand-in that takes the same arguments."""

    def trained(rank, workers, phase, *others):
        (tmp_path / "all").mkdir(exist_ok=True)
        save(build_network(phase.network, phase.size), tmp_path / "all" / f"{phase.network}.safetensors")
        for name, text in (("metrics.json", '[{"plain": {}}]'), ("train.npy", ""), ("state.pt", "")):
            (tmp_path / "all" / name).write_text(text)

    (tmp_path / "all").mkdir()
    monkeypatch.setattr(realism, "LEVERS", {"all": realism.Lever()})
    monkeypatch.setattr(realism, "build_pool", create_autospec(realism.build_pool))
    monkeypatch.setattr(realism, "train", create_autospec(train, side_effect=trained))
    monkeypatch.setattr(realism, "measure", lambda network, pool: {"body_pck": 0.5})
    monkeypatch.setattr(realism.CropPool, "load", lambda *_: None)
    args = argparse.Namespace(out=tmp_path, assets=tmp_path, crops=64, steps=4, photographs=[], start=[])
    rows = {"all": realism.one_variant("all", args)}
    assert rows == {"all": {"plain": {"body_pck": 0.5}, "strong": {"body_pck": 0.5}}}
    assert realism.table(rows).splitlines() == ["| | plain | strong |", "|---|---|---|", "| all | 0.50 | 0.50 |"]
    assert realism.train.call_args.args[2].steps == 4
