"""Muon for the weights that are matrices, AdamW for the rest.

Muon (Jordan et al., https://kellerjordan.github.io/posts/muon) replaces the momentum of a weight matrix by the nearest
orthogonal one, so that every direction learns at the same speed. The starter model gets as far with it on 25,000
pictures as with AdamW alone on 35,000 (docs/synthetic_results.md). Convolutions count as matrices of one row per output
channel; depthwise ones, the first one, and the two classifiers stay with AdamW, as the authors advise for the ends of
a network.

torch.optim.Muon computes the same in bfloat16 on every device. A processor without bfloat16 (one with AVX2 alone) takes
15 s for a step of dwpose-s with it and 0.6 s with this one, which takes float32 there. Elsewhere they agree to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from .optim import parameter_groups
from .precision import has_bfloat16

# The convolutions that read pixels and the layers that write predictions, in CSPNeXt, RTMCC and YOLOX.
AT_THE_ENDS = ("stem.0.", "stem.conv.", "cls_x.", "cls_y.", "_preds.")
WEIGHT_DECAY = 0.02
MOMENTUM = 0.95
# The quintic of Jordan's post, a x + b x^3 + c x^5: of its iterations all singular values come to lie near 1.
QUINTIC, ITERATIONS = (3.4445, -4.7750, 2.0315), 4
LIKE_ADAMW = 0.2  # root mean square of AdamW's updates (Liu et al., arXiv 2502.16982, section 2.2)


def is_hidden_matrix(name: str, weight: torch.Tensor) -> bool:
    """Whether the weight is dense, 2-D or a convolution's, and neither reads pixels nor writes predictions."""
    dense = weight.ndim == 2 or (weight.ndim == 4 and weight.shape[1] > 1)
    return dense and name.endswith(".weight") and not any(part in name for part in AT_THE_ENDS)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: singular values are 0.7 to 1.2. In bfloat16 where the device has it."""
    x = matrix.to(torch.bfloat16 if has_bfloat16(matrix.device) else torch.float32)
    tall = len(matrix) > matrix.shape[1]
    x = x.mT if tall else x
    x = x / x.norm().clamp(min=1e-7)
    a, b, c = QUINTIC
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for 2-D parameters. States are torch.optim.Muon's.

    Args:
        parameters: matrices.
        lr: in AdamW's units: an update has the root mean square that AdamW's would have.
        weight_decay: relative to `lr`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Apply the gradients; parameters without one stay as they are."""
        for group in self.param_groups:
            learning = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not learning:
                continue
            for parameter in learning:
                self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            gradients = [parameter.grad for parameter in learning]
            momenta = [self.state[parameter]["momentum_buffer"] for parameter in learning]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)
            torch._foreach_mul_(learning, 1 - group["lr"] * group["weight_decay"])
            for parameter, direction in zip(learning, ahead, strict=True):
                size = LIKE_ADAMW * max(parameter.shape) ** 0.5
                parameter.add_(orthogonal(direction), alpha=-group["lr"] * size)


class MuonAdamW:
    """One step over a module's trainable parameters; `rate` scales both learning rates.

    Args:
        module: its convolution weights must be in channels_last format, because they are viewed as matrices in place.
        lr: of AdamW.
        muon_lr: of Muon, in AdamW's units.
        weight_decay: of AdamW, by `parameter_groups`.

    Raises:
        ValueError: for weights in another format.
    """

    def __init__(self, module: nn.Module, lr: float, muon_lr: float, weight_decay: float):
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        matrices = {name: p for name, p in named.items() if is_hidden_matrix(name, p)}
        self._pairs = [(p, nn.Parameter(_rows(p.data))) for p in matrices.values()]
        if any(row.data_ptr() != p.data_ptr() for p, row in self._pairs):
            raise ValueError("convolution weights are not channels_last; call module.to(memory_format=channels_last)")
        rest = []
        for group in parameter_groups(module, weight_decay):
            chosen = [p for name, p in zip(group["names"], group["params"], strict=True) if name not in matrices]
            rest.append({"params": chosen, "weight_decay": group["weight_decay"]})
        self._muon = Muon([row for _, row in self._pairs], muon_lr, WEIGHT_DECAY)
        self._adam = torch.optim.AdamW(rest, lr=lr, fused=next(iter(named.values())).is_cuda)
        self._rates = ((self._muon, muon_lr), (self._adam, lr))

    def step(self, rate: float) -> None:
        """Apply the gradients at `rate` (0..1) of the learning rates."""
        for optimizer, full in self._rates:
            for group in optimizer.param_groups:  # loading a state replaces them
                group["lr"] = full * rate
        for parameter, row in self._pairs:
            row.grad = None if parameter.grad is None else _rows(parameter.grad)
        self._muon.step()
        self._adam.step()

    def state_dict(self) -> dict:
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def _rows(weight: torch.Tensor) -> torch.Tensor:
    """(out, in, h, w) -> (out, h * w * in), a view of weights in channels_last format; 2-D as it is."""
    return weight if weight.ndim == 2 else weight.permute(0, 2, 3, 1).flatten(1)
