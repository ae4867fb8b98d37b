"""Muon for the weights that are matrices, AdamW for the rest.

Muon (Jordan et al., https://kellerjordan.github.io/posts/muon) replaces the momentum of a weight matrix by the nearest
orthogonal one, so that every direction learns at the same speed. The starter model gets as far with it on 25,000
pictures as with AdamW alone on 35,000 (docs/synthetic_results.md). Convolutions count as matrices of one row per output
channel; depthwise ones, the first one, and the two classifiers stay with AdamW, as the authors advise for the ends of
a network.
"""

from __future__ import annotations

import torch
from torch import nn

from .optim import parameter_groups

# The convolutions that read pixels and the layers that write predictions, in CSPNeXt, RTMCC and YOLOX.
AT_THE_ENDS = ("stem.0.", "stem.conv.", "cls_x.", "cls_y.", "_preds.")
WEIGHT_DECAY = 0.02


def is_hidden_matrix(name: str, weight: torch.Tensor) -> bool:
    """Whether the weight is dense, 2-D or a convolution's, and neither reads pixels nor writes predictions."""
    dense = weight.ndim == 2 or (weight.ndim == 4 and weight.shape[1] > 1)
    return dense and name.endswith(".weight") and not any(part in name for part in AT_THE_ENDS)


class MuonAdamW:
    """One step over a module's trainable parameters; `rate` scales both learning rates.

    Args:
        module: its convolution weights must be in channels_last format, because they are viewed as matrices in place.
        lr: of AdamW.
        muon_lr: of Muon, in AdamW's units (`match_rms_adamw`, Liu et al., arXiv 2502.16982).
        weight_decay: of AdamW, by `parameter_groups`.

    Raises:
        ImportError: where torch has no Muon (before 2.9).
        ValueError: for weights in another format.
    """

    def __init__(self, module: nn.Module, lr: float, muon_lr: float, weight_decay: float):
        if not hasattr(torch.optim, "Muon"):
            raise ImportError(f"torch {torch.__version__} has no Muon; install torch 2.9 or newer")
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        matrices = {name: p for name, p in named.items() if is_hidden_matrix(name, p)}
        self._pairs = [(p, nn.Parameter(_rows(p.data))) for p in matrices.values()]
        if any(row.data_ptr() != p.data_ptr() for p, row in self._pairs):
            raise ValueError("convolution weights are not channels_last; call module.to(memory_format=channels_last)")
        rest = []
        for group in parameter_groups(module, weight_decay):
            chosen = [p for name, p in zip(group["names"], group["params"], strict=True) if name not in matrices]
            rest.append({"params": chosen, "weight_decay": group["weight_decay"]})
        rows = [row for _, row in self._pairs]
        self._muon = torch.optim.Muon(
            rows, lr=muon_lr, weight_decay=WEIGHT_DECAY, ns_steps=4, adjust_lr_fn="match_rms_adamw"
        )
        self._adam = torch.optim.AdamW(rest, lr=lr)
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
