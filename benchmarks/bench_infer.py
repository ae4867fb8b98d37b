"""Where the time of one photograph goes: per stage, and the ratio of the whole to the two networks alone.

    python benchmarks/bench_infer.py --backend torch onnx --people 1 5 20 --out benchmarks/results/infer_cpu.json
    python benchmarks/bench_infer.py --device cuda --dtype float16 --out benchmarks/results/infer_gpu.json

The networks run for real on random weights (same arithmetic as trained ones); the detector's output is then replaced by
boxes of the wanted number of people, so that every stage after it has real work. Everything is timed in one process on
the threads given, in turn, and the median is reported. Ratio 1.00 would mean that nothing but the networks costs time.
`one_by_one_ms` is the peer: the same pose network as TorchScript in float32, called once per person.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import torch

from dwpose_core import geometry, pipeline, render, simcc
from dwpose_core.backends import OnnxRunner, TorchRunner
from dwpose_core.models import create_detector, create_model
from dwpose_core.models.export import export_onnx

SIZE = (768, 1152)  # H, W of the photograph


class Stopwatch:
    """Seconds per stage of one pass; nested stages are charged to the inner one only."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def wrap(self, stage: str, function):
        def timed(*args, **kwargs):
            self._inner.append(0.0)
            start = time.perf_counter()
            out = function(*args, **kwargs)
            spent = time.perf_counter() - start
            self.seconds[stage] += spent - self._inner.pop()
            self._inner[-1] += spent
            return out

        return timed


def finished(function):
    """`function`, waiting until the GPU has done what it asked for."""

    def waiting(*args):
        out = function(*args)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return out

    return waiting


class Timed:
    """A runner that charges its network to a stage, and may answer with raw output of its own."""

    def __init__(self, runner, watch: Stopwatch, stage: str, answer=None):
        self.device, self.input_size, self.description = runner.device, runner.input_size, runner.description
        self._run = watch.wrap(stage, finished(runner))
        self._answer = answer

    def __call__(self, batch):
        outputs = self._run(batch)
        return outputs if self._answer is None else (self._answer.to(self.device).expand(len(batch), -1, -1),)


def raw_with_people(count: int, input_size: tuple[int, int]) -> torch.Tensor:
    """YOLOX output (1, A, 85) that decodes to `count` people side by side."""
    from dwpose_core.models.yolox import anchor_points

    cells, strides = anchor_points(input_size, torch.device("cpu"))
    raw = torch.zeros(1, len(cells), 85)
    width, height = input_size[1] / count, 0.6 * input_size[0]
    for i in range(count):
        center = torch.tensor([(i + 0.5) * width, 0.33 * input_size[0]])
        anchor = int(((cells + 0.5) * strides - center).square().sum(1)[: (input_size[0] // 8) ** 2].argmin())
        raw[0, anchor, :2] = center / strides[anchor] - cells[anchor]
        raw[0, anchor, 2:4] = torch.log(torch.tensor([0.8 * width, height]) / strides[anchor])
        raw[0, anchor, 4] = raw[0, anchor, 5] = 0.95
    return raw


def build(args: argparse.Namespace, backend: str, folder: Path) -> tuple:
    torch.manual_seed(0)
    nets = {"pose": create_model(args.pose).eval(), "detector": create_detector(args.detector).eval()}
    for net in nets.values():  # BatchNorm as trained nets have it: fresh ones drift into denormals, which run slowly
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
    if backend == "torch":
        return tuple(TorchRunner(net, args.device, getattr(torch, args.dtype)) for net in nets.values())
    runners = []
    for name, net in nets.items():
        path = folder / f"{name}.onnx"
        if not path.exists():
            export_onnx(net, path)
        runners.append(OnnxRunner(path, args.device, threads=torch.get_num_threads()))
    return tuple(runners)


def one_by_one(args: argparse.Namespace, people: int) -> float:
    """Median milliseconds of the pose network alone as TorchScript, called once per person."""
    crops = torch.rand(people, 3, *create_model(args.pose).config.input_size, device=args.device)
    net = create_model(args.pose).eval().to(args.device)
    with torch.no_grad():
        script = torch.jit.freeze(torch.jit.trace(net, crops[:1]))
        times = []
        for _ in range(args.repeats + 3):  # the first ones compile
            start = time.perf_counter()
            finished(lambda: [script(crop[None]) for crop in crops])()
            times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[3:])


def measure(pose, detector, people: int, repeats: int) -> dict:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (48, 72, 3), dtype=np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    passes = []
    for _ in range(repeats + 1):
        watch = Stopwatch()
        stages = {
            (geometry, "letterbox"): "letterbox",
            (pipeline, "decode_people"): "boxes",
            (geometry, "nms"): "boxes",
            (pipeline, "_crops"): "crop",
            (simcc, "decode"): "decode",
            (simcc, "visibility"): "visibility",
        }
        originals = {key: getattr(*key) for key in stages}
        for (module, name), stage in stages.items():
            setattr(module, name, watch.wrap(stage, getattr(module, name)))
        try:
            timed_pose = Timed(pose, watch, "pose_net")
            timed_detector = Timed(detector, watch, "detector_net", raw_with_people(people, detector.input_size))
            start = time.perf_counter()
            (found,) = pipeline.estimate_people([image], timed_pose, timed_detector)
            watch.wrap("render", render.render)(found, SIZE, threshold=-1e9)
            total = time.perf_counter() - start
        finally:
            for (module, name), function in originals.items():
                setattr(module, name, function)
        assert len(found) == people, f"{len(found)} people instead of {people}"
        watch.seconds["other"] = total - sum(watch.seconds.values())
        passes.append((total, dict(watch.seconds)))
    passes = passes[1:]  # the first one warms up
    networks = [seconds["detector_net"] + seconds["pose_net"] for _, seconds in passes]
    return {
        "people": people,
        "total_ms": 1e3 * statistics.median(total for total, _ in passes),
        "networks_ms": 1e3 * statistics.median(networks),
        "ratio": statistics.median(total / net for (total, _), net in zip(passes, networks, strict=True)),
        "stages_ms": {k: 1e3 * statistics.median(s.get(k, 0.0) for _, s in passes) for k in passes[0][1]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", nargs="+", default=["torch", "onnx"], choices=["torch", "onnx"])
    parser.add_argument("--pose", default="dwpose-l-384")
    parser.add_argument("--detector", default="yolox-l")
    parser.add_argument("--people", nargs="+", type=int, default=[1, 5, 20])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"], help="torch backend")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        peer = {people: one_by_one(args, people) for people in args.people}
        for backend in args.backend:
            pose, detector = build(args, backend, Path(folder))
            for people in args.people:
                row = {"backend": backend, **measure(pose, detector, people, args.repeats)}
                row["one_by_one_ms"] = peer[people]
                row["faster_than_one_by_one"] = peer[people] / row["stages_ms"]["pose_net"]
                rows.append(row)
                parts = "  ".join(f"{k} {v:.1f}" for k, v in row["stages_ms"].items())
                print(f"{backend:6s} {people:3d} people  {row['total_ms']:8.1f} ms  ratio {row['ratio']:.3f}   {parts}")
                print(f"{'':18s} pose network one by one {peer[people]:.1f} ms")
    if args.out:
        setting = {
            "cpu": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else args.device,
            "dtype": args.dtype,
            "threads": args.threads,
            "torch": torch.__version__,
            "opencv": cv2.__version__,
            "numpy": np.__version__,
            "image": SIZE,
            "pose": args.pose,
            "detector": args.detector,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"setting": setting, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
