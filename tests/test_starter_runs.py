"""How a run of the starter begins, stops, goes on and ends."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dwpose_core.models.rtmcc import create_model
from dwpose_core.models.weights import load_pose
from tests.synthetic_tools import noise_pool, write_pool
from training import checkpoint, starter
from training.optim import Schedule
from training.small_simcc import (
    MORE_HANDS,
)
from training.starter import check_start, finish, pool_size, train
from training.starter_phases import MORE, PHASES, Phase
from training.starter_weights import begin, build_network, read_weights, save
from training.synthetic.pool import CropPool


@pytest.fixture
def pool() -> CropPool:
    return noise_pool()


def test_weights_are_read_as_they_were_trained(tmp_path):
    """What calibration multiplied the scores by is divided out again before training goes on."""
    torch.manual_seed(0)
    net = build_network("dwpose-nano", (64, 64))
    crops = torch.rand(2, 3, 64, 64)
    expected = net.eval()(crops)
    with torch.no_grad():
        net.head.cls_x.weight *= 1.66
        net.head.cls_y.weight *= 1.66
    save(net, tmp_path / "a.safetensors", 1.66)
    for mine, theirs in zip(
        read_weights(tmp_path / "a.safetensors", "dwpose-nano", (64, 64)).eval()(crops), expected, strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0.02, atol=0.02)  # fp16
    assert read_weights(tmp_path / "a.safetensors", "dwpose-nano", (96, 64)).config.input_size == (96, 64)


def test_a_run_has_one_beginning(tmp_path):
    out, start = tmp_path / "out", tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match="no weights at"):
        check_start("dwpose-nano", [start], out)
    start.write_bytes(b"not weights")
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        check_start("dwpose-nano", [start], out)
    assert not out.exists()
    save(build_network("dwpose-micro", (64, 64)), start)
    with pytest.raises(ValueError, match="only grow"):
        check_start("dwpose-nano", [start], out)
    check_start("dwpose-micro", [start], out)
    check_start("dwpose-micro", [start], out)  # the same command goes on
    with pytest.raises(ValueError, match="choose another --out"):
        check_start("dwpose-micro", [start, start], out)
    with pytest.raises(ValueError, match="choose another --out"):
        check_start("dwpose-micro", [], out)
    with pytest.raises(ValueError, match=r"length 0\.5; choose another"):
        check_start("dwpose-micro", [start], out, 0.5)
    with pytest.raises(ValueError, match="more than 0"):
        check_start("dwpose-micro", [start], tmp_path / "new", 0)


@pytest.mark.parametrize("phase", [*PHASES["dwpose-nano"], *MORE["dwpose-t"], *MORE["dwpose-s"]])
def test_a_shorter_run_has_the_whole_schedule(phase):
    """Half as long, it warms up and cools down in half the steps; a factor of 1 changes nothing."""
    half = phase.scaled(0.5)
    assert phase.scaled(1.0) == phase and (half.steps, half.aid) == (phase.steps // 2, phase.aid // 2)
    for share in (0.3, 0.6, 0.999):
        rates = [p.schedule.at(int(share * p.steps)) for p in (phase, half)]
        assert rates[0] == pytest.approx(rates[1], rel=0.01)


def test_the_largest_goes_on_from_a_gpu_run_only(tmp_path):
    with pytest.raises(ValueError, match="give --start"):
        check_start("dwpose-s", [], tmp_path)
    net = create_model("dwpose-s")
    note = {"model": "dwpose-s", "score_factor": "2.0"}
    checkpoint.save_model(tmp_path / "gpu.safetensors", net, note)  # as synthetic_run writes it
    check_start("dwpose-s", [tmp_path / "gpu.safetensors"], tmp_path)
    again = read_weights(tmp_path / "gpu.safetensors", "dwpose-s", (256, 192))
    torch.testing.assert_close(again.head.cls_x.weight, net.head.cls_x.weight / 2)
    assert pool_size("dwpose-s") == (192, 256)


def test_a_run_goes_on_from_the_mean_of_several(tmp_path):
    """Scores as they were trained, whatever each file was scaled by."""
    nets = [build_network("dwpose-nano", (64, 64)) for _ in range(2)]
    for k, net in enumerate(nets):
        torch.nn.init.constant_(net.head.cls_x.weight, 1.0 + k)
        save(net, tmp_path / f"{k}.safetensors")
    with torch.no_grad():
        nets[1].head.cls_x.weight *= 4
    save(nets[1], tmp_path / "1.safetensors", 4.0)
    paths = [tmp_path / f"{k}.safetensors" for k in range(2)]
    both = begin(paths, "dwpose-nano", (64, 64)).head.cls_x.weight
    torch.testing.assert_close(both, torch.full_like(both, 1.5))
    one = begin(paths[1:], "dwpose-nano", (64, 64)).head.cls_x.weight
    torch.testing.assert_close(one, torch.full_like(one, 2.0))


def test_training_goes_on_from_the_mean_of_files_and_where_it_stopped(pool, tmp_path):
    """A held stem stays at the mean, the rest learns; a finished run is not begun again; the result is averaged."""
    for name in ("crops", "test_strong", "test_plain"):
        write_pool(pool, tmp_path / "pool", name)
    starts = [tmp_path / f"{k}.safetensors" for k in range(2)]
    for k, path in enumerate(starts):
        torch.manual_seed(k)
        save(build_network("debug", (64, 64)), path)
    phase = Phase("debug", (64, 64), (("crops", 1.0),), 2, 0, Schedule(0.3, 1, 0, 2, 0.01), 0.25, True, MORE_HANDS)
    arguments = (0, 1, phase, starts, None, tmp_path / "pool", tmp_path, 5)
    before = torch.get_num_threads()
    try:
        train(*arguments)
        (tmp_path / "rendezvous").unlink(missing_ok=True)
        first = (tmp_path / "debug.safetensors").read_bytes()
        train(*arguments)
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)
    assert (tmp_path / "debug.safetensors").read_bytes() == first
    (row,) = json.loads((tmp_path / "metrics.json").read_text())
    assert row["pictures"] == 64 and {"strong", "plain"} <= row.keys() and np.isfinite(row["loss"])
    mean, trained = begin(starts, "debug", (64, 64)).half(), load_pose(tmp_path / "debug.safetensors")
    pairs = zip(mean.state_dict().values(), trained.state_dict().items(), strict=True)
    moved = {key for old, (key, new) in pairs if not torch.equal(new, old.to(new.dtype))}
    assert "head.cls_x.weight" in moved and not any(key.startswith("backbone.stem") for key in moved)
    finish("debug", tmp_path, starts)
    assert json.loads((tmp_path / "metrics.json").read_text())[-1]["mean_of"] == 3
    assert load_pose(tmp_path / "trained.safetensors").name == "debug"


@pytest.mark.parametrize("cut_short", ["weights_of", "write_json"])
def test_a_report_that_is_cut_short_is_not_lost_and_not_told_twice(pool, tmp_path, monkeypatch, cut_short):
    """Killed between the state and what follows from it: going on gives what one go gives."""
    for name in ("crops", "test_strong"):
        write_pool(pool, tmp_path / "pool", name)
    phase = Phase("debug", (64, 64), (("crops", 1.0),), 2, 0, Schedule(0.3, 1, 0, 2, 0.01))
    monkeypatch.setattr(starter, "REPORT_EVERY", 1)
    before = torch.get_num_threads()
    results = []
    try:
        for folder in ("whole", "killed"):
            (out := tmp_path / folder).mkdir()
            arguments = (0, 1, phase, (), None, tmp_path / "pool", out, 5)
            if folder == "killed":
                with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                    patch.setattr(starter, cut_short, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
                    train(*arguments)
                torch.distributed.destroy_process_group()
                (out / "rendezvous").unlink(missing_ok=True)
            train(*arguments)
            results.append([row["pictures"] for row in json.loads((out / "metrics.json").read_text())])
            results.append((out / "debug.safetensors").is_file())
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(False)
    assert results == [[32, 64], True] * 2


def test_a_phase_is_done_at_once(tmp_path, monkeypatch):
    """Its state becomes the mark that it is done: a kill between the two would have it trained again, on its result."""
    marked = []

    def ended(*_, **__):
        (tmp_path / "state.pt").write_bytes(b"state")

    def replaced(source, target):
        Path(source).rename(target)
        marked.append(((tmp_path / "state.pt").is_file(), (tmp_path / "phase0.done").is_file()))
        raise KeyboardInterrupt

    monkeypatch.setattr(starter.torch.multiprocessing, "spawn", ended)
    monkeypatch.setattr(starter, "prepare", lambda *_: None)
    monkeypatch.setattr(starter, "check_start", lambda *_, **__: (PHASES["dwpose-nano"][0],))
    monkeypatch.setattr(starter, "limit_threads", lambda: None)
    monkeypatch.setattr(starter.os, "replace", replaced)
    monkeypatch.setattr(sys, "argv", ["starter", "--assets", "a", "--out", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        starter.main()
    assert marked == [(False, True)]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--people 0", "at least 1"),
        ("--scene-people 10", "--scene-people must be at least 11"),
        ("--people 20", "--scene-people must be at least 11"),
        ("--length nan", "above 0"),
        ("--workers 0", "at least 1"),
        ("--seed -1", "not be negative"),
    ],
)
def test_numbers_that_fill_no_batch(tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.setattr(sys, "argv", ["starter", "--assets", "a", "--out", str(tmp_path / "out"), *flags.split()])
    with pytest.raises(SystemExit):
        starter.main()
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()
