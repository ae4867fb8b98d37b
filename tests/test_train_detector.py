"""The recipe of the person detector in the box."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys

import numpy as np
import pytest
import torch

from dwpose_core.backends import TorchRunner
from dwpose_core.models.infer import name_of
from dwpose_core.models.weights import config_of, load_detector, load_pose
from dwpose_core.models.yolox import anchor_points, create_detector, decode_people
from dwpose_core.pipeline import Options, find_boxes
from tests.detection_toys import CELLS, SIDE, TINY, raw_output, save_pools, toy_pool
from tests.synthetic_tools import NamesItsDevice
from training import checkpoint, train_detector
from training.detection import aid, loading, simota
from training.detection.batches import draw_batch, stacked, to_input
from training.detection.evaluate import calibrate, find_in_pool, recall_precision
from training.detection.start import DetectorConfig, begin, create
from training.detection.tally import Tally
from training.monitor import NonFiniteLoss
from training.objectives import normalize
from training.optim import build_optimizer
from training.starter_weights import save
from training.train_detector import Job, finish, train


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

    monkeypatch.setattr(loading, "draw_batch", draw_and_stop)
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
    assert rows[-1]["pictures_per_second"] > 0 and 0 < rows[-1]["waited"] < 1
    with pytest.raises(ValueError, match="same options"):
        train(0, dataclasses.replace(TINY, lr=1e-3), parts)
    (tmp_path / "plain").mkdir()
    train(0, dataclasses.replace(TINY, mix_styles=0.0), Job(pools, tmp_path / "plain"))
    plain = checkpoint.load_state(tmp_path / "plain" / "last.pt")
    assert not same_state(plain["both"], states[0]["both"]), "MixStyle is at work in the others"


def test_loaders_change_nothing_but_the_time(tmp_path, monkeypatch):
    """Two beside the training until a SIGTERM, one after it: the same weights to the bit as with none at all."""
    pools = save_pools(tmp_path / "pool")
    alone, helped = (Job(pools, tmp_path / name) for name in ("alone", "helped"))
    for job in (alone, helped):
        job.out.mkdir()
    train(0, TINY, alone)

    learn, steps = aid.losses, []

    def stop_in_the_second_step(*args):
        steps.append(1)
        if len(steps) == 2:
            signal.raise_signal(signal.SIGTERM)
        return learn(*args)

    monkeypatch.setattr(aid, "losses", stop_in_the_second_step)
    with pytest.raises(SystemExit):
        train(0, TINY, dataclasses.replace(helped, loaders=2))
    assert checkpoint.load_state(helped.out / "last.pt")["step"] == 2
    train(0, TINY, dataclasses.replace(helped, loaders=1))
    states = [checkpoint.load_state(job.out / "last.pt") for job in (alone, helped)]
    assert same_state(states[0]["both"], states[1]["both"])


def test_a_broken_loss_is_named_and_never_saved(tmp_path, monkeypatch):
    job = Job(save_pools(tmp_path / "pool"), tmp_path, save_every=1)
    learn, steps = aid.losses, []

    def broken_in_the_third_step(*args):
        steps.append(1)
        parts = learn(*args)
        return parts | {"mask": parts["mask"] * float("nan")} if len(steps) == 3 else parts

    monkeypatch.setattr(aid, "losses", broken_in_the_third_step)
    with pytest.raises(NonFiniteLoss, match=r"step 2 .*last\.pt is sound"):
        train(0, TINY, job)
    state = checkpoint.load_state(tmp_path / "last.pt")
    assert state["step"] == 2 and all(value.isfinite().all() for value in state["both"].values())


def test_a_look_after_many_steps_names_the_first_that_broke():
    tally, fine = Tally(torch.device("cpu")), torch.tensor(1.0)
    for step in range(9):
        loss = torch.tensor(float("nan") if step in (4, 6) else step)
        tally.add(step, 3, {"loss": loss}, fine if step < 7 else fine * float("inf"))
        if step == 3:
            row = tally.row()
            assert row["loss"] == 1.5 and row["pictures_per_second"] > 0 and row["waited"] == 0
            assert not tally.check(False, 1) and tally.check(True, 1)
    with pytest.raises(NonFiniteLoss, match="step 4 "):
        tally.check(False, 1)


def test_a_step_names_its_devices_and_never_reads_from_them():
    """Tensors of the meta device have no values: what would make the host wait for a GPU fails with them."""
    device = torch.device("meta")
    net = begin(TINY)
    both = torch.nn.ModuleList((net, aid.PartsAid(net))).to(device)
    anchor_points.cache_clear()
    batch = draw_batch(toy_pool(8), 4, SIDE, 0.5, np.random.default_rng(0)).to(device)
    with NamesItsDevice():
        tally = Tally(device)
        maps = net.backbone(to_input(batch.canvas[..., :3], device))
        parts = simota.losses(simota.logits(net.head, maps), batch.people, SIDE, with_l1=True)
        parts |= aid.losses(both[1](maps), batch.canvas[..., 3], batch.points)
        parts["loss"] = parts["loss"] + parts["mask"] + parts["parts"]
        parts["loss"].backward()
        tally.add(0, 4, parts, torch.nn.utils.clip_grad_norm_(both.parameters(), 10.0))
    assert all(p.grad is not None and p.grad.device == device for p in both.parameters())
    with pytest.raises((RuntimeError, NotImplementedError)):
        tally.check(False, 1)  # which does read
    anchor_points.cache_clear()


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
    people = stacked([pool.boxes_of(k) for k in range(8)])
    for _ in range(70):
        optimizer.zero_grad()
        simota.losses(raw_output(net, images), people, SIDE, with_l1=False)["loss"].backward()
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


@pytest.mark.parametrize("kind, weights", [("nano", "dwpose-nano"), ("s", "dwpose-s-synthetic")])
def test_cspnext_begins_with_the_pose_network_and_keeps_its_first_stages(tmp_path, kind, weights):
    job = Job(save_pools(tmp_path / "pool"), tmp_path)
    config = dataclasses.replace(TINY, network=f"yolox-cspnext-{kind}", pose=weights, steps=2)
    pose = load_pose(weights).backbone.state_dict()
    before = begin(config).backbone.backbone.pose.state_dict()
    assert same_state(pose, before)
    train(0, config, job)
    after = load_detector(finish(config, job, "mine"))
    assert (after.name, after.config.num_classes) == (config.network, 1)
    for key, value in after.backbone.backbone.pose.state_dict().items():
        kept = key.startswith(("stem.", "stage1."))
        assert torch.equal(value, before[key].half().to(value.dtype)) == kept or value.ndim == 0, key
    with pytest.raises(ValueError, match=f"holds .*, not the backbone of {config.network}"):
        begin(dataclasses.replace(config, pose={"nano": "dwpose-s-synthetic", "s": "dwpose-nano"}[kind]))


def test_result_is_the_mean_with_earlier_parts(tmp_path):
    job = Job(save_pools(tmp_path / "pool"), tmp_path)
    config = dataclasses.replace(TINY, network="yolox-cspnext-s", steps=2)
    train(0, config, job)
    after = load_detector(finish(config, job, "mine"))
    bundled = load_detector("yolox-cspnext-s", local_files_only=True)
    mean = load_detector(finish(config, job, "mean", ["yolox-cspnext-s"]))  # trained at another size
    assert mean.config.input_size == after.config.input_size != bundled.config.input_size
    ours, theirs, both = (net.backbone.C3_p4.conv1.conv.weight for net in (after, bundled, mean))
    torch.testing.assert_close(both, (ours + theirs) / 2, atol=2e-3, rtol=0)  # half precision


@pytest.mark.parametrize("kind, weights, last", [("nano", "dwpose-nano", 3), ("s", "dwpose-s-synthetic", 4)])
def test_cspnext_takes_bgr_and_sees_what_the_pose_network_sees(kind, weights, last):
    net = begin(dataclasses.replace(TINY, network=f"yolox-cspnext-{kind}", pose=weights)).eval()
    backbone = load_pose(weights).backbone
    rgb = np.random.default_rng(0).integers(0, 255, (1, SIDE, SIDE, 3), dtype=np.uint8)
    seen = []
    stage = getattr(net.backbone.backbone.pose, f"stage{last}")
    stage.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        net(to_input(rgb))
        expected = backbone(normalize(torch.from_numpy(rgb)))
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name, megabytes", [("yolox-cspnext-nano", 7), ("yolox-cspnext-s", 16)])
def test_weights_without_metadata_are_known_by_their_shapes(name, megabytes):
    net = create_detector(name)
    state = net.state_dict()
    assert sum(value.numel() for value in state.values()) * 2 < megabytes * 1e6  # in half precision
    config = config_of(state, "a file")
    assert config == net.config and name_of(config) == name


@pytest.mark.parametrize("flag", [[], ["--prepare-only"]])
def test_preparing_may_be_all(tmp_path, monkeypatch, flag):
    done = []
    for name in ("prepare", "spawn", "finish"):
        monkeypatch.setattr(train_detector, name, lambda *args, name=name: done.append(name))
    monkeypatch.setattr(
        sys, "argv", ["x", "--assets", "none", "--out", str(tmp_path / "out"), "--device", "cpu", *flag]
    )
    train_detector.main()
    assert done == (["prepare"] if flag else ["prepare", "spawn", "finish"])


def test_sizes_grow_with_the_run():
    config = DetectorConfig(steps=1000)
    sizes = [config.side_at(step) for step in range(1000)]
    assert set(sizes) <= {128, 160, 192, 224, 256, 288, 320}
    assert max(sizes[:100]) < 256 and np.mean(sizes[:200]) < np.mean(sizes[600:800])
    assert set(sizes[config.tail_start :]) == {320}


def test_official_detectors_keep_eighty_classes():
    raw = torch.zeros(1, len(CELLS), 85)
    raw[0, 3, 4], raw[0, 3, 5] = 0.9, 0.9
    assert create_detector("yolox-nano").config.num_classes == 80
    assert len(decode_people(raw, (SIDE, SIDE), 0.3)[0][0]) == 1


def test_training_goes_on_from_a_detector_of_the_same_kind(tmp_path):
    config = dataclasses.replace(TINY, start="yolox-cspnext-s", network="yolox-cspnext-s")
    theirs = load_detector("yolox-cspnext-s", local_files_only=True).state_dict()
    mine = begin(config).state_dict()
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())
    with pytest.raises(ValueError, match="holds yolox-cspnext-s with 1 classes, not yolox-nano"):
        begin(dataclasses.replace(config, network="yolox-nano"))


def test_training_goes_on_from_a_run_that_was_stopped(tmp_path):
    train(0, TINY, Job(save_pools(tmp_path / "pool"), tmp_path))
    stopped = tmp_path / "last.pt"
    mine = begin(dataclasses.replace(TINY, start=str(stopped), steps=9, lr=1e-4)).state_dict()
    assert same_state(mine, checkpoint.load_state(stopped)["average"])
    with pytest.raises(ValueError, match="holds yolox-nano with 1 classes, not yolox-s"):
        begin(dataclasses.replace(TINY, start=str(stopped), network="yolox-s"))
    checkpoint.save_state(stopped, {"config": {"student": "dwpose-s"}})
    with pytest.raises(ValueError, match="another training"):
        begin(dataclasses.replace(TINY, start=str(stopped)))
    stopped.unlink()
    with pytest.raises(ValueError, match="is missing"):
        begin(dataclasses.replace(TINY, start=str(stopped)))


def test_the_backbone_moves_by_what_the_pose_network_has_learnt_since(tmp_path):
    before = tmp_path / "before.safetensors"
    net = load_pose("dwpose-s-synthetic")
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.sub_(0.25)
    save(net, before)
    config = dataclasses.replace(TINY, start="yolox-cspnext-s", network="yolox-cspnext-s")
    old, new = (begin(c) for c in (config, dataclasses.replace(config, pose_before=str(before))))
    for name, parameter in old.backbone.backbone.pose.named_parameters():
        change = new.backbone.backbone.pose.get_parameter(name) - parameter
        torch.testing.assert_close(change, torch.full_like(change, 0.25), rtol=0, atol=0.01)  # files hold fp16
    assert same_state(old.head.state_dict(), new.head.state_dict())
    for wrong in ({"start": ""}, {"network": "yolox-nano", "start": ""}):
        with pytest.raises(ValueError, match="--pose-before is for a --start"):
            begin(dataclasses.replace(config, pose_before=str(before), **wrong))
    with pytest.raises(ValueError, match=r"--pose-before .* holds dwpose-nano"):
        begin(dataclasses.replace(config, pose_before="dwpose-nano"))


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"side": 200}, "--side must be a multiple of 32 pixels"),
        ({"smallest": 100}, "--smallest must be a multiple of 32"),
        ({"largest": 0}, "--largest must be a multiple of 32"),
        ({"smallest": 320, "largest": 288}, "--smallest 320 is larger than --largest 288"),
    ],
)
def test_sides_that_no_pyramid_has_are_refused(sides, message):
    with pytest.raises(ValueError, match=message):
        DetectorConfig(**sides)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1"),
        ({"batch": -1}, "--batch must be at least 1"),
        ({"workers": 0}, "--workers must be at least 1"),
        ({"mosaic": float("nan")}, "--mosaic must be a share"),
        ({"mix_styles": 1.5}, "--mix-styles must be a share"),
        ({"tail": -0.1}, "--tail must be a share"),
        ({"lr": float("nan")}, "--lr must not be negative"),
        ({"muon_lr": float("inf")}, "--muon-lr must not be negative"),
        ({"seed": -1}, "--seed must not be negative"),
    ],
)
def test_numbers_that_train_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DetectorConfig(**values)


@pytest.mark.parametrize("flags", ["--save-every 0", "--report-every 0", "--loaders -1", "--people 0", "--device tpu"])
def test_flags_that_would_fail_late_are_refused(monkeypatch, capsys, flags):
    monkeypatch.setattr(sys, "argv", ["x", "--assets", "none", "--out", "none", *flags.split()])
    with pytest.raises(SystemExit):
        train_detector.main()
    assert f"argument {flags.split()[0]}: " in capsys.readouterr().err


def test_a_process_tells_its_mistake_in_a_line(tmp_path, capfd):
    job = Job(save_pools(tmp_path / "pool"), tmp_path)
    checkpoint.save_state(tmp_path / "last.pt", {"config": dataclasses.asdict(TINY)})
    with pytest.raises(SystemExit) as end:
        train_detector.spawn(dataclasses.replace(TINY, lr=1e-3), job)
    printed = capfd.readouterr().err
    assert end.value.code == 2 and "same options" in printed and "Traceback" not in printed


def test_another_run_is_refused_before_anything_is_rendered(tmp_path, monkeypatch):
    monkeypatch.setattr(train_detector, "prepare", lambda *_: pytest.fail("the work was begun"))
    checkpoint.save_state(tmp_path / "last.pt", {"config": dataclasses.asdict(TINY)})
    monkeypatch.setattr(sys, "argv", ["x", "--assets", "none", "--out", str(tmp_path), "--device", "cpu"])
    with pytest.raises(ValueError, match="same options"):
        train_detector.main()


def test_a_log_has_every_step_once(tmp_path, monkeypatch):
    """Killed after it had logged a step that it takes again."""
    monkeypatch.setattr(train_detector, "LOG_EVERY", 1)
    job = Job(save_pools(tmp_path / "pool"), tmp_path, save_every=2)
    add = Tally.add

    def killed_in_the_fourth_step(tally, step, *rest):
        if step == 3:
            raise KeyboardInterrupt
        add(tally, step, *rest)

    monkeypatch.setattr(Tally, "add", killed_in_the_fourth_step)
    with pytest.raises(KeyboardInterrupt):
        train(0, TINY, job)
    monkeypatch.setattr(Tally, "add", add)
    train(0, TINY, job)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
