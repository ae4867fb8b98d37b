"""Networks to .onnx, with a dynamic batch, checked against PyTorch through ONNX Runtime."""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from pathlib import Path

import torch

from ..backends import fuse_batchnorm
from ..images import atomic_write
from .rtmcc import DWPose
from .yolox import YOLOX

OPSETS = range(7, 21)  # operator sets that PyTorch's TorchScript exporter is made for, whatever its version


@dataclasses.dataclass(frozen=True)
class Export:
    """What `export_onnx` wrote. `differences` maps a batch size to the largest difference from PyTorch."""

    name: str
    target: Path
    opset: int
    differences: dict[int, float]

    def __str__(self) -> str:
        parity = ", ".join(f"{value:.2e} at batch {batch}" for batch, value in self.differences.items())
        return f"{self.target}: {self.name}, opset {self.opset}, dynamic batch; differs from PyTorch by {parity}"


def export_onnx(model: DWPose | YOLOX, path: str | Path, opset: int = 17) -> Export:
    """Writes `model` as one .onnx file in float32, BatchNorm folded, batch axis dynamic.

    Pose: "input" (N, 3, H, W) -> "simcc_x" (N, K, 2W), "simcc_y" (N, K, 2H). Detector: "images" (N, 3, H, W) ->
    "output" (N, A, 5 + classes), undecoded, as in the files of the YOLOX authors. H and W are the network's own.

    Raises:
        ImportError: without the packages of the `onnx` extra.
        ValueError: a target that is not .onnx, an opset not in OPSETS, or a file whose outputs differ from PyTorch.
            Nothing is left behind.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"the target must end in .onnx, got {path.name}")
    if opset not in OPSETS:
        raise ValueError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    network = fuse_batchnorm(model).float().cpu()
    pose = isinstance(model, DWPose)
    images = sample_images(model, 3)
    names = (["input"], ["simcc_x", "simcc_y"]) if pose else (["images"], ["output"])

    with atomic_write(path) as unchecked:
        _write(network, images, unchecked, opset, *names)
        differences = {}
        with torch.inference_mode():
            expected = network(images)
        expected = expected if pose else (expected,)
        scale = max(1.0, *(float(value.abs().max()) for value in expected))
        for batch in (1, len(images)):
            found = run_onnx(unchecked, images[:batch])
            differences[batch] = max(float((a[:batch] - b).abs().max()) for a, b in zip(expected, found, strict=True))
        if not max(differences.values()) <= 1e-3 * scale:
            raise ValueError(
                f"the exported file differs from PyTorch by {differences}; this is a defect of the exporter"
            )
    return Export(model.name, path, opset, differences)


def _write(
    network: torch.nn.Module, images: torch.Tensor, path: Path, opset: int, inputs: list[str], outputs: list[str]
) -> None:
    # The TorchScript exporter works from torch 2.4 on without further packages and keeps the operator set asked for;
    # the newer one writes opset 18 and up and needs onnxscript. torch 2.4 has no choice between them yet.
    chosen = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # announces the newer one at every call
        torch.onnx.export(
            network,
            (images,),
            str(path),
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: {0: "batch"} for name in inputs + outputs},
            opset_version=opset,
            **chosen,
        )


def sample_images(model: DWPose | YOLOX, batch: int) -> torch.Tensor:
    """Noise in the range of real input, always the same: normalised RGB for a pose network, 0..255 for YOLOX."""
    noise = torch.randn((batch, 3, *model.config.input_size), generator=torch.Generator().manual_seed(0))
    return noise if isinstance(model, DWPose) else (noise * 64 + 128).clamp(0, 255)


def run_onnx(path: str | Path, images: torch.Tensor) -> list[torch.Tensor]:
    """Outputs of an .onnx file on the CPU, in float32.

    Raises:
        ImportError: without onnxruntime.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('this needs onnxruntime: pip install "dwpose-torch[onnx]"') from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # exporters leave unused initialisers behind, each worth a warning
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    kind = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}[entry.type]
    return [torch.from_numpy(out).float() for out in session.run(None, {entry.name: images.to(kind).numpy()})]
