"""Runners: one callable that takes a batch of network input and returns the outputs, for PyTorch and for ONNX Runtime.

    runner(batch) -> tuple of float32 tensors on `runner.device`

A pose runner maps crops (N, 3, H, W) to SimCC logits (x, y); a detector runner maps images to (raw,). Either says what
it runs and where in `runner.description`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .skeleton import NUM_KEYPOINTS

Outputs = tuple[torch.Tensor, ...]


class Runner(Protocol):
    """What the pipeline knows of a network. Yours may be anything that has these."""

    name: str
    input_size: tuple[int, int]  # (H, W)

    @property
    def device(self) -> torch.device:
        """Where outputs lie, and where batches are prepared."""

    @property
    def description(self) -> str:
        """Weights, device and arithmetic, for people to read."""

    def __call__(self, batch: torch.Tensor) -> Outputs: ...


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the best one present: CUDA, then Apple's MPS, then the CPU.

    Raises:
        ValueError: when the device asked for is not there. Nothing slides to the CPU by itself.
    """
    if device is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {str(device)!r} cannot be used here: {reason}. Try device='cpu'.") from error
    return wanted


def fuse_batchnorm(net: nn.Module) -> nn.Module:
    """A copy of `net` in eval mode with every BatchNorm folded into the convolution before it."""
    net = copy.deepcopy(net).eval()
    for module in net.modules():
        if isinstance(getattr(module, "bn", None), nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(module.conv, module.bn)
            module.bn = nn.Identity()
    return net


class TorchRunner:
    """Runs a network of ours. BatchNorm is folded and memory is channels-last, the faster layout on CPU and GPU.

    Args:
        net: `DWPose` or `YOLOX` with its weights.
        device: see `pick_device`.
        dtype: of the arithmetic, whatever `torch.autocast` surrounds the call; outputs are float32 in any case.
    """

    def __init__(self, net: nn.Module, device: str | torch.device | None = None, dtype: torch.dtype = torch.float32):
        self.net = fuse_batchnorm(net).requires_grad_(False)
        self.input_size: tuple[int, int] = net.config.input_size
        self.name: str = net.name
        self.weights: str = getattr(net, "weights", net.name)
        self.to(pick_device(device), dtype)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> TorchRunner:
        """Move or convert; None leaves that side as it is."""
        where = self.device if device is None else pick_device(device)
        self.net.to(device=where, dtype=dtype or self.dtype, memory_format=torch.channels_last)
        return self

    @property
    def device(self) -> torch.device:
        # Read off the weights, not remembered: a memory manager may move the network behind our back.
        return next(self.net.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.net.parameters()).dtype

    @property
    def description(self) -> str:
        return f"{self.weights} on {self.device} (torch, {str(self.dtype).removeprefix('torch.')})"

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> Outputs:
        kind = self.device.type
        exact = torch.amp.is_autocast_available(kind)  # Apple's devices have it from torch 2.5 on
        with torch.autocast(kind, enabled=False) if exact else contextlib.nullcontext():
            outputs = self.net(batch.to(self.device, self.dtype, memory_format=torch.channels_last))
        return tuple(out.float() for out in (outputs if isinstance(outputs, tuple) else (outputs,)))


# Spelling of the user -> ONNX Runtime's provider.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}
_FROM = "onnxruntime-gpu has cuda and tensorrt, onnxruntime-openvino openvino, onnxruntime-directml directml (Windows)"


# What makes a file a pose network or a detector of ours: the axes of its outputs, None for any length, and in words.
_KINDS = {
    "pose": ([(None, NUM_KEYPOINTS, None)] * 2, f"two outputs (N, {NUM_KEYPOINTS}, bins), simcc_x and simcc_y"),
    "detector": ([(None, None, None)], "one output (N, anchors, 5 + classes), as YOLOX without decoding and NMS"),
}


def _onnxruntime():
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            'backend "onnx" needs onnxruntime: pip install "dwpose-torch[onnx]" (or [onnx-cpu]); '
            'backend "torch" runs the same .onnx files without it'
        ) from error
    return onnxruntime


def provider_beside(device_type: str) -> str:
    """The ONNX Runtime provider where torch would run on `device_type` and nobody names one.

    "cuda" for an NVIDIA GPU. Without one "directml", any GPU under Windows, where this ONNX Runtime was installed for
    it, and "cpu" otherwise. Other GPUs of torch (AMD's, Apple's) have no provider here that can be relied on.
    """
    ort = _onnxruntime()
    if device_type == "cuda" and torch.version.hip is None:
        return "cuda"
    return "directml" if PROVIDERS["directml"] in ort.get_available_providers() else "cpu"


class OnnxRunner:
    """Runs an .onnx file through ONNX Runtime.

    Copies and pickles load the file again.

    Args:
        path: the model file.
        provider: a key of `PROVIDERS`, or None for CUDA or DirectML (any GPU under Windows) where this build has one,
            else the CPU.
        kind: "pose" or "detector": what the file must hold; None takes any.
        device_index: which GPU.
        cache_dir: where TensorRT keeps its engines; beside the model by default. Building one takes minutes.
        threads: of the CPU provider; 0 lets ONNX Runtime choose.
        input_size: (H, W), needed only where the file leaves it open.

    Raises:
        ImportError: when onnxruntime is not installed.
        ValueError: when the provider asked for is not in this build, or is but does not start, and for a network of
            another kind, which would fail at the first picture otherwise.
    """

    def __init__(
        self,
        path: str | Path,
        provider: str | None = None,
        *,
        kind: str | None = None,
        device_index: int = 0,
        cache_dir: str | Path | None = None,
        threads: int = 0,
        input_size: tuple[int, int] | None = None,
    ):
        ort = _onnxruntime()
        available = ort.get_available_providers()
        if provider is None:
            provider = "cuda" if PROVIDERS["cuda"] in available else provider_beside("cpu")
        if provider not in PROVIDERS:
            raise ValueError(f"unknown ONNX Runtime provider {provider!r}; choose one of {', '.join(PROVIDERS)}")
        if PROVIDERS[provider] not in available:
            have = [name for name, full in PROVIDERS.items() if full in available]
            raise ValueError(
                f"this onnxruntime has no {provider} provider (it has {', '.join(have)}). Install the package that has "
                f"it, alone: {_FROM}"
            )
        if provider in ("cuda", "tensorrt") and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA libraries that came with PyTorch
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.enable_mem_pattern = provider != "directml"  # which cannot have it (ONNX Runtime's documentation)
        # Waiting threads that spin take the cores from whoever decodes and draws beside us: 20 % on a shared machine.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = ort.InferenceSession(
                str(path), options, providers=_provider_list(provider, device_index, cache_dir or Path(path).parent)
            )
        except Exception as error:
            raise ValueError(f"ONNX Runtime cannot load {path}: {str(error).splitlines()[0]}") from error
        running = self.session.get_providers()
        if running[0] != PROVIDERS[provider]:
            raise ValueError(
                f"ONNX Runtime was asked for {provider} but fell back to {running[0]}: the libraries of {provider} did "
                "not load (`dwpose doctor` says more). Use backend 'torch', or ask for the cpu provider."
            )
        self.provider = provider
        self._arguments = {
            "path": Path(path).resolve(),
            "provider": provider,
            "kind": kind,
            "device_index": device_index,
            "cache_dir": cache_dir,
            "threads": threads,
            "input_size": input_size,
        }
        self.name = Path(path).stem
        self.device = torch.device("cuda", device_index) if provider in ("cuda", "tensorrt") else torch.device("cpu")
        if kind is not None:
            self._check_kind(path, kind)
        (self._input,) = self.session.get_inputs()
        self._outputs = [output.name for output in self.session.get_outputs()]
        if set(self._outputs) == {"simcc_x", "simcc_y"}:
            self._outputs.sort()  # x before y, whatever order the file lists them in
        self._dtype = np.float16 if self._input.type == "tensor(float16)" else np.float32
        batch, _, height, width = self._input.shape
        self._fixed_batch = batch if isinstance(batch, int) else None
        self.fixed_size = isinstance(height, int) and isinstance(width, int)
        if self.fixed_size:
            input_size = (height, width)
        if input_size is None:
            raise ValueError(f"{path} leaves its input size open; pass input_size=(H, W)")
        self.input_size = input_size

    def __reduce__(self) -> tuple:
        # A session can be neither pickled nor copied: whoever gets a copy (another process) loads the file again.
        return functools.partial(OnnxRunner, **self._arguments), ()

    def _check_kind(self, path: str | Path, kind: str) -> None:
        wanted, words = _KINDS[kind]
        outputs = self.session.get_outputs()
        fits = len(outputs) == len(wanted) and all(
            len(output.shape) == len(axes)
            # An axis without a fixed length has a name, or none.
            and all(a in (None, b) or not isinstance(b, int) for a, b in zip(axes, output.shape, strict=True))
            for axes, output in zip(wanted, outputs, strict=True)
        )
        if not fits:
            shapes = ", ".join(f"{output.name} {output.shape}" for output in outputs)
            raise ValueError(
                f"{path} is no {kind} network of the known kind, which has {words}; its outputs are {shapes}"
            )

    @property
    def description(self) -> str:
        return f"{self.name} on {self.device} (onnxruntime, {self.provider})"

    def __call__(self, batch: torch.Tensor) -> Outputs:
        # `to` may keep the channels-last strides of a crop; the session reads plain NCHW memory.
        batch = batch.to(self.device, torch.float16 if self._dtype is np.float16 else torch.float32).contiguous()
        if self._fixed_batch is None:
            return self._run(batch)
        chunks = [self._run_padded(chunk) for chunk in batch.split(self._fixed_batch)]
        return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))

    def _run_padded(self, chunk: torch.Tensor) -> Outputs:
        missing = self._fixed_batch - len(chunk)
        if missing:
            padded = torch.cat((chunk, chunk.new_zeros(missing, *chunk.shape[1:])))
            return tuple(out[: len(chunk)] for out in self._run(padded))
        return self._run(chunk)

    def _run(self, batch: torch.Tensor) -> Outputs:
        if batch.device.type == "cpu":
            outputs = self.session.run(self._outputs, {self._input.name: batch.numpy()})
            return tuple(torch.from_numpy(out).float() for out in outputs)
        # On the GPU the input stays where it is. Outputs are small next to it and come back through the host.
        binding = self.session.io_binding()
        torch.cuda.current_stream(batch.device).synchronize()
        binding.bind_input(
            self._input.name, "cuda", batch.device.index, self._dtype, tuple(batch.shape), batch.data_ptr()
        )
        for name in self._outputs:
            binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        return tuple(torch.from_numpy(out).to(batch.device).float() for out in binding.copy_outputs_to_cpu())


def _provider_list(provider: str, device_index: int, cache_dir: str | Path) -> list:
    cuda = (PROVIDERS["cuda"], {"device_id": device_index})
    if provider == "tensorrt":
        engine = {
            "device_id": device_index,
            "trt_fp16_enable": True,
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(cache_dir),
            "trt_timing_cache_enable": True,
        }
        return [(PROVIDERS["tensorrt"], engine), cuda]
    if provider == "cuda":
        return [cuda]
    if provider == "directml":
        return [(PROVIDERS["directml"], {"device_id": device_index})]
    return [PROVIDERS[provider]]
