"""The loop end to end on drawn people: learning, resuming, both stages, and everything that can go wrong."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dwpose_core import simcc
from dwpose_core.models import create_model
from dwpose_core.models.weights import load_pose, read_metadata
from tests.training_runs import arguments, assert_same_run, in_child, losses
from training import checkpoint, config, distill_stage1, distill_stage2, distributed, evaluate, train_pose
from training.data.augment import NO_AUGMENT
from training.data.toy import write_toy_data
from training.data.wholebody import DataSource, WholeBodyDataset
from training.loop import fit
from training.monitor import NonFiniteLoss
from training.objectives import SimCCObjective, normalize


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> DataSource:
    return write_toy_data(tmp_path_factory.mktemp("toy"))


@pytest.mark.slow
def test_debug_learns_eight_people_by_heart(tmp_path):
    """The stated error: 0.6 pixels of the 64 x 64 crop on average over all 133 keypoints; and a high AP."""
    started = time.process_time()  # not the clock on the wall: CI machines are busy
    train_pose.main(["debug", "--out", str(tmp_path)])
    assert time.process_time() - started < 60
    folder = tmp_path / "debug"
    source = DataSource(str(folder / "toy" / "annotations.json"), str(folder / "toy"))
    samples = WholeBodyDataset((source,), (64, 64), NO_AUGMENT)
    samples = [samples[0, i] for i in range(8)]
    network = load_pose(folder / "last.safetensors")
    with torch.no_grad():
        found, _ = simcc.decode(*network(normalize(torch.from_numpy(np.stack([s["image"] for s in samples])))))
    error = np.linalg.norm(found.numpy() - np.stack([s["keypoints"] for s in samples]), axis=-1).mean()
    assert error < 0.6
    pytest.importorskip("pycocotools")
    stats = folder / "stats.json"
    evaluate.main(
        [
            *(str(folder / "last.safetensors"), "--annotations", source.annotations, "--images", source.images),
            *("--no-flip", "--device", "cpu", "--workers", "0", "--json", str(stats)),
        ]
    )
    assert json.loads(stats.read_text())["stats"]["whole/AP"] > 0.8


@pytest.mark.slow
def test_killed_at_random_and_resumed_is_bit_identical(toy, tmp_path):
    """kill -9 at five random moments, often in the middle of writing a checkpoint: nothing is lost or changed."""
    whole = arguments(toy, tmp_path / "whole", "--save-every", "1000")
    train_pose.main(whole)
    argv = arguments(toy, tmp_path / "killed", "--save-every", "1")
    folder = tmp_path / "killed" / "debug"
    rng = np.random.default_rng()
    kills = sorted(rng.choice(np.arange(2, 19), 5, replace=False).tolist())
    for step in kills:
        child = in_child(train_pose.main, argv)
        deadline = time.monotonic() + 60
        while not ((folder / "log.jsonl").exists() and max(losses(folder), default=0) >= step):
            assert child.is_alive() and time.monotonic() < deadline, f"never reached step {step} of {kills}"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        child.kill()
        child.join()
        assert child.exitcode == -signal.SIGKILL, kills
    train_pose.main(argv)
    assert_same_run(tmp_path / "whole" / "debug", folder)
    assert losses(tmp_path / "whole" / "debug") == losses(folder)


def test_same_seed_same_loss_other_seed_other_loss(toy, tmp_path):
    runs = [("a", "1"), ("b", "1"), ("c", "2")]
    for name, seed in runs:
        train_pose.main(arguments(toy, tmp_path / name, "--seed", seed, "--max-steps", "4"))
    a, b, c = (losses(tmp_path / name / "debug") for name, _ in runs)
    assert a == b and a != c


def test_sigterm_saves_and_leaves(toy, tmp_path):
    argv = arguments(toy, tmp_path / "term", "--save-every", "1000")
    folder = tmp_path / "term" / "debug"
    child = in_child(train_pose.main, argv)
    while not ((folder / "log.jsonl").exists() and len(losses(folder)) >= 3):
        time.sleep(0.002)
    child.terminate()
    child.join(60)
    assert child.exitcode == 143
    stopped = checkpoint.load_state(folder / "last.pt")["step"]
    assert 3 <= stopped < 20
    train_pose.main(argv)
    train_pose.main(arguments(toy, tmp_path / "whole"))
    assert_same_run(tmp_path / "whole" / "debug", folder)


def test_full_disk_keeps_the_old_file(tmp_path):
    """A limit on the file size is a full disk as far as write() is concerned."""
    path = tmp_path / "state.pt"
    checkpoint.save_state(path, {"step": 1})

    def overfill() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for write in (
            lambda: checkpoint.save_state(path, {"step": 2, "weights": torch.zeros(10**6)}),
            lambda: checkpoint.save_model(tmp_path / "model.safetensors", create_model("debug"), {}),
        ):
            try:
                write()
            except checkpoint.CheckpointError as error:
                assert "previous file is intact" in str(error)
            else:
                os._exit(1)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=overfill)
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert checkpoint.load_state(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]  # no debris


def test_full_disk_during_training_costs_a_warning(toy, tmp_path, monkeypatch, capfd):
    """Checkpoints in between may fail; the last one must not, and then the run says so."""
    allowed = []

    def refuse(path, state):
        if not allowed:
            raise checkpoint.CheckpointError("no space")

    monkeypatch.setattr(checkpoint, "save_state", refuse)
    with pytest.raises(checkpoint.CheckpointError):
        train_pose.main(arguments(toy, tmp_path, "--save-every", "1", "--max-steps", "3"))
    assert capfd.readouterr().out.count("warning: no space") == 2


def test_a_broken_loss_stops_with_its_batch(toy, tmp_path):
    settings = config.parse(config.POSE, arguments(toy, tmp_path, "--save-every", "1"), "")

    class Breaks(SimCCObjective):
        calls = 0

        def forward(self, batch):
            self.calls += 1
            out = super().forward(batch)
            return {**out, "loss": out["loss"] * math.nan} if self.calls == 4 else out

    process = distributed.Process(0, 1, torch.device("cpu"))
    with pytest.raises(NonFiniteLoss, match="step 4"):
        fit(Breaks(create_model("debug"), 8), settings, process)
    folder = tmp_path / "debug"
    saved = checkpoint.load_state(folder / "nonfinite_step4_rank0.pt")
    assert saved["batches"][0]["image"].shape == (4, 64, 64, 3) and math.isnan(saved["statistics"]["loss"])
    state = checkpoint.load_state(folder / "last.pt")
    assert state["step"] == 3  # the broken step was never kept
    assert all(torch.isfinite(value).all() for value in state["objective"].values())


@pytest.mark.parametrize(
    "more, match",
    [
        (["--lr", "1e-3"], "lr was 0.004 and is now 0.001"),
        (["--batch-size", "8"], "batch_size was 4"),
        (["--early.rotation", "10"], "early was"),
    ],
)
def test_another_configuration_does_not_continue_a_run(toy, tmp_path, more, match):
    train_pose.main(arguments(toy, tmp_path, "--max-steps", "1"))
    with pytest.raises(ValueError, match=match):
        train_pose.main(arguments(toy, tmp_path, *more))


def test_a_run_from_before_an_option_existed_goes_on(toy, tmp_path):
    train_pose.main(arguments(toy, tmp_path, "--max-steps", "1"))
    file = tmp_path / "debug" / "config.json"
    begun = json.loads(file.read_text())
    assert begun.pop("clip") == 0
    file.write_text(json.dumps(begun))
    with pytest.raises(ValueError, match=r"clip was 0\.0 and is now 1\.0"):
        train_pose.main(arguments(toy, tmp_path, "--max-steps", "2", "--clip", "1"))
    train_pose.main(arguments(toy, tmp_path, "--max-steps", "2"))
    assert checkpoint.load_state(tmp_path / "debug" / "last.pt")["step"] == 2


def test_both_stages_give_complete_networks(toy, tmp_path):
    """annotations -> stage 1 -> stage 2, each loading what the one before saved; no file holds a teacher."""
    out = tmp_path
    train_pose.main(arguments(toy, out, "--max-steps", "2"))
    teacher = out / "debug" / "last.safetensors"
    steps = ["--max-steps", "3"]
    distill_stage1.main(arguments(toy, out, *steps, "--distill.teacher-weights", str(teacher)))
    first = out / "debug-stage1" / "last.safetensors"
    distill_stage2.main(arguments(toy, out, *steps, "--distill.teacher-weights", str(first)))
    second = out / "debug-stage2" / "last.safetensors"
    own = create_model("debug").state_dict().keys()
    states = [load_pose(path).state_dict() for path in (teacher, first, second)]
    assert all(state.keys() == own for state in states)
    for key in own:
        same = torch.equal(states[1][key], states[2][key])
        # The backbone of stage 1 is frozen to the bit; only its BatchNorm goes on counting, as released.
        assert same or key.startswith("head.") or key.rsplit(".", 1)[-1].startswith(("running", "num")), key
    assert not torch.equal(states[1]["head.cls_x.weight"], states[2]["head.cls_x.weight"])
    assert read_metadata(second)["recipe"] == "debug-stage2"
    saved = checkpoint.load_state(out / "debug-stage1" / "last.pt")["objective"]
    assert not [
        key for key in saved if key.startswith("teacher.") and not key.rsplit(".", 1)[-1].startswith(("run", "num"))
    ]


def test_a_head_that_starts_as_its_own_teacher_has_nothing_to_learn(toy, tmp_path):
    torch.manual_seed(0)
    teacher = tmp_path / "teacher.safetensors"
    checkpoint.save_model(teacher, create_model("debug"), {})
    more = ["--max-steps", "1", "--distill.teacher-weights", str(teacher), "--distill.head-init", "stage1"]
    distill_stage2.main(arguments(toy, tmp_path, *more))
    assert losses(tmp_path / "debug-stage2")[1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    "main, network, match",
    [
        (distill_stage1.main, "dwpose-nano", "sees crops of .* choose a teacher for the same crops"),
        (distill_stage2.main, "dwpose-s", "sees crops of"),
    ],
)
def test_teachers_suit_the_student(toy, tmp_path, main, network, match):
    checkpoint.save_model(tmp_path / "t.safetensors", create_model(network), {})
    more = ["--distill.teacher", network, "--distill.teacher-weights", str(tmp_path / "t.safetensors")]
    with pytest.raises(ValueError, match=match):
        main(arguments(toy, tmp_path, *more))


def test_the_second_stage_keeps_its_network(toy, tmp_path):
    checkpoint.save_model(tmp_path / "t.safetensors", create_model("dwpose-t"), {})
    more = ["--distill.teacher", "dwpose-t", "--distill.teacher-weights", str(tmp_path / "t.safetensors")]
    with pytest.raises(ValueError, match="must be a dwpose-s"):
        distill_stage2.main(["dwpose-s", *arguments(toy, tmp_path, *more)[1:]])


@pytest.mark.parametrize("argv, match", [([], "needs the weights of its teacher"), (["nano"], "holds")])
def test_teachers_are_checked(toy, tmp_path, argv, match):
    more = []
    if argv:
        checkpoint.save_model(tmp_path / "t.safetensors", create_model("dwpose-nano"), {})
        more = ["--distill.teacher-weights", str(tmp_path / "t.safetensors")]
    with pytest.raises(ValueError, match=match):
        distill_stage1.main(arguments(toy, tmp_path, *more))


def test_validation_keeps_the_best(toy, tmp_path):
    pytest.importorskip("pycocotools")
    more = ["--val-annotations", toy.annotations, "--val-images", toy.images, "--val-boxes", "", "--val-every", "1"]
    train_pose.main(arguments(toy, tmp_path, *more, "--max-steps", "4"))
    lines = [json.loads(line) for line in (tmp_path / "debug" / "log.jsonl").read_text().splitlines()]
    results = [line["whole/AP"] for line in lines if "whole/AP" in line]
    assert len(results) == 2  # two steps per epoch
    assert float(read_metadata(tmp_path / "debug" / "best.safetensors")["whole_body_ap"]) == pytest.approx(
        max(results), abs=1e-4
    )


def test_bfloat16_and_tensorboard(toy, tmp_path):
    """Half precision follows full precision closely at first; the events carry what the log has."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = ["--max-steps", "3", "--tensorboard", "true"]
    train_pose.main(arguments(toy, tmp_path / "full", *more))
    train_pose.main(arguments(toy, tmp_path / "half", *more, "--precision", "bf16"))
    full, half = (losses(tmp_path / name / "debug") for name in ("full", "half"))
    assert full != half and half[1] == pytest.approx(full[1], rel=0.02)
    weights = load_pose(tmp_path / "half" / "debug" / "last.safetensors").state_dict()
    assert all(value.dtype != torch.bfloat16 for value in weights.values())  # the weights themselves stay float32
    events = EventAccumulator(str(tmp_path / "half" / "debug")).Reload()
    assert {"loss", "lr", "accuracy", "images_per_second", "data_wait"} <= set(events.Tags()["scalars"])
    assert events.Scalars("loss")[0].value == pytest.approx(half[1], rel=1e-5)


def test_onnx_is_judged_like_torch(toy, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("pycocotools")
    from dwpose_core.models.export import export_onnx

    torch.manual_seed(0)
    network = create_model("debug").eval()
    checkpoint.save_model(tmp_path / "a.safetensors", network, {})
    export_onnx(network, tmp_path / "a.onnx")
    found = []
    for model in (["a.safetensors", "--device", "cpu"], ["a.onnx", "--device", "cpu"], ["a.onnx", "--provider", "cpu"]):
        flags = ["--annotations", toy.annotations, "--images", toy.images, "--workers", "0"]
        results = tmp_path / f"{len(found)}.json"
        evaluate.main([str(tmp_path / model[0]), *model[1:], *flags, "--save-results", str(results)])
        found.append(np.array([entry["face_kpts"] for entry in json.loads(results.read_text())]))
    for other in found[1:]:  # an argmax may tip over where two bins are equal to rounding
        assert (np.abs(other - found[0]) > 0.01).mean() < 0.01
    with pytest.raises(ValueError, match="--provider runs"):
        evaluate.main([str(tmp_path / "a.safetensors"), "--provider", "cpu", *flags])


def test_start_from_given_weights(toy, tmp_path):
    torch.manual_seed(5)
    source = create_model("debug")
    checkpoint.save_model(tmp_path / "start.safetensors", source, {})
    more = ["--init", str(tmp_path / "start.safetensors"), "--max-steps", "1", "--lr", "0"]
    train_pose.main(arguments(toy, tmp_path, *more))
    trained = load_pose(tmp_path / "debug" / "last.safetensors").state_dict()
    assert all(torch.equal(trained[f"backbone.{k}"], v) for k, v in source.backbone.named_parameters())
    assert not torch.equal(trained["head.cls_x.weight"], source.head.cls_x.weight)
    train_pose.main(arguments(toy, tmp_path, *more, "--init-head", "true", "--name", "whole"))
    trained = load_pose(tmp_path / "whole" / "last.safetensors").state_dict()
    assert all(torch.equal(trained[k], v) for k, v in source.named_parameters())
    checkpoint.save_model(tmp_path / "nano.safetensors", create_model("dwpose-nano"), {})
    with pytest.raises(ValueError, match="does not start a debug"):
        train_pose.main(arguments(toy, tmp_path, "--name", "x", "--init", str(tmp_path / "nano.safetensors")))


def test_the_best_weights_are_those_that_were_stored(toy, tmp_path, monkeypatch):
    """The disk is full at the second best of three: the third, better than the first alone, is kept then."""
    pytest.importorskip("pycocotools")
    scores, save_model = iter((0.1, 0.5, 0.3, 0.2)), checkpoint.save_model
    monkeypatch.setattr(train_pose, "make_evaluate", lambda *_: lambda network: {"whole/AP": next(scores)})

    def full_once(path, network, note):
        if note.get("whole_body_ap") == "0.5000":
            raise checkpoint.CheckpointError("no space")
        save_model(path, network, note)

    monkeypatch.setattr(checkpoint, "save_model", full_once)
    more = ["--val-annotations", toy.annotations, "--val-images", toy.images, "--val-boxes", "", "--val-every", "1"]
    train_pose.main(arguments(toy, tmp_path, *more, "--max-steps", "8"))
    assert read_metadata(tmp_path / "debug" / "best.safetensors")["whole_body_ap"] == "0.3000"


def test_a_disk_that_is_full_at_the_end_costs_no_weights(toy, tmp_path, monkeypatch):
    """Started again once there is space, the run writes the weights of its last step."""
    save_model = checkpoint.save_model

    def full(path, network, note):
        raise checkpoint.CheckpointError("no space")

    train_pose.main(arguments(toy, tmp_path / "whole", "--max-steps", "3"))
    monkeypatch.setattr(checkpoint, "save_model", full)
    with pytest.raises(checkpoint.CheckpointError):
        train_pose.main(arguments(toy, tmp_path, "--max-steps", "3"))
    monkeypatch.setattr(checkpoint, "save_model", save_model)
    train_pose.main(arguments(toy, tmp_path, "--max-steps", "3"))
    assert_same_run(tmp_path / "debug", tmp_path / "whole" / "debug")
    assert read_metadata(tmp_path / "debug" / "last.safetensors")["step"] == "3"


def test_tensorboard_keeps_what_it_had_when_the_run_goes_on(toy, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ("2", "4"):
        train_pose.main(arguments(toy, tmp_path, "--tensorboard", "true", "--max-steps", steps))
    events = EventAccumulator(str(tmp_path / "debug")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_annotations_that_cannot_be_judged_are_refused_before_the_work(toy, tmp_path, command):
    pytest.importorskip("pycocotools")
    content = json.loads(Path(toy.annotations).read_text())
    for annotation in content["annotations"]:
        del annotation["foot_kpts"]
    (tmp_path / "plain.json").write_text(json.dumps(content))
    validation = ("--val-annotations", str(tmp_path / "plain.json"), "--val-images", toy.images, "--val-boxes", "")
    with pytest.raises(ValueError, match="has no foot_kpts"):
        if command == "train":
            train_pose.main(arguments(toy, tmp_path, *validation))
        else:
            evaluate.main(["none", "--annotations", str(tmp_path / "plain.json"), "--images", toy.images])
    assert not (tmp_path / "debug" / "log.jsonl").exists()
