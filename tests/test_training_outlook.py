"""What a training says of itself before it starts: a schedule that lies behind its end is never silent."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.training_runs import arguments, losses
from training import config, train_pose
from training.config import POSE, STAGE1, STAGE2, parse
from training.data.toy import write_toy_data
from training.optim import Schedule
from training.outlook import doubts, outlook


def schedule_of(settings, per_epoch: int) -> Schedule:
    return Schedule(
        lr=settings.rate(64),
        warmup=settings.warmup_steps,
        cosine_start=settings.cosine_epoch * per_epoch,
        cosine_end=settings.epochs * per_epoch if settings.schedule == "cosine" else 0,
    )


# command line, steps per epoch, a word of each warning
CASES = [
    ("pose", "rtmpose-m", 400, []),
    ("pose", "debug", 1, []),
    ("pose", "rtmpose-m --epochs 240", 400, ["late augmentation"]),
    ("pose", "rtmpose-m --epochs 135 --late-epoch 0", 400, ["cosine"]),  # the two are equal: it has no step either
    ("pose", "rtmpose-m --epochs 100 --late-epoch 90 --schedule constant", 400, []),
    ("pose", "debug --epochs 60", 1, ["cosine"]),
    ("pose", "rtmpose-m --epochs 40 --cosine-epoch 20", 10, ["late augmentation", "warm-up"]),
    ("pose", "rtmpose-m --epochs 40 --cosine-epoch 20 --late-epoch 35 --warmup-steps 200", 10, []),
    ("pose", "rtmpose-m --epochs 40 --cosine-epoch 20 --late-epoch 35 --warmup-steps 399", 10, ["cosine"]),
    ("stage1", "dwpose-m --epochs 30", 400, ["cosine", "late augmentation"]),
    # As released, and as documented: 60 epochs that end before the schedule of 270 changes anything.
    ("stage2", "dwpose-m", 400, []),
    ("stage2", "dwpose-m --epochs 20", 400, []),
    ("stage2", "dwpose-m --schedule cosine", 400, []),
    ("stage2", "dwpose-m --schedule cosine --epochs 30", 400, ["cosine"]),
    ("stage2", "dwpose-m --late-epoch 60", 400, ["late augmentation"]),
    ("stage2", "dwpose-m", 16, ["warm-up"]),
]


@pytest.mark.parametrize("kind, line, per_epoch, words", CASES, ids=[case[1] for case in CASES])
def test_what_is_never_reached_is_told(kind, line, per_epoch, words):
    settings = parse({"pose": POSE, "stage1": STAGE1, "stage2": STAGE2}[kind], line.split(), "")
    found = doubts(settings, schedule_of(settings, per_epoch), per_epoch)
    assert len(found) == len(words)
    for text, word in zip(found, words, strict=True):
        assert f"the {word}" in text and "--" in text


@pytest.mark.parametrize("kind, table", [("pose", POSE), ("stage1", STAGE1), ("stage2", STAGE2)])
def test_the_published_recipes_are_beyond_doubt(kind, table):
    for build in table.values():
        settings = build()
        per_epoch = 1 if settings.model == "debug" else 430
        assert doubts(settings, schedule_of(settings, per_epoch), per_epoch) == []


def test_the_advice_mends_the_schedule():
    settings = replace(POSE["rtmpose-m"](), epochs=40)
    flags = [
        word.rstrip(",.")
        for text in doubts(settings, schedule_of(settings, 10), 10)
        for word in text.partition("Add ")[2].split()[:2]
    ]
    assert flags[::2] == ["--cosine-epoch", "--late-epoch", "--warmup-steps"]
    mended = parse(POSE, ["rtmpose-m", "--epochs", "40", *flags], "")
    assert doubts(mended, schedule_of(mended, 10), 10) == []


def test_outlook_has_steps_top_rate_and_switches():
    settings = replace(POSE["rtmpose-m"](), lr=5e-4, epochs=40, cosine_epoch=20, late_epoch=30, max_steps=7)
    steps, rate, late = outlook(settings, schedule_of(settings, 10), 10, 64)
    assert steps == "rtmpose-m: 40 epochs x 10 steps of 64 = 400 steps, stopped after 7"
    assert "1000 steps to 1.37e-05 (0.0005 is for 512 samples" in rate
    assert "cosine from epoch 20 (step 200) down to 3.13e-06" in rate
    assert late.endswith("from epoch 30 (step 300)")
    settings = config.stage2("dwpose-m")
    _, rate, late = outlook(settings, schedule_of(settings, 10), 10, 64)
    assert rate.endswith("then constant") and late.endswith("the same in all epochs")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return write_toy_data(tmp_path_factory.mktemp("toy"))


def test_training_begins_with_it(toy, tmp_path, capsys):
    train_pose.main(arguments(toy, tmp_path, "--max-steps", "1", "--warmup-steps", "20", "--cosine-epoch", "10"))
    printed = capsys.readouterr().out
    assert "debug: 10 epochs x 2 steps of 4 = 20 steps, stopped after 1" in printed
    assert "warning: the cosine would begin at epoch 10" in printed and "warning: the warm-up takes 20" in printed


def test_a_log_has_every_step_once(toy, tmp_path):
    """As kill -9 leaves it: steps after the last checkpoint, and half a line."""
    folder = tmp_path / "debug"
    train_pose.main(arguments(toy, tmp_path, "--max-steps", "4"))
    log = folder / "log.jsonl"
    before = log.read_text()
    stray = json.dumps({"step": 5, "loss": 99.0})
    log.write_text(f'{before}{stray}\n{{"step": 6, "lo')
    train_pose.main(arguments(toy, tmp_path, "--max-steps", "6"))
    lines = log.read_text().splitlines()
    assert log.read_text().startswith(before) and stray not in lines
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    (folder / "last.pt").unlink()  # killed before its first checkpoint: it starts again
    train_pose.main(arguments(toy, tmp_path, "--max-steps", "2"))
    assert list(losses(folder)) == [1, 2]


def test_the_highest_rate_that_is_told_is_the_one_that_is_reached():
    line = "rtmpose-m --epochs 40 --cosine-epoch 20 --late-epoch 35 --warmup-steps 399"
    settings = parse(POSE, line.split(), "")
    schedule = schedule_of(settings, 10)
    highest = max(schedule.at(step) for step in range(400))
    assert highest < 0.8 * schedule.lr
    assert f"warm-up of 399 steps to {highest:.3g} " in outlook(settings, schedule, 10, 64)[1]
