"""Any weight file to .safetensors, checked against its source."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import torch

from ..images import atomic_write
from .export import run_onnx, sample_images
from .weights import load_network, save_safetensors


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What `convert` did. `difference` is the largest one between any two outputs, `scale` the largest output."""

    name: str
    source: Path
    target: Path
    difference: float
    scale: float
    reference: str

    def __str__(self) -> str:
        return (
            f"{self.source} -> {self.target}: {self.name}, largest difference from {self.reference} "
            f"{self.difference:.2e} (largest output {self.scale:.3g})"
        )


def convert(source: str | Path, target: str | Path, *, part: str = "auto") -> Conversion:
    """Any weight file to float32 .safetensors. What was written is loaded again and run against the source on the same
    input: through ONNX Runtime where the source is .onnx and it is installed, else through the network loaded from it.

    Args:
        part: of a raw distillation checkpoint, see `read_state_dict`.

    Raises:
        ValueError: as `load_network`; a target that is not .safetensors; or a result that differs from the source. The
            target is only written once it has passed.
    """
    source, target = Path(source).expanduser(), Path(target).expanduser()
    if target.suffix.lower() != ".safetensors":
        raise ValueError(f"the target must end in .safetensors, got {target.name}")
    if not source.is_file():
        raise FileNotFoundError(f"no weights at {source}")
    model = load_network(source, part=part)
    with atomic_write(target) as unchecked:
        save_safetensors(model, unchecked, {"source": source.name})
        again = load_network(unchecked)
        images = sample_images(model, 1)
        with torch.inference_mode():
            results = again(images)
            expected = model(images)
        reference = "the network it was read from"
        if source.suffix.lower() == ".onnx" and importlib.util.find_spec("onnxruntime"):
            expected, reference = run_onnx(source, images), "ONNX Runtime on the source"
        pairs = list(zip(_outputs(expected), _outputs(results), strict=True))
        difference = max(float((a - b).abs().max()) for a, b in pairs)
        scale = max(float(a.abs().max()) for a, _ in pairs)
        # ONNX Runtime sums in another order, and a float16 graph also rounds.
        if not difference <= 0.01 * max(scale, 1.0):
            raise ValueError(f"{source} was read wrongly: its outputs differ by {difference:.3g} of {scale:.3g}")
    return Conversion(model.name, source, target, difference, scale, reference)


def _outputs(result: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (result,) if isinstance(result, torch.Tensor) else tuple(result)
