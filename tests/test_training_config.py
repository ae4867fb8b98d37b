"""The published recipes as numbers, and the command line over them."""

from __future__ import annotations

import pytest

from dwpose_core.models.rtmcc import VARIANTS
from training import config
from training.config import POSE, STAGE1, STAGE2, apply, parse

TABLES = {"pose": POSE, "stage1": STAGE1, "stage2": STAGE2}
EVERY = [(kind, name) for kind, table in TABLES.items() for name in table]


@pytest.mark.parametrize("kind, name", EVERY)
def test_every_configuration_builds_its_networks(kind, name):
    settings = TABLES[kind][name]()
    student = VARIANTS[settings.model]
    assert (settings.distill is None) == (kind == "pose")
    if settings.distill:
        assert VARIANTS[settings.distill.teacher].input_size == student.input_size
    assert [build().name for table in TABLES.values() for build in table.values()].count(settings.name) == 1  # a folder


# name: batch per process, epochs, clip, network of the student, teacher, logit weight (DWPose's configs).
PUBLISHED = {
    ("pose", "rtmpose-t"): (64, 270, 0, "dwpose-t", None, None),
    ("pose", "rtmpose-s"): (64, 270, 0, "dwpose-s", None, None),
    ("pose", "rtmpose-m"): (64, 270, 0, "dwpose-m", None, None),
    ("pose", "rtmpose-l"): (64, 270, 0, "dwpose-l", None, None),
    ("pose", "rtmpose-x"): (64, 270, 35, "rtmpose-x", None, None),
    ("pose", "rtmpose-l-384"): (32, 270, 0, "dwpose-l-384", None, None),
    ("pose", "rtmpose-x-384"): (32, 270, 35, "rtmpose-x-384", None, None),
    ("stage1", "dwpose-t"): (64, 270, 1, "dwpose-t", "dwpose-l", 0.1),
    ("stage1", "dwpose-s"): (64, 270, 1, "dwpose-s", "dwpose-l", 0.1),
    ("stage1", "dwpose-m"): (64, 270, 1, "dwpose-m", "dwpose-l", 0.1),
    ("stage1", "dwpose-l"): (64, 270, 1, "dwpose-l", "rtmpose-x", 0.1),
    ("stage1", "dwpose-l-384"): (32, 270, 1, "dwpose-l-384", "rtmpose-x-384", 0.1),
    ("stage2", "dwpose-t"): (64, 60, 1, "dwpose-t", "dwpose-t", 1),
    ("stage2", "dwpose-s"): (64, 60, 1, "dwpose-s", "dwpose-s", 1),
    ("stage2", "dwpose-m"): (64, 60, 1, "dwpose-m", "dwpose-m", 1),
    ("stage2", "dwpose-l"): (64, 60, 1, "dwpose-l", "dwpose-l", 1),
    ("stage2", "dwpose-l-384"): (32, 60, 1, "dwpose-l-384", "dwpose-l-384", 1),
    ("stage2", "rtmpose-x"): (64, 60, 1, "rtmpose-x", "rtmpose-x", 1),
}


@pytest.mark.parametrize("key", PUBLISHED, ids="-".join)
def test_published_recipes(key):
    settings = TABLES[key[0]][key[1]]()
    batch, epochs, clip, model, teacher, logit_weight = PUBLISHED[key]
    distill = settings.distill
    assert (settings.batch_size, settings.epochs, settings.clip, settings.model) == (batch, epochs, clip, model)
    assert (distill.teacher, distill.logit_weight) == (teacher, logit_weight) if distill else teacher is None
    assert (settings.lr, settings.weight_decay, settings.seed, settings.warmup_steps) == (4e-3, 0.05, 21, 1000)
    assert settings.reference_batch == batch and settings.rate(8 * batch) == settings.lr  # eight processes
    assert settings.late_epoch == (0 if key[0] == "stage2" else 240)  # stage 2 ends before it gets there
    assert len(settings.train) == 16
    wide = "-x" in model
    assert settings.early.scale == ((0.5, 1.5) if wide else (0.6, 1.4))
    assert settings.early.rotation == (90 if wide else 80) and settings.early.cutout == 1.0
    assert settings.late.scale == ((0.5, 1.5) if wide else (0.75, 1.25))
    assert settings.late.rotation == (90 if wide else 60) and settings.late.cutout == 0.5 and settings.late.shift == 0


def test_flags_reach_every_level():
    settings = parse(
        STAGE1,
        [
            *("dwpose-m", "--lr", "1e-3", "--early.scale", "0.7,1.3", "--distill.teacher-batch-stats", "false"),
            *("--train", "a.json,images", "--train", "b.json,other,0.5,3", "--batch_size", "7"),
        ],
        "",
    )
    assert settings.lr == 1e-3 and settings.early.scale == (0.7, 1.3) and settings.batch_size == 7
    assert settings.distill.teacher_batch_stats is False and settings.distill.teacher == "dwpose-l"
    assert [(s.images, s.weight, s.sample_interval) for s in settings.train] == [("images", 1.0, 1), ("other", 0.5, 3)]
    assert [s.images for s in settings.sources()] == ["data/images", "data/other"]
    assert settings.late == STAGE1["dwpose-m"]().late


@pytest.mark.parametrize(
    "argv",
    [
        ["dwpose-m", "--batch-size", "7", "--early.scale", "0.7,1.3"],
        ["--batch-size", "7", "--early.scale", "0.7,1.3", "dwpose-m"],
        ["--batch-size=7", "dwpose-m", "--early.scale", "0.7,1.3"],
    ],
)
def test_flags_and_name_come_in_any_order(argv, monkeypatch):
    expected = apply(STAGE1["dwpose-m"](), {"batch_size": 7, "early.scale": (0.7, 1.3)})
    assert parse(STAGE1, argv, "") == expected
    monkeypatch.setattr("sys.argv", ["distill_stage1", *argv])
    assert parse(STAGE1, None, "") == expected


def test_help_shows_the_values_of_the_chosen_configuration(capsys):
    with pytest.raises(SystemExit):
        parse(STAGE1, ["--help", "dwpose-l-384"], "")
    assert "--distill.teacher rtmpose-x-384" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["dwpose-z"],
        ["--batch-size", "8"],
        ["dwpose-m", "--learning-rate", "1"],
        ["dwpose-m", "--compile", "yes"],
        ["dwpose-m", "--batch", "4"],  # no abbreviations: a new field must not change the meaning of old commands
        ["dwpose-m", "--train", "only.json"],
    ],
)
def test_wrong_flags_end_with_usage(argv, capsys):
    with pytest.raises(SystemExit):
        parse(STAGE1, argv, "")
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, match",
    [
        (["--train", "only.json"], "a data source is 'annotations.json,images"),
        (["--train", "a.json,images,1,0"], "interval of a.json must be at least 1"),
        (["--train", "a.json,images,0"], "weight of a.json must be above 0"),
        (["--train", "a.json,images,much"], "weight and interval of a data source are numbers"),
        (["--early.scale", "wide"], "expected numbers with commas"),
        (["dwpose-m", "dwpose-l"], "unrecognized arguments: dwpose-l"),
    ],
)
def test_wrong_flags_say_what_is_wrong(argv, match, capsys):
    with pytest.raises(SystemExit):
        parse(STAGE1, ["dwpose-m", *argv] if argv[0].startswith("-") else argv, "")
    assert match in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"precision": "fp16"}, "precision must be one of"),
        ({"schedule": "linear"}, "schedule must be one of"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"lr": float("nan")}, "lr must be at least 0"),
        ({"late_epoch": -1}, "late_epoch must be at least 0"),
        ({"early.scale": (0.6,)}, "early: scale is LOWEST,HIGHEST"),
        ({"late.scale": (1.4, 0.6)}, "late: scale is LOWEST,HIGHEST"),
        ({"early.cutout_size": (0.2, 1.5)}, "cutout_size is LOWEST,HIGHEST"),
        ({"early.flip": 50.0}, "early: flip is a probability"),
        ({"early.hsv": (5.0, 30.0)}, "hsv is three numbers"),
        ({"distill.head_init": "zero"}, "head_init must be"),
        ({"speed": 1}, "'speed' is not a field"),
        ({"lr.scale": 1}, r"'lr\.scale' is not a field"),
    ],
)
def test_wrong_values_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        apply(STAGE2["dwpose-m"](), changes)


@pytest.mark.parametrize("rule, expected", [("linear", 2e-3), ("sqrt", 4e-3 * 0.5**0.5), ("none", 4e-3)])
def test_learning_rate_follows_the_global_batch(rule, expected):
    assert config.baseline("dwpose-m", "x", lr_scaling=rule).rate(256) == pytest.approx(expected)
