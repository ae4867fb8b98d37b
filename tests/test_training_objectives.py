"""Losses and complete optimisation steps against the original code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dwpose_core.models import create_model
from dwpose_core.simcc import encode
from training.objectives import (
    SimCCObjective,
    Stage1Distillation,
    Stage2Distillation,
    feature_loss,
    keypoint_accuracy,
    logit_loss,
    simcc_labels,
    task_loss,
)
from training.optim import parameter_groups

SIZE = (256, 192)
SIGMA = (4.9, 5.66)


def tensors(fill, names, shape, scale):
    return [torch.from_numpy(fill.seeded(name, shape, scale)).requires_grad_() for name in names]


def test_labels_on_tensors_are_the_codec(shared):
    golden = np.load(shared / "golden" / "codec_256x192.npz")
    x, y, weight = simcc_labels(
        torch.from_numpy(golden["keypoints"]), torch.from_numpy(golden["visible"]).float(), SIZE, SIGMA
    )
    np.testing.assert_allclose(x, golden["x_labels"], atol=1e-6)
    np.testing.assert_allclose(y, golden["y_labels"], atol=1e-6)
    np.testing.assert_array_equal(weight, golden["weights"])


@pytest.mark.parametrize("size, sigma", [(SIZE, SIGMA), ((384, 288), (6.0, 6.93)), ((64, 64), (2.8, 2.8))])
def test_labels_on_tensors_equal_numpy_encode(size, sigma):
    rng = np.random.default_rng(0)
    keypoints = (rng.random((3, 133, 2)) * [size[1] + 60, size[0] + 60] - 30).astype(np.float32)
    visible = (rng.random((3, 133)) > 0.3).astype(np.float32)
    ours = simcc_labels(torch.from_numpy(keypoints), torch.from_numpy(visible), size, sigma)
    for a, b in zip(ours, encode(keypoints, visible, size, sigma), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("prefix, count, scale", [("a", 4, 0.2), ("b", 1, 1.0)])
@pytest.mark.parametrize("loss", ["kl", "kl_noweight", "kd_w0.1", "kd_w1"])
def test_simcc_losses(shared, fill, prefix, count, scale, loss):
    golden = np.load(shared / "golden" / "losses.npz")
    name = f"loss/{prefix}/"
    size = np.array([192 + 40, 256 + 40], np.float32)
    keypoints = fill.seeded_uniform(name + "keypoints", (count, 133, 2)) * size - 20
    visible = (fill.seeded_uniform(name + "visible", (count, 133)) > 0.3).astype(np.float32)
    *label, weight = simcc_labels(torch.from_numpy(keypoints), torch.from_numpy(visible), SIZE, SIGMA)
    np.testing.assert_array_equal(weight, golden[f"{prefix}/weights"])
    pred = [
        *tensors(fill, [name + "pred_x"], (count, 133, 384), scale),
        *tensors(fill, [name + "pred_y"], (count, 133, 512), scale),
    ]
    teacher = [
        *tensors(fill, [name + "teacher_x"], (count, 133, 384), scale),
        *tensors(fill, [name + "teacher_y"], (count, 133, 512), scale),
    ]
    value = {
        "kl": lambda: task_loss(pred, label, weight).sum(),
        "kl_noweight": lambda: task_loss(pred, label, torch.ones_like(weight)).sum(),
        "kd_w0.1": lambda: 0.1 * logit_loss(pred, [t.detach() for t in teacher]).mean(),
        "kd_w1": lambda: logit_loss(pred, [t.detach() for t in teacher]).mean(),
    }[loss]()
    value.backward()
    key = f"{prefix}/{loss}"
    assert value.item() == pytest.approx(float(golden[f"{key}_value"]), rel=1e-5)
    for axis, tensor in zip("xy", pred, strict=True):
        assert tensor.grad.double().norm().item() == pytest.approx(float(golden[f"{key}_gradnorm_{axis}"]), rel=1e-5)
    probe = pred[0].grad.flatten()[torch.from_numpy(golden[f"{prefix}/probe_idx"])]
    expected = golden[f"{key}_grad_x_probe"]
    np.testing.assert_allclose(probe, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("tag, count, channels", [("fea_t_from_l", 2, (384, 1024)), ("fea_same", 3, (1024, 1024))])
def test_feature_loss(shared, fill, tag, count, channels):
    golden = np.load(shared / "golden" / "losses.npz")
    (student,) = tensors(fill, [f"loss/{tag}/feat_s"], (count, channels[0], 8, 6), 1.0)
    (teacher,) = tensors(fill, [f"loss/{tag}/feat_t"], (count, channels[1], 8, 6), 1.0)
    align = nn.Identity()
    if channels[0] != channels[1]:
        align = nn.Conv2d(*channels, 1)
        fill_align(align, fill, f"loss/{tag}", channels[0])
    value = 7e-5 * feature_loss(align(student), teacher.detach()).mean()
    value.backward()
    assert value.item() == pytest.approx(float(golden[f"{tag}/value"]), rel=1e-5)
    assert student.grad.norm().item() == pytest.approx(float(golden[f"{tag}/gradnorm_s"]), rel=1e-5)
    if channels[0] != channels[1]:
        assert align.weight.grad.norm().item() == pytest.approx(float(golden[f"{tag}/gradnorm_w"]), rel=1e-5)
        assert align.bias.grad.norm().item() == pytest.approx(float(golden[f"{tag}/gradnorm_b"]), rel=1e-5)


def fill_align(align: nn.Conv2d, fill, name: str, channels: int) -> None:
    with torch.no_grad():
        weight = fill.seeded(f"{name}/align.weight", tuple(align.weight.shape), 1 / np.sqrt(channels))
        align.weight.copy_(torch.from_numpy(weight))
        align.bias.copy_(torch.from_numpy(fill.seeded(f"{name}/align.bias", tuple(align.bias.shape), 0.1)))


def step_batch(fill, tag: str, count: int) -> dict[str, torch.Tensor]:
    """The golden's batch: images were BGR as loaded; "_teacher_eval" tags share the inputs of the released ones."""
    tag = tag.removesuffix("_teacher_eval")
    image = np.stack([fill.seeded_image(f"step/{tag}/input/{i}", 256, 192)[..., ::-1] for i in range(count)])
    keypoints = fill.seeded_uniform(f"step/{tag}/keypoints", (count, 133, 2)) * np.float32([212, 276]) - 10
    visible = (fill.seeded_uniform(f"step/{tag}/visible", (count, 133)) > 0.3).astype(np.float32)
    return {
        "image": torch.from_numpy(image.copy()),
        "keypoints": torch.from_numpy(keypoints),
        "visible": torch.from_numpy(visible),
    }


def optimizer_for(objective, lr=4e-3) -> torch.optim.AdamW:
    groups = [{k: v for k, v in g.items() if k != "names"} for g in parameter_groups(objective, 0.05)]
    return torch.optim.AdamW(groups, lr=lr)


def check_state(golden, tag: str, state: dict[str, torch.Tensor], rename, lr=4e-3) -> int:
    """Every stored `after1` entry that `rename` maps to a key of ours; returns how many were compared."""
    compared = 0
    for entry in golden.files:
        if not entry.startswith(f"{tag}/after1/norm/"):
            continue
        original = entry.removeprefix(f"{tag}/after1/norm/")
        key = rename(original)
        if key is None:
            continue
        ours = state[key].double().flatten()
        assert ours.norm().item() == pytest.approx(float(golden[entry]), rel=1e-5), original
        head = golden[f"{tag}/after1/head/{original}"]
        difference = np.abs(ours[: len(head)].numpy() - head)
        # AdamW's first step is a sign function: an element with a gradient near zero may go the other way.
        assert (difference > 2e-5).sum() <= 1 and difference.max() <= 2 * lr + 1e-5, original
        compared += 1
    return compared


@pytest.mark.parametrize("tag, lr, steps", [("baseline", 4e-3, 2), ("baseline_warm", 4e-8, 1)])
def test_baseline_steps(shared, fill, tag, lr, steps):
    golden = np.load(shared / "golden" / "train_step.npz")
    student = fill.fill_module(create_model("dwpose-t"))
    objective = SimCCObjective(student, reference_batch=4).train()
    optimizer = optimizer_for(objective, lr)
    batch = step_batch(fill, tag, 4)
    for step in range(2):
        out = objective(batch)
        out["loss"].backward()
        norm = nn.utils.clip_grad_norm_([p for p in objective.parameters() if p.requires_grad], float("inf"))
        if step < steps:
            assert out["loss"].item() == pytest.approx(float(golden[f"{tag}/loss_{step}"]), rel=1e-5)
            assert norm.item() == pytest.approx(float(golden[f"{tag}/gradnorm_{step}"]), rel=1e-3)
            assert out["accuracy"].item() == pytest.approx(float(golden[f"{tag}/acc_{step}"]), abs=1e-6)
        if step == 0:
            for name, parameter in student.named_parameters():
                if f"{tag}/grad/{name}" in golden:
                    expected = float(golden[f"{tag}/grad/{name}"])
                    assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-3), name
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            assert check_state(golden, tag, student.state_dict(), lambda key: key, lr) > 10


@pytest.mark.slow
@pytest.mark.parametrize("tag", ["s1_t_from_l", "s1_t_from_l_teacher_eval"])
def test_stage1_step(shared, fill, tag):
    golden = np.load(shared / "golden" / "train_step.npz")
    student, teacher = (fill.fill_module(create_model(name)) for name in ("dwpose-t", "dwpose-l"))
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    objective = Stage1Distillation(
        student, teacher, epochs=270, reference_batch=2, teacher_batch_stats=tag == "s1_t_from_l"
    ).train()
    fill_align(objective.align, fill, "step/s1_t_from_l", 384)
    objective.set_epoch(100)
    optimizer = optimizer_for(objective)
    out = objective(step_batch(fill, tag, 2))
    out["loss"].backward()
    trained = [p for p in objective.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(trained, float(golden[f"{tag}/clip_max_norm"]))
    for ours, theirs in (("loss_task", "loss_kpt"), ("loss_feature", "loss_fea"), ("loss_logit", "loss_logit")):
        assert out[ours].item() == pytest.approx(float(golden[f"{tag}/loss/{theirs}"]), rel=1e-5)
    assert out["loss"].item() == pytest.approx(float(golden[f"{tag}/total"]), rel=1e-5)
    assert out["accuracy"].item() == pytest.approx(float(golden[f"{tag}/loss/acc_pose"]), abs=1e-6)
    assert norm.item() == pytest.approx(float(golden[f"{tag}/gradnorm"]), rel=1e-3)
    assert len(trained) == int(golden[f"{tag}/n_params_with_grad"])
    optimizer.step()

    def rename(key):
        return key.replace("distill_losses.loss_fea.align", "align")

    assert check_state(golden, tag, objective.state_dict(), rename) > 10
    drift = max(
        (teacher.state_dict()[k] - v).abs().max().item() for k, v in before.items() if k.endswith(("_mean", "_var"))
    )
    assert drift == pytest.approx(float(golden[f"{tag}/teacher_bn_drift_max"]), rel=1e-4)


@pytest.mark.parametrize("tag", ["s2_t", "s2_t_teacher_eval"])
def test_stage2_step(shared, fill, tag):
    golden = np.load(shared / "golden" / "train_step.npz")
    student, teacher = (fill.fill_module(create_model("dwpose-t")) for _ in range(2))
    state = teacher.state_dict()
    for key, value in state.items():
        if key.startswith("head."):
            state[key] = torch.from_numpy(fill.value_for(f"teacher.{key}", value.shape))
    teacher.load_state_dict(state)
    before = {k: v.clone() for k, v in teacher.backbone.state_dict().items()}
    objective = Stage2Distillation(student, teacher, teacher_batch_stats=tag == "s2_t").train()
    optimizer = optimizer_for(objective)
    out = objective(step_batch(fill, tag, 2))
    out["loss"].backward()
    trained = [p for p in objective.parameters() if p.grad is not None]
    norm = nn.utils.clip_grad_norm_(trained, 1.0)
    assert out["loss"].item() == pytest.approx(float(golden[f"{tag}/loss/loss_logit"]), rel=1e-5)
    assert norm.item() == pytest.approx(float(golden[f"{tag}/gradnorm"]), rel=1e-3)
    assert len(trained) == int(golden[f"{tag}/n_params_with_grad"])
    optimizer.step()

    def rename(key):
        if key.startswith("teacher.backbone."):  # one backbone serves both heads here
            return key.replace("teacher.", "student.")
        return None if key.startswith("student.backbone.") else key

    assert check_state(golden, tag, objective.state_dict(), rename) > 10
    drift = max(
        (student.backbone.state_dict()[k] - v).abs().max().item()
        for k, v in before.items()
        if k.endswith(("_mean", "_var"))
    )
    assert drift == pytest.approx(float(golden[f"{tag}/teacher_bn_drift_max"]), rel=1e-4)


def test_balance_does_not_depend_on_how_the_batch_is_cut():
    """The trap of the original: there, halving the per-process batch halves the task loss but not the distillation."""
    torch.manual_seed(0)
    student, teacher = create_model("debug").eval(), create_model("debug").eval()
    objective = Stage1Distillation(student, teacher, epochs=10, reference_batch=64).eval()
    rng = np.random.default_rng(0)
    batch = {
        "image": torch.from_numpy(rng.integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)),
        "keypoints": torch.from_numpy(rng.random((8, 133, 2), dtype=np.float32) * 64),
        "visible": torch.ones(8, 133),
    }
    whole = objective(batch)
    halves = [objective({k: v[i : i + 4] for k, v in batch.items()}) for i in (0, 4)]
    for part in ("loss", "loss_task", "loss_feature", "loss_logit"):
        mean = sum(half[part].item() for half in halves) / 2
        assert mean == pytest.approx(whole[part].item(), rel=1e-5)


def test_fading_and_modes():
    objective = Stage1Distillation(create_model("debug"), create_model("debug"), epochs=4)
    assert isinstance(objective.align, nn.Identity)  # equal channels need no convolution
    fades = []
    for epoch in range(4):
        objective.set_epoch(epoch)
        fades.append(objective.fade)
    assert fades == [1.0, 0.75, 0.5, 0.25]
    assert objective.student.training and objective.teacher.training  # as released: the teacher on batch statistics
    quiet = Stage1Distillation(create_model("debug"), create_model("debug"), epochs=4, teacher_batch_stats=False)
    assert quiet.student.training and not quiet.teacher.training
    assert not any(name.startswith("teacher") for group in parameter_groups(objective, 0.1) for name in group["names"])


def test_student_and_teacher_must_share_the_input_size():
    with pytest.raises(ValueError, match="one input size"):
        Stage1Distillation(create_model("debug"), create_model("dwpose-nano"), epochs=1)


def test_accuracy_counts_only_labelled_keypoints():
    label = torch.zeros(2, 3, 40), torch.zeros(2, 3, 40)
    for axis in label:
        axis[..., 10] = 1
    pred = label[0].clone(), label[1].clone()
    pred[0][0, 0] = torch.roll(pred[0][0, 0], 20)  # sample 0 misses keypoint 0
    weight = torch.tensor([[1.0, 1, 0], [1, 0, 0]])  # keypoint 2 is never labelled
    assert keypoint_accuracy(pred, label, weight).item() == pytest.approx((0.5 + 1.0) / 2)


def test_losses_by_hand():
    """Keypoint 0 of 2 is off on both axes, of 2 and of 4 bins: the networks say all bins are alike."""
    two, four = torch.zeros(1, 2, 2), torch.zeros(1, 2, 4)
    target = two.clone(), four.clone()
    for rows, chances in zip(target, ([0.75, 0.25], [0.5, 0.25, 0.125, 0.125]), strict=True):
        rows[0, 0] = torch.tensor(chances).log() / 10
    kl = [0.75 * np.log(1.5) + 0.25 * np.log(0.5), 0.5 * np.log(2) + 0.25 * np.log(0.5)]
    assert logit_loss((two, four), target).tolist() == pytest.approx([sum(kl) / 2])
    for weight in (1.0, 0.5):
        loss = task_loss((two, four), target, torch.tensor([[weight, 1.0]]))
        assert loss.tolist() == pytest.approx([weight * (kl[0] / 2 + kl[1] / 4) / 2])
    maps = torch.tensor([[[[0.0, 3.0]], [[4.0, 0.0]]], [[[1.0, 0.0]], [[0.0, 0.0]]]])
    assert feature_loss(maps, torch.zeros_like(maps)).tolist() == [25, 1]
