"""Several processes train and judge as one does."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch

from dwpose_core.models import create_model
from tests.training_runs import arguments, in_two_processes, losses
from training import checkpoint, distill_stage1, distributed, evaluate, train_pose
from training.data.toy import write_toy_data
from training.data.wholebody import DataSource


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> DataSource:
    return write_toy_data(tmp_path_factory.mktemp("toy"))


@pytest.mark.parametrize("stage, batch, accumulate", [("pose", 4, 1), ("stage1", 2, 2)])
def test_two_processes_equal_one_with_the_joint_batch(toy, tmp_path, stage, batch, accumulate):
    """Loss sequence to 1e-5, with BatchNorm over both processes; weights end equal on both."""
    main, more = train_pose.main, []
    if stage == "stage1":
        torch.manual_seed(0)
        teacher = tmp_path / "teacher.safetensors"
        checkpoint.save_model(teacher, create_model("debug"), {})
        main, more = distill_stage1.main, ["--distill.teacher-weights", str(teacher)]
        more += ["--distill.teacher-batch-stats", "true"]
    name = "debug" if stage == "pose" else "debug-stage1"
    # AdamW turns a gradient of rounding noise into a full step, so the rate decides how fast rounding grows.
    shared_flags = ["--max-steps", "8", "--lr", "1e-3", "--accumulate", str(accumulate), *more]
    main(arguments(toy, tmp_path / "one", "--batch-size", str(2 * batch), *shared_flags))
    argv = arguments(toy, tmp_path / "two", "--batch-size", str(batch), *shared_flags)
    if stage == "pose":  # with an interruption: resuming restores every process
        in_two_processes(main, [*argv, "--max-steps", "5"])
    in_two_processes(main, argv)
    one, two = (losses(tmp_path / folder / name) for folder in ("one", "two"))
    assert one.keys() == two.keys() and len(one) == 8
    for step in one:
        assert two[step] == pytest.approx(one[step], rel=1e-5), step


def test_one_process_does_not_continue_what_two_began(toy, tmp_path):
    argv = arguments(toy, tmp_path, "--batch-size", "2")
    in_two_processes(train_pose.main, [*argv, "--max-steps", "2"])
    with pytest.raises(ValueError, match="was trained by 2 processes, this start has 1: start as many as before"):
        train_pose.main([*argv, "--max-steps", "4"])


def test_machines_that_do_not_share_the_run_folder(toy, tmp_path, capfd):
    """The second would begin anew while the first goes on."""
    here, there = (arguments(toy, tmp_path / name, "--batch-size", "2") for name in ("a", "b"))
    in_two_processes(train_pose.main, [*here, "--max-steps", "2"], [*there, "--max-steps", "2"])
    in_two_processes(train_pose.main, [*here, "--max-steps", "4"], [*there, "--max-steps", "4"], status=1)
    said = capfd.readouterr().err
    assert "only processes 0 of 2 see" in said and "FutureWarning" not in said


def test_two_processes_judge_the_same_people(toy, tmp_path):
    pytest.importorskip("pycocotools")
    torch.manual_seed(0)
    model = tmp_path / "model.safetensors"
    checkpoint.save_model(model, create_model("debug"), {})
    argv = [str(model), "--annotations", toy.annotations, "--images", toy.images, "--device", "cpu", "--workers", "0"]
    for name, judge in (("one", evaluate.main), ("two", partial(in_two_processes, evaluate.main))):
        judge([*argv, "--save-results", str(tmp_path / name)])
    files = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    one, two = ({entry["image_id"]: entry for entry in file} for file in files)
    assert one.keys() == two.keys() and len(one) == 8
    for image_id in one:
        np.testing.assert_allclose(one[image_id]["face_kpts"], two[image_id]["face_kpts"], atol=2e-3)


def test_all_reduce_batchnorm_of_one_process_is_batchnorm(tmp_path):
    """Forward, gradients and running statistics against PyTorch's own layer."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain, ours = torch.nn.BatchNorm2d(5), distributed.AllReduceBatchNorm(5)
        for layer in (plain, ours):
            torch.manual_seed(1)
            torch.nn.init.normal_(layer.weight)
            torch.nn.init.normal_(layer.bias)
        x = torch.randn(4, 5, 6, 7) * 3 + 50
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for layer, batch in zip((plain, ours), inputs, strict=True):
            (layer(batch) * torch.linspace(0, 1, x.numel()).view_as(x)).sum().backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.eval()(x), plain.eval()(x))
    finally:
        distributed.stop()
