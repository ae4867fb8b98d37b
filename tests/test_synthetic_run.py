"""The one-command run: stages that stop and go on, levers, from assets to weights."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dwpose_core.models.rtmcc import create_model
from dwpose_core.models.weights import load_pose
from dwpose_core.skeleton import PARTS
from tests.synthetic_tools import generator
from training import checkpoint, synthetic_crops, synthetic_plan, synthetic_run, synthetic_stage
from training.label_objective import KnownStage1, as_batch
from training.objectives import Stage1Distillation
from training.synthetic import torch_composite as batched
from training.synthetic.composite import MILD, QUIET, STRONG
from training.synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from training.synthetic.layer_pool import Layers
from training.synthetic_stage import OutOfTime, Stage, build_objective, phase_at, train_stage


def test_phases_and_levers():
    args = synthetic_run.parse(["--assets", "a", "--out", "b", "--minutes", "10", "--without", "people", "jpeg"])
    early = replace(STRONG, crowded=0.25, partial=0.25)
    assert [phase_at(p)[0] for p in (0.0, 0.7, 0.95, 1.0)] == [early, MILD, QUIET, QUIET]
    stage = Stage("teacher", "labels", "debug", 1.0, 4)
    assert synthetic_plan.levers_of(stage, args) == {"people", "jpeg"}
    assert synthetic_plan.levers_of(replace(stage, name="without-clothing"), args) == {"people", "jpeg", "clothing"}
    assert synthetic_crops.lessened(early, {"people", "jpeg"}) == replace(early, people=False, jpeg=False)
    assert synthetic_crops.lessened(early, {"clothing", "backgrounds"}) == early


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("extra", [[], ["--ablation"], ["--students", "dwpose-t"], ["--teacher", "none"]])
def test_stages_fit_into_the_minutes(extra, device):
    args = synthetic_run.parse(["--assets", "a", "--out", "b", "--minutes", "25", "--device", device, *extra])
    stages = synthetic_plan.plan(args)
    planned = sum(stage.seconds for stage in stages) / 60
    assert 25 * 0.9 < planned + 25 * synthetic_plan.shares(args)[0] < 25 * 0.95
    assert len({stage.name for stage in stages}) == len(stages)


def test_a_stopped_stage_goes_on(layers, around, tmp_path, monkeypatch):
    """Out of time the state is saved; the next process starts where it was, and ends with the figures of both."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) * 0.1)  # a step looks at it four or five times
    monkeypatch.setattr(synthetic_stage, "time", clock)
    stage = Stage("teacher", "labels", "debug", 8.0, 8)
    tests = {"strong": synthetic_crops.test_pool(layers, around, (64, 64), STRONG, 0)}

    def attempt(deadline: float):
        torch.manual_seed(0)
        objective = build_objective("labels", create_model("debug"), None).to(memory_format=torch.channels_last)
        dice = generator(9)

        def draw(progress: float) -> batched.Crops:
            index = torch.randint(len(layers), (8,), generator=dice)
            return batched.composite_batch(layers, index, around, (64, 64), dice, phase_at(progress)[0])

        def report(_, rows: list[dict]) -> None:
            reported.append(len(rows))

        return train_stage(stage, objective, draw, tests, dice, tmp_path / "teacher.pt", deadline, report)

    reported: list[int] = []
    with pytest.raises(OutOfTime, match="teacher at"):
        attempt(0.0)
    before = torch.load(tmp_path / "teacher.pt", weights_only=True)
    assert 0 < before["spent"] < 0.5 and before["pictures"] == 8
    net, rows = attempt(float("inf"))
    assert reported == list(range(1, len(rows) + 1))
    assert [row["pictures"] for row in rows] == sorted(row["pictures"] for row in rows)
    assert len(rows) == synthetic_stage.EVALUATIONS and 100 < rows[-1]["pictures"] < 200
    assert 7.5 < rows[-1]["seconds"] < 8.5
    assert all(np.isfinite(row["loss"]) for row in rows)
    # A process that dies before it has stored the weights finds the end of the stage, and the same weights.
    again, same_rows = attempt(float("inf"))
    assert same_rows == rows and torch.equal(again.head.cls_x.weight, net.head.cls_x.weight)
    assert not torch.equal(net.head.cls_x.weight, before["average"]["head.cls_x.weight"])


def test_the_same_network_goes_on_with_all_it_knows(tmp_path):
    """Its scores as they were trained; another network only takes the backbone."""
    net, start = create_model("debug"), tmp_path / "debug.safetensors"
    torch.nn.init.normal_(net.head.cls_x.weight)
    checkpoint.save_model(start, net, {"model": "debug"})
    trained = net.head.cls_x.weight.clone()
    with torch.no_grad():
        net.head.cls_x.weight *= 2.5
    scaled = tmp_path / "scaled.safetensors"
    checkpoint.save_model(scaled, net, {"model": "debug", "score_factor": "2.5"})
    command = ["--assets", "a", "--out", "b", "--minutes", "1", "--teacher", "none", "--students", "debug"]
    official = tmp_path / "debug.pth"
    torch.save({"state_dict": create_model("debug").state_dict()}, official)
    assert synthetic_plan.read_start(official).name == "debug"
    for path in (start, scaled):
        args = synthetic_run.parse([*command, "--start", str(path)])
        (stage,) = synthetic_plan.plan(args)
        assert (stage.name, stage.fresh, stage.lr) == ("debug-labels", False, Stage.lr * synthetic_plan.GOING_ON_LR)
        torch.testing.assert_close(synthetic_plan.beginning(stage, args).head.cls_x.weight, trained)
    (stage,) = synthetic_plan.plan(synthetic_run.parse([*command[:-1], "dwpose-t", "--start", str(start)]))
    assert stage.fresh and stage.lr == Stage.lr
    taught = ["debug" if word == "none" else word for word in command]
    teacher, *others = synthetic_plan.plan(synthetic_run.parse([*taught, "--start", str(start)]))
    assert not teacher.fresh and [stage.fresh for stage in others] == [False, False]  # the student is in the file too
    torch.testing.assert_close(synthetic_plan.beginning(others[0], args).head.cls_x.weight, trained)
    teacher, *others = synthetic_plan.plan(synthetic_run.parse([*taught[:-1], "dwpose-t", "--start", str(start)]))
    assert not teacher.fresh and all(stage.fresh and stage.lr == Stage.lr for stage in others)


def test_a_teacher_grows_from_a_smaller_network(tmp_path):
    """And every student goes on from a file of its own."""
    torch.manual_seed(0)
    files = {name: tmp_path / f"{name}.safetensors" for name in ("dwpose-t", "dwpose-s")}
    nets = {name: create_model(name) for name in files}
    for name, path in files.items():
        checkpoint.save_model(path, nets[name], {"model": name})
    command = ["--assets", "a", "--out", "b", "--minutes", "1", "--teacher", "dwpose-m", "--students", "dwpose-s"]
    args = synthetic_run.parse([*command, "dwpose-t", "--start", str(files["dwpose-s"]), str(files["dwpose-t"])])
    teacher, *students = synthetic_plan.plan(args)
    assert (teacher.fresh, teacher.lr) == (False, Stage.lr * synthetic_plan.GOING_ON_LR)
    grown = synthetic_plan.beginning(teacher, args).backbone.stem[0].conv.weight
    torch.testing.assert_close(grown[:16], nets["dwpose-s"].backbone.stem[0].conv.weight)
    assert [stage.fresh for stage in students] == [False] * 4
    for stage in students[::2]:
        assert stage.lr == teacher.lr
        begun = synthetic_plan.beginning(stage, args)
        torch.testing.assert_close(begun.head.cls_y.weight, nets[stage.model].head.cls_y.weight)
    assert students[1].lr == Stage.lr
    turned = synthetic_run.parse([*command, "--start", str(files["dwpose-t"]), str(files["dwpose-s"])])
    assert synthetic_plan.origin_of("dwpose-m", "labels", turned)[1].name == "dwpose-s"  # the larger, not the first
    twice = synthetic_run.parse([*command, "--start", str(files["dwpose-s"]), str(files["dwpose-s"])])
    with pytest.raises(ValueError, match="several files of one network"):
        synthetic_plan.plan(twice)


def test_the_first_stage_knows_hidden_and_absent_points(layers, around):
    """As large as DWPose's task loss where all points are seen, and with a flat row for one that is outside."""
    torch.manual_seed(0)
    net, teacher = create_model("debug"), create_model("debug")
    crops = as_batch(batched.composite_batch(layers, torch.arange(6), around, (64, 64), generator(0), None))
    logits = tuple(torch.randn(6, 133, 128, requires_grad=True) for _ in "xy")
    crops["visible"], crops["flags"] = torch.ones(6, 133), torch.full((6, 133), VISIBLE, dtype=torch.uint8)
    crops["keypoints"] = torch.rand(6, 133, 2) * 50 + 7
    alike = KnownStage1(net, teacher, 10, dict.fromkeys(PARTS, 1.0), 0.25)
    sizes = []
    for objective in (alike, Stage1Distillation(net, teacher, 10)):
        loss, _ = objective._task(logits, crops)
        sizes.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, logits)]))
    torch.testing.assert_close(*sizes, rtol=0.02, atol=1e-5)
    crops["flags"][:, 9] = OUTSIDE
    (gradient,) = torch.autograd.grad(alike._task(logits, crops)[0], logits[:1])
    assert gradient[:, 9].abs().sum() > 0


def test_a_trained_teacher_takes_none_of_the_time(tmp_path):
    path = tmp_path / "teacher.safetensors"
    net = create_model("debug")
    trained = net.head.cls_x.weight.clone()
    with torch.no_grad():
        net.head.cls_x.weight *= 2.5
    checkpoint.save_model(path, net, {"model": "debug", "score_factor": "2.5"})
    command = ["--assets", "a", "--out", "b", "--minutes", "1", "--students", "dwpose-t", "dwpose-s", "--teacher"]
    args = synthetic_run.parse([*command, str(path)])
    stages = synthetic_plan.plan(args)
    assert [stage.kind for stage in stages] == ["stage1", "stage2"] * 2
    own = synthetic_plan.plan(synthetic_run.parse([*command, "debug"]))
    assert sum(stage.seconds for stage in stages) == pytest.approx(sum(stage.seconds for stage in own))
    assert stages[0].seconds > 1.5 * own[1].seconds
    torch.testing.assert_close(synthetic_plan.teacher_of(stages[0], args, tmp_path).head.cls_x.weight, trained)
    checkpoint.save_model(tmp_path / "dwpose-t-stage1.safetensors", create_model("dwpose-t"), {})
    assert synthetic_plan.teacher_of(stages[1], args, tmp_path).name == "dwpose-t"
    with pytest.raises(SystemExit):
        synthetic_run.parse([*command, str(tmp_path / "missing.pth")])


def test_students_of_a_trained_teacher_begin_as_its_strongest_channels(tmp_path):
    path = tmp_path / "teacher.safetensors"
    net = create_model("dwpose-s")
    checkpoint.save_model(path, net, {"model": "dwpose-s"})
    command = ["--assets", "a", "--out", "b", "--minutes", "1", "--students", "dwpose-t", "--start", str(path)]
    args = synthetic_run.parse([*command, "--teacher", str(path)])
    first, second = (synthetic_plan.beginning(stage, args) for stage in synthetic_plan.plan(args))
    torch.testing.assert_close(first.head.gau.uv.weight, net.head.gau.uv.weight)
    assert not torch.equal(second.head.gau.uv.weight, net.head.gau.uv.weight), "the second stage takes the first's"
    args = synthetic_run.parse([*command, "--teacher", "dwpose-m"])
    for stage in synthetic_plan.plan(args)[1:]:
        assert not torch.equal(synthetic_plan.beginning(stage, args).head.gau.uv.weight, net.head.gau.uv.weight)


def test_a_teacher_of_another_size_is_refused_at_once(tmp_path):
    path, out = tmp_path / "teacher.safetensors", tmp_path / "out"
    checkpoint.save_model(path, create_model("debug"), {"model": "debug"})
    command = ["--assets", "a", "--out", str(out), "--minutes", "1", "--students", "dwpose-t", "--teacher", str(path)]
    with pytest.raises(ValueError, match="share one input size"):
        synthetic_run.run(synthetic_run.parse(command))
    assert not out.exists()


def test_distillation_has_no_labels_of_faces_turned_away():
    points, visible = torch.zeros(2, 133, 2), torch.full((2, 133), HIDDEN, dtype=torch.uint8)
    points[:, 23 + 36], points[:, 23 + 45], points[:, 23 + 8] = (torch.tensor(xy) for xy in ((-3.0, 0), (3, 0), (0, 8)))
    points[1, :, 0] *= -1  # from behind
    front, behind = as_batch(batched.Crops(torch.zeros(2, 4, 4, 3, dtype=torch.uint8), points, visible))["visible"]
    assert front.all()
    assert not behind[:3].any() and not behind[23:91].any() and behind[3:23].all() and behind[91:].all()


def test_who_goes_on_has_no_aid_and_learns_more_of_hands(layers, around):
    crops = as_batch(batched.composite_batch(layers, torch.arange(6), around, (64, 64), generator(0), None))
    net = create_model("debug")
    fresh, more = (build_objective("labels", net, None, kind)(crops) for kind in (True, False))
    assert fresh["loss"] > fresh["loss_task"] and more["loss"] == more["loss_task"]
    assert not torch.isclose(fresh["loss_task"], more["loss_task"], rtol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [(["--scenes", "1"], "--scenes is a share"), (["--drawings", "-0.1"], "--drawings is a share")]
    + [(["--scenes", "0.3", *extra], "levers") for extra in (["--ablation"], ["--without", "jpeg"])],
)
def test_shares_that_cannot_be(flags, message, capsys):
    with pytest.raises(SystemExit):
        synthetic_run.parse(["--assets", "a", "--out", "b", "--minutes", "1", *flags])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags",
    ["--minutes 0", "--minutes nan", "--stop-after 0", "--captured 2", "--seed -1"]
    + [f"--{name} 0" for name in ("layers", "scene-crops", "views", "pictures", "things", "held-out", "at-once")]
    + ["--batch 0", "--workers 0", "--students dwpose-s dwpose-s"],
)
def test_numbers_that_draw_or_train_nothing(flags, capsys):
    with pytest.raises(SystemExit):
        synthetic_run.parse(["--assets", "a", "--out", "b", "--minutes", "1", *flags.split()])
    assert flags.split()[0] in capsys.readouterr().err


def test_a_batch_without_anybody_has_a_loss(layers, around):
    """Small ones happen to be empty; the flat rows are still learnt."""
    nobody = replace(QUIET, loose=0.0, empty=1.0)
    crops = batched.composite_batch(layers, torch.arange(4), around, (64, 64), generator(0), nobody)
    assert not crops.visible.any()
    for kind in ("labels", "stage1"):
        objective = build_objective(kind, create_model("debug"), create_model("debug") if kind == "stage1" else None)
        loss = objective(as_batch(crops))["loss"]
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.grad is not None)


@pytest.mark.slow
def test_a_network_goes_on_without_a_teacher_with_whole_scenes(assets, tmp_path):
    small = "--layers 6 --pictures 6 --things 4 --held-out 4 --workers 1 --at-once 1 --batch 4".split()
    checkpoint.save_model(tmp_path / "begun.safetensors", create_model("debug"), {})
    names = ["--teacher", "none", "--students", "debug", "--start", str(tmp_path / "begun.safetensors")]
    more = ["--scenes", "0.5", "--close-ups", "0.5", "--drawings", "0.3", "--scene-crops", "50"]
    synthetic_run.main(
        ["--assets", str(assets), "--out", str(tmp_path), "--minutes", "0.05", "--device", "cpu", *names, *more, *small]
    )
    assert load_pose(tmp_path / "debug.safetensors").name == "debug"
    record = json.loads((tmp_path / "curves.json").read_text())
    assert {row["stage"] for row in record["rows"]} == {"debug-labels"}
    taken = json.loads((tmp_path / "state" / "scenes.json").read_text())
    assert record["scenes"] == taken > 0 and taken % synthetic_crops.SCENES_AT_ONCE == 0


@pytest.mark.slow
def test_assets_to_weights(assets, tmp_path):
    """The whole command with seconds instead of minutes: people, teacher, both stages, files that load by path."""
    small = "--layers 6 --pictures 6 --things 4 --held-out 4 --workers 1 --at-once 1 --batch 4 --no-refresh".split()
    names = ["--teacher", "debug", "--students", "debug", "--device", "cpu"]
    command = ["--assets", str(assets), "--out", str(tmp_path), "--minutes", "0.15", *names, *small]
    assert not synthetic_run.run(synthetic_run.parse([*command, "--stop-after", "1e-6"]))  # after its first step
    assert (tmp_path / "state" / "teacher.pt").is_file()
    synthetic_run.main(command)
    net = load_pose(tmp_path / "debug.safetensors")
    assert net.name == "debug" and all(torch.isfinite(p).all() for p in net.parameters())
    record = json.loads((tmp_path / "curves.json").read_text())
    assert {row["stage"] for row in record["rows"]} == {"teacher", "debug-stage1", "debug-stage2"}
    assert all(row["pictures"] > 0 and row["pictures_per_second"] > 0 for row in record["rows"])
    people = Layers(
        **{k: v for k, v in torch.load(next((tmp_path / "state/people").glob("*.pt"))).items() if k != "drawn"}
    )
    assert (people.rgba[..., 3] > 128).flatten(1).float().mean(1).min() > 0.02


@pytest.mark.parametrize("strength", [0.01, 0.5])  # of the weights: scores next to 0, and ordinary ones
@pytest.mark.parametrize(
    ("kind", "score", "ablation", "file"),
    [
        ("labels", 0.9, False, None),  # the teacher stays in the state folder
        ("stage1", 0.1, False, "debug"),
        ("stage2", 0.4, False, None),  # below the first stage
        ("stage2", 0.6, False, "debug"),
        ("labels", 0.1, True, "some-name"),
    ],
)
def test_what_is_kept(layers, around, tmp_path, kind, score, ablation, file, strength):
    job = object.__new__(synthetic_run.Run)
    flags = ["--ablation"] if ablation else []
    job.args = synthetic_run.parse(["--assets", "a", "--out", str(tmp_path), "--minutes", "1", *flags])
    job.device, job.held_out, job.around = torch.device("cpu"), layers, around
    job.curves = [{"stage": "debug-stage1", "strong": {"body_pck": 0.5}}] if kind == "stage2" else []
    net = create_model("debug").eval()
    for part in (net.head.final_layer, net.head.mlp[1], net.head.gau.o, net.head.cls_x, net.head.cls_y):
        torch.nn.init.normal_(part.weight, std=strength)
    before = net.head.cls_x.weight.clone()
    row = {"strong": {"body_pck": score}}
    job.keep(
        Stage("some-name" if ablation else "teacher" if kind == "labels" else "student", kind, "debug", 1.0, 4),
        net,
        row,
    )
    assert torch.equal(net.head.cls_x.weight, before)  # the network that goes on training is not scaled
    assert [path.stem for path in tmp_path.iterdir()] == ([file] if file else [])
    if file:
        kept = load_pose(tmp_path / f"{file}.safetensors").head.cls_x.weight
        assert (row["score_factor"] > synthetic_run.LARGEST_FACTOR) is (strength < 0.1)
        expected = before if strength < 0.1 else before * row["score_factor"]
        torch.testing.assert_close(kept, expected, rtol=2e-3, atol=1e-3)


def test_a_start_of_another_width_is_refused_at_once(tmp_path):
    command = ["--assets", "a", "--out", str(tmp_path / "out"), "--minutes", "1", "--teacher", "none"]
    start = tmp_path / "wider.safetensors"
    checkpoint.save_model(start, create_model("dwpose-micro"), {"model": "dwpose-micro"})
    args = synthetic_run.parse([*command, "--students", "dwpose-s", "--start", str(start)])
    with pytest.raises(ValueError, match="same width"):
        synthetic_run.run(args)
    assert not (tmp_path / "out").exists()


def test_missing_assets_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"base\.npz"):
        synthetic_run.main(["--assets", str(tmp_path), "--out", str(tmp_path), "--minutes", "1"])


def test_students_that_a_named_teacher_cannot_teach_are_refused_at_once(tmp_path):
    out = tmp_path / "out"
    command = [
        "--assets",
        "a",
        "--out",
        str(out),
        "--minutes",
        "1",
        "--teacher",
        "dwpose-nano",
        "--students",
        "dwpose-t",
    ]
    with pytest.raises(ValueError, match="share one input size"):
        synthetic_run.run(synthetic_run.parse(command))
    assert not out.exists()
