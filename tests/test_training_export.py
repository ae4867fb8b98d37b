"""From checkpoints, ours and the original's, to a file with a card."""

from __future__ import annotations

import json

import pytest
import torch

from dwpose_core.models import create_model
from dwpose_core.models.weights import load_pose, read_metadata
from training import checkpoint, evaluate, export, train_pose


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    train_pose.main(["debug", "--out", str(out), "--max-steps", "2", "--log-every", "1"])
    return out / "debug"


@pytest.mark.parametrize("source", [".", "last.pt", "last.safetensors"])
def test_own_runs(run, tmp_path, source):
    out = tmp_path / "debug.safetensors"
    stats = {
        "stats": {f"{part}/{kind}": 0.5 for part in export_parts() for kind in ("AP", "AR")},
        "flip_test": True,
        "annotations": "data/val.json",
        "boxes": "boxes.json",
        "hands": "mean of left and right (assumption)",
    }
    (tmp_path / "stats.json").write_text(json.dumps(stats))
    export.main([str(run / source), str(out), "--stats", str(tmp_path / "stats.json"), "--licence", "CC0-1.0"])
    exported, averaged = load_pose(out), checkpoint.load_state(run / "last.pt")["average"]
    assert exported.name == "debug"
    assert all(torch.equal(value, averaged[key]) for key, value in exported.state_dict().items())
    assert read_metadata(out)["whole_body_ap"] == "0.5000"
    card = out.with_suffix(".md").read_text()
    for words in ("# debug", "64 x 64", "CC0-1.0", "annotations.json", "| AP | 0.500", "learning rate 0.004"):
        assert words in card


def export_parts():
    return ("body", "foot", "face", "left_hand", "right_hand", "hands", "whole")


@pytest.mark.parametrize("stage", [1, 2])
def test_raw_checkpoints_of_the_original(tmp_path, stage):
    """Their layout: teacher and student side by side, the align convolution of the feature loss, optimiser state."""
    torch.manual_seed(0)
    student, teacher = create_model("debug"), create_model("debug")
    state = {f"student.{k}": v for k, v in student.state_dict().items()}
    state |= {f"teacher.{k}": v for k, v in teacher.state_dict().items()}
    torch.save({"state_dict": state, "optimizer": {"lr": 1.0}}, tmp_path / "epoch_60.pth")
    out = tmp_path / "out.safetensors"
    export.main([str(tmp_path / "epoch_60.pth"), str(out), "--stage", str(stage), "--data", "COCO-WholeBody and UBody"])
    backbone = student if stage == 1 else teacher
    result = load_pose(out).state_dict()
    assert torch.equal(result["backbone.stem.0.conv.weight"], backbone.backbone.stem[0].conv.weight)
    assert torch.equal(result["head.cls_x.weight"], student.head.cls_x.weight)
    card = out.with_suffix(".md").read_text()
    assert "non-commercial" in card and "UBody: non-commercial" in card and "Not measured" in card


def test_half_precision_is_half_the_size(run, tmp_path):
    sizes = []
    for flags in ([], ["--half"]):
        out = tmp_path / f"{len(flags)}.safetensors"
        export.main([str(run), str(out), *flags])
        sizes.append(out.stat().st_size)
        assert load_pose(out).head.cls_x.weight.dtype == torch.float32
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("kept, source", [(("best", "last"), "best"), (("last",), "last")])
def test_it_says_what_was_taken(run, tmp_path, capsys, kept, source):
    """A run folder gives its best weights, else its last; step and recipe go along, and the card loads this file."""
    folder = tmp_path / "debug"
    folder.mkdir()
    (folder / "config.json").write_text((run / "config.json").read_text())
    for step, name in enumerate(kept, 5):
        facts = {"recipe": "debug", "step": str(step), "seed": "21"}
        checkpoint.save_model(folder / f"{name}.safetensors", create_model("debug"), facts)
    out = tmp_path / "new" / "mine.safetensors"
    export.main([str(folder), str(out)])
    assert f"from {folder / source}.safetensors, step 5)" in capsys.readouterr().out
    metadata = read_metadata(out)
    assert (metadata["source"], metadata["step"], metadata["recipe"]) == (f"debug/{source}.safetensors", "5", "debug")
    card = out.with_suffix(".md").read_text()
    assert f"Exported from `debug/{source}.safetensors`, step 5." in card
    assert 'from_pretrained(pose="mine.safetensors")' in card


@pytest.mark.parametrize("beside", [None, "another run"])
def test_a_file_that_left_its_run_keeps_its_recipe(run, tmp_path, beside):
    """Also where the settings of another run lie beside it: those are not its own."""
    moved, out = tmp_path / "moved.safetensors", tmp_path / "out.safetensors"
    facts = {"recipe": "dwpose-m-stage2", "step": "7", "seed": "3", "whole_body_ap": "0.1234"}
    checkpoint.save_model(moved, create_model("debug"), facts)
    if beside:
        (tmp_path / "config.json").write_text((run / "config.json").read_text())
    export.main([str(moved), str(out)])
    metadata = read_metadata(out)
    assert {name: metadata[name] for name in facts} == facts
    card = out.with_suffix(".md").read_text()
    assert "The recipe is called `dwpose-m-stage2`" in card and "learning rate" not in card
    assert "Whole-body AP 0.1234 in the validation of its own run" in card


def test_last_pt_knows_its_step(run, tmp_path):
    export.main([str(run / "last.pt"), str(tmp_path / "a.safetensors")])
    metadata = read_metadata(tmp_path / "a.safetensors")
    assert (metadata["source"], metadata["step"], metadata["recipe"]) == ("last.pt", "2", "debug")


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match="is it the folder of a run"):
        export.main([str(tmp_path), str(tmp_path / "a.safetensors")])
    with pytest.raises(SystemExit):
        export.main([str(tmp_path), "a.onnx"])
    (tmp_path / "stats.json").write_text("[]")
    with pytest.raises(ValueError, match="not the record of one model"):
        export.main([str(tmp_path), str(tmp_path / "a.safetensors"), "--stats", str(tmp_path / "stats.json")])


def test_a_part_without_labels_has_no_figure(run, tmp_path):
    stats = {f"{part}/{kind}": -1.0 if part == "foot" else 0.25 for part in export_parts() for kind in ("AP", "AR")}
    record = {"stats": stats, "flip_test": True, "annotations": "v.json", "boxes": "b.json", "hands": "mean"}
    (tmp_path / "stats.json").write_text(json.dumps(record))
    export.main([str(run), str(tmp_path / "out.safetensors"), "--stats", str(tmp_path / "stats.json")])
    assert "| AP | 0.250 | - | 0.250 |" in (tmp_path / "out.md").read_text()
    row = evaluate.table("mine", stats, None).splitlines()[1]
    assert row.split()[:4] == ["mine", "AP", "25.0", "-"]
