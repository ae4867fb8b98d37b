"""Weight decay groups, schedule and EMA against traces of the original code; Muon beside AdamW."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from dwpose_core.models import create_model
from training import muon
from training.muon import Muon, MuonAdamW, is_hidden_matrix
from training.optim import ExponentialMovingAverage, Schedule, parameter_groups
from training.precision import autocast, has_bfloat16


def test_parameter_groups_are_the_original_ones(shared):
    expected = json.loads((shared / "golden" / "optimizer_groups_t.json").read_text())
    decay, plain = parameter_groups(create_model("dwpose-t"), 0.05)
    with_decay = next(v for k, v in expected.items() if k != "no_decay" and isinstance(v, list))
    assert set(plain["names"]) == set(expected["no_decay"])
    assert set(decay["names"]) == set(with_decay)
    assert (decay["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)


def test_biases_and_norms_do_not_decay():
    decay, plain = parameter_groups(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), 0.05)
    assert (decay["names"], decay["weight_decay"]) == (["0.weight"], 0.05)
    assert (plain["names"], plain["weight_decay"]) == (["0.bias", "1.weight", "1.bias"], 0.0)


def test_frozen_parameters_are_in_no_group():
    model = create_model("debug")
    model.backbone.requires_grad_(False)
    names = [name for group in parameter_groups(model, 0.05) for name in group["names"]]
    assert names and all(name.startswith("head.") for name in names)


@pytest.mark.parametrize("key", ["lr_stage1", "lr_stage2"])
def test_learning_rate_trace(shared, key):
    golden = np.load(shared / "golden" / "schedule_ema.npz")
    per_epoch = int(golden["epoch_len"])
    # Stage 2 inherits the 270-epoch schedule, so its 60 epochs never reach the cosine.
    schedule = Schedule(lr=4e-3, warmup=1000, cosine_start=135 * per_epoch, cosine_end=270 * per_epoch)
    ours = [schedule.at(step) for step in range(len(golden[key]))]
    np.testing.assert_allclose(ours, golden[key], rtol=1e-9)


def test_ema_momentum_and_trace(shared, fill):
    golden = np.load(shared / "golden" / "schedule_ema.npz")

    class Source(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(2, 3))
            self.register_buffer("rm", torch.zeros(2))
            self.register_buffer("count", torch.tensor(0))

    source = Source()
    ema = ExponentialMovingAverage(source)
    for step, expected in zip(golden["ema_momentum_steps"], golden["ema_momentum"], strict=True):
        assert ema.momentum_at(int(step)) == pytest.approx(expected, rel=1e-12)
    for step, expected in enumerate(golden["ema_trace"]):
        with torch.no_grad():
            source.w.copy_(torch.from_numpy(fill.seeded(f"ema/w{step}", (2, 3))))
            source.rm.copy_(torch.from_numpy(fill.seeded(f"ema/rm{step}", (2,))))
            source.count += 1
        ema.update(source)
        ours = torch.cat((ema.module.w.flatten(), ema.module.rm)).numpy()
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert ema.module.count == 0  # integer buffers are left alone


def test_muon_moves_matrices_and_adamw_the_rest():
    net = create_model("debug").to(memory_format=torch.channels_last)
    matrices = {name for name, p in net.named_parameters() if is_hidden_matrix(name, p)}
    assert "head.gau.uv.weight" in matrices and "head.final_layer.weight" in matrices
    assert not any("cls_" in n or "stem.0." in n or n.endswith("bias") for n in matrices)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = MuonAdamW(net, 1e-3, 1e-2, 0.0)
    for parameter in net.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    optimizer.step(0.5)
    moved = {name: (p - before[name]).detach() for name, p in net.named_parameters()}
    assert all(change.abs().max() > 0 for change in moved.values())
    change = moved["head.gau.uv.weight"] + 0.02 * 0.5e-2 * before["head.gau.uv.weight"]  # weight decay taken out
    spectrum = torch.linalg.svdvals(change)
    assert spectrum.max() < 2.5 * spectrum.median()  # orthogonal up to Newton and Schulz


def test_muon_goes_on_from_its_state():
    """The same weights after two steps in one go, and after one step, saving, loading and another step."""

    def steps(net, optimizer, rates):
        for rate in rates:
            for parameter in net.parameters():
                seed = torch.Generator().manual_seed(parameter.numel() + round(1000 * rate))
                parameter.grad = torch.randn(parameter.shape, generator=seed)
            optimizer.step(rate)

    torch.manual_seed(0)
    start = create_model("debug").to(memory_format=torch.channels_last)
    whole, first, second = (copy.deepcopy(start) for _ in range(3))
    steps(whole, MuonAdamW(whole, 1e-3, 1e-2, 0.05), (1.0, 0.3))
    before = MuonAdamW(first, 1e-3, 1e-2, 0.05)
    steps(first, before, (1.0,))
    after = MuonAdamW(second, 1e-3, 1e-2, 0.05)
    second.load_state_dict(first.state_dict())
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    steps(second, after, (0.3,))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_muon_refuses_weights_it_cannot_view():
    with pytest.raises(ValueError, match="channels_last"):
        MuonAdamW(create_model("debug"), 1e-3, 1e-3, 0.05)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon since 2.9")
@pytest.mark.parametrize("exact", [True, False])
def test_muon_is_that_of_torch(exact, monkeypatch):
    """In bfloat16 to the bit; in float32, where the processor has no bfloat16, as far as that is exact."""
    monkeypatch.setattr(muon, "has_bfloat16", lambda device: exact)
    torch.manual_seed(0)
    mine = [nn.Parameter(torch.randn(shape)) for shape in ((8, 24), (24, 8), (16, 16), (5, 300))]
    theirs, start = copy.deepcopy(mine), copy.deepcopy(mine)
    optimizers = (
        Muon(mine, 3e-3, 0.02),
        torch.optim.Muon(theirs, lr=3e-3, weight_decay=0.02, ns_steps=4, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn(one.shape)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, before in zip(mine, theirs, start, strict=True):
        moved = (other - before).detach()
        apart = (one - other).detach().abs().max()
        assert apart == 0 if exact else 0 < apart < 0.02 * moved.abs().max()
    optimizers[0].load_state_dict(optimizers[1].state_dict())  # a run that torch's began goes on
    optimizers[0].step()


def test_arithmetic_is_what_the_device_has(monkeypatch):
    """A processor that has to emulate bfloat16 is ten times as slow with it as with float32."""
    for there in (True, False):
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda there=there: there)
        assert has_bfloat16(torch.device("cpu")) is there
        with autocast(torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if there else torch.float32)
    assert has_bfloat16(torch.device("cuda"))
