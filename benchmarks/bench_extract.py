"""`dwpose extract`: throughput against the networks alone, and memory over many images.

    python benchmarks/bench_extract.py speed --out benchmarks/results/extract_speed.json
    python benchmarks/bench_extract.py memory --images 20000 --out benchmarks/results/extract_memory.json

speed: photographs of real size, random weights (same arithmetic as trained ones), two people in every image; everything
from reading JPEG to finished tar shards, against the same batches through the same two networks with nothing around
them, on the same threads, in turn. 1.00 would mean that only the networks cost time. On a machine that is busy
otherwise the ratio of CPU seconds says more than that of wall seconds; it counts this process only, so take
--decoders 0 for it, which decodes and encodes in threads.

memory: resident memory of the process and its workers, sampled while small images go through the debug network, so that
every buffer of the machinery turns over as often as possible.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from dwpose_core.backends import TorchRunner
from dwpose_core.dataset.extract import ExtractWorker, Machine
from dwpose_core.dataset.plan import Config, make_plan
from dwpose_core.dataset.storage import Storage
from dwpose_core.models import create_detector, create_model
from dwpose_core.preprocessor import DWposeDetector

SIZE = (768, 1024)  # H, W of the photographs
PEOPLE = 2


class TwoPeople:
    """A real detector network whose answer is then replaced by two people, so that the stages after it have work."""

    def __init__(self, runner):
        self.runner, self.device, self.input_size = runner, runner.device, runner.input_size
        self.description = runner.description

    def __call__(self, images):
        (raw,) = self.runner(images)
        raw = torch.zeros_like(raw)
        # Anchors of stride 8: cell (x, y) is at y * (W / 8) + x; sizes are exp(value) * 8.
        for person, x in enumerate((20, 50)):
            anchor = 30 * (self.input_size[1] // 8) + x
            raw[:, anchor, 2:4] = torch.tensor([3.0, 3.9])
            raw[:, anchor, 4], raw[:, anchor, 5] = 0.9 - 0.1 * person, 1.0
        return (raw,)


def make_photos(folder: Path, count: int, size: tuple[int, int], distinct: int) -> None:
    """JPEGs with photographic statistics (smooth noise), `distinct` different ones; the others are links to them."""
    rng = np.random.default_rng(0)
    for i in range(count):
        file = folder / f"{i // 1000:03d}" / f"{i:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        if i >= distinct:
            os.link(folder / "000" / f"{i % distinct:06d}.jpg", file)
            continue
        small = rng.integers(0, 256, (max(4, size[0] // 16), max(4, size[1] // 16), 3), dtype=np.uint8)
        pixels = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC).astype(np.int16)
        pixels = (pixels + rng.normal(0, 4, pixels.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, quality=90)


class _Ready(ExtractWorker):
    """A worker with networks of ours instead of loaded ones."""

    networks: DWposeDetector

    def _load(self):
        return type(self).networks


def run_speed(args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    pose, detector = (
        TorchRunner(make(name), "cpu") for make, name in ((create_model, args.pose), (create_detector, args.detector))
    )
    _Ready.networks = DWposeDetector(pose, TwoPeople(detector))
    streams = args.streams or os.cpu_count()
    batch = 4

    def networks_only() -> float:
        images = torch.randint(0, 256, (batch, 3, *detector.input_size)).float()
        crops = torch.randn(batch * PEOPLE, 3, *pose.input_size)

        def one(_: int) -> None:
            detector(images)
            pose(crops)

        with ThreadPoolExecutor(streams, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            start = time.perf_counter()
            list(pool.map(one, range(args.images // batch)))
            return time.perf_counter() - start

    def whole(folder: Path, photos: Path) -> tuple[float, int]:
        config = Config(
            str(photos),
            str(folder),
            "folder",
            "webdataset",
            samples_per_shard=args.images // 2,
            options={"image_batch": batch},
        )
        make_plan(config, Storage(folder))
        people = 0

        def count(row) -> None:
            nonlocal people
            people += len(row.people)

        worker = _Ready(config, Machine("cpu", decoders=args.decoders, streams=streams), count)
        worker._pool.submit(abs, 1).result()  # processes are up: they start once per run of hours
        start = time.perf_counter()
        worker.run(range(2))
        seconds = time.perf_counter() - start
        worker.close()
        return seconds, people

    def cpu_seconds() -> float:
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    with tempfile.TemporaryDirectory() as temporary:
        photos = Path(temporary) / "photos"
        make_photos(photos, args.images, SIZE, args.images)
        networks_only()
        rounds = []
        for n in range(args.rounds):
            before = cpu_seconds()
            alone = networks_only()
            middle = cpu_seconds()
            seconds, people = whole(Path(temporary) / f"out{n}", photos)
            alone_cpu, total_cpu = middle - before, cpu_seconds() - middle
            assert people == args.images * PEOPLE, people
            rounds.append({"networks_s": alone, "total_s": seconds, "ratio": alone / seconds})
            rounds[-1] |= {"networks_cpu_s": alone_cpu, "total_cpu_s": total_cpu, "cpu_ratio": alone_cpu / total_cpu}
            print(rounds[-1], flush=True)
    return {
        "images": args.images, "image_size": SIZE, "people_per_image": PEOPLE, "pose": args.pose,
        "detector": args.detector, "streams": streams, "decoders": args.decoders, "rounds": rounds,
        "ratio_median": statistics.median(r["ratio"] for r in rounds),
        "cpu_ratio_median": statistics.median(r["cpu_ratio"] for r in rounds),
        "images_per_s": args.images / statistics.median(r["total_s"] for r in rounds),
    }  # fmt: skip


def _resident() -> int:
    """Bytes of this process and all below it, shared pages counted once (PSS)."""
    pids, children = [os.getpid()], {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    for pid in pids:
        pids += children.get(pid, [])
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
        except (FileNotFoundError, ProcessLookupError, PermissionError, StopIteration):
            continue
    return total


def run_memory(args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    net = create_model("debug").eval()
    with torch.inference_mode():
        top = max(float(logits.max()) for logits in net(torch.randn(2, 3, *net.config.input_size)))
        for layer in (net.head.cls_x, net.head.cls_y):
            layer.weight *= 3 / top  # sure of itself: one person in every image
    _Ready.networks = DWposeDetector(TorchRunner(net, "cpu"))
    samples: list[tuple[float, int, int]] = []
    done = 0
    stop = threading.Event()

    def watch() -> None:
        start = time.perf_counter()
        while not stop.wait(1.0):
            samples.append((time.perf_counter() - start, done, _resident()))

    def count(row) -> None:
        nonlocal done
        done += 1

    folder = Path(tempfile.mkdtemp())
    try:
        make_photos(folder / "photos", args.images, (96, 128), 500)
        config = Config(
            str(folder / "photos"),
            str(folder / "out"),
            "folder",
            "webdataset",
            samples_per_shard=1000,
            keypoints=("jsonl", "npz"),
        )
        plan = make_plan(config, Storage(config.out))
        watcher = threading.Thread(target=watch)
        watcher.start()
        worker = _Ready(config, Machine("cpu", decoders=args.decoders), count)
        start = time.perf_counter()
        worker.run(range(plan.shards))
        seconds = time.perf_counter() - start
        worker.close()
        stop.set()
        watcher.join()
    finally:
        stop.set()
        shutil.rmtree(folder)
    rows = [(n, resident / 2**20) for _, n, resident in samples]
    early = [mib for n, mib in rows if 0.1 * args.images <= n < 0.3 * args.images]
    late = [mib for n, mib in rows if n >= 0.8 * args.images]
    if not early or not late:
        raise ValueError(f"{done} images take too few seconds to watch memory: give more --images")
    if args.plot:
        plot(rows, args.plot)
    return {
        "images": done, "seconds": seconds, "images_per_s": done / seconds, "samples_per_shard": 1000,
        "mib_early": statistics.mean(early), "mib_late": statistics.mean(late), "mib_peak": max(mib for _, mib in rows),
        "curve": [[n, round(mib, 1)] for n, mib in rows[:: max(1, len(rows) // 100)]],
    }  # fmt: skip


def plot(rows: list[tuple[int, float]], path: str) -> None:
    """Resident memory over images done, drawn with OpenCV: no plotting library is asked for."""
    width, height, left, bottom, right, top = 1000, 420, 90, 60, 30, 50
    canvas = np.full((height, width, 3), 255, np.uint8)
    # Round numbers on both axes, four steps each.
    most, high = (
        -(-value // step) * step for value, step in ((rows[-1][0], 400), (1.1 * max(m for _, m in rows), 200))
    )

    def at(n: float, mib: float) -> tuple[int, int]:
        return (
            round(left + (width - left - right) * n / most),
            round(height - bottom - (height - bottom - top) * mib / high),
        )

    def write(text: str, x: int, y: int, size: float = 0.45) -> None:
        cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (90, 80, 70), 1, cv2.LINE_AA)

    for step in range(5):
        y = at(0, high * step / 4)[1]
        cv2.line(canvas, (left, y), (width - right, y), (230, 226, 222), 1)
        write(f"{high * step / 4:5.0f} MiB", 10, y + 5)
        write(f"{most * step // 4:6.0f}", at(most * step / 4, 0)[0] - 28, height - 32)
    points = np.array([at(n, mib) for n, mib in rows], np.int32)
    cv2.polylines(canvas, [points], False, (61, 111, 224), 2, cv2.LINE_AA)
    write("dwpose extract: resident memory of all processes over images done", left, 30, 0.55)
    write("images", width // 2, height - 10)
    Image.fromarray(canvas).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory"))
    parser.add_argument("--images", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pose", default="dwpose-m")
    parser.add_argument("--detector", default="yolox-s")
    parser.add_argument("--decoders", type=int, default=2)
    parser.add_argument("--streams", type=int)
    parser.add_argument("--plot", help="memory: write a picture of the curve")
    parser.add_argument("--out", help="write the result as JSON")
    args = parser.parse_args()
    args.images = args.images or (32 if args.what == "speed" else 20_000)
    result = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    result |= run_speed(args) if args.what == "speed" else run_memory(args)
    print(json.dumps({name: value for name, value in result.items() if name not in ("curve", "rounds")}, indent=1))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
