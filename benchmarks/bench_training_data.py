"""Training crops per second from 640 x 480 and 1920 x 1080 JPEGs, augmented as for the 256 x 192 networks.

    python -m benchmarks.bench_training_data --workers 2 --json benchmarks/results/training_data.json

Pictures are drawn (smooth noise with a figure, JPEG quality 90); decoding cost depends on their size, not on what they
show. The loader is the real one: `WholeBodyDataset` behind a PyTorch DataLoader, batches of 64 arriving in the main
process. The last column is CPU time per crop in one process: unlike the rate it does not depend on what else the
machine is doing, and cores / that time is the rate of an idle machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from training.data.augment import AugmentConfig
from training.data.samplers import StepBatches
from training.data.toy import write_toy_data
from training.data.wholebody import WholeBodyDataset
from training.loop import _quiet_worker

BATCH = 64
CASES = [  # image (H, W), reduced decode
    ((480, 640), False),
    ((480, 640), True),
    ((1080, 1920), False),
    ((1080, 1920), True),
]


def photographs(folder: Path, size: tuple[int, int], count: int = 64):
    """Toy data re-saved with a busy background: flat colours would decode too fast."""
    source = write_toy_data(folder, people=count, size=size)
    rng = np.random.default_rng(0)
    for path in folder.glob("*.jpg"):
        small = rng.integers(0, 256, (size[0] // 6, size[1] // 6, 3), dtype=np.uint8)
        texture = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path), cv2.addWeighted(cv2.imread(str(path)), 0.6, texture, 0.4, 0), (1, 90))
    return source


def measure(source, workers: int, reduced: bool, seconds: float) -> float:
    data = WholeBodyDataset((source,), (256, 192), AugmentConfig(), reduced_decode=reduced)
    batches = StepBatches(data.lengths, data.weights, BATCH, seed=0)
    stream = iter(DataLoader(data, batch_sampler=batches, num_workers=workers, worker_init_fn=_quiet_worker))
    for _ in itertools.islice(stream, 2 * workers + 2):  # fill the queue: it must not count
        pass
    begin, batches_seen = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(stream)
        batches_seen += 1
    return batches_seen * BATCH / (time.perf_counter() - begin)


def cpu_milliseconds(source, reduced: bool, samples: int = 200) -> float:
    data = WholeBodyDataset((source,), (256, 192), AugmentConfig(), reduced_decode=reduced)
    data[0, 0]
    begin = time.process_time()
    for i in range(samples):
        data[i, i % len(data)]
    return (time.process_time() - begin) / samples * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size, reduced in CASES:
            where = Path(folder) / f"{size[1]}"
            source = photographs(where, size)
            rate = measure(source, args.workers, reduced, args.seconds)
            kilobytes = np.mean([path.stat().st_size for path in where.glob("*.jpg")]) / 1024
            rows.append(
                {"image": f"{size[1]}x{size[0]}", "kilobytes": round(kilobytes), "reduced_decode": reduced}
                | {"crops_per_second": round(rate, 1), "cpu_ms_per_crop": round(cpu_milliseconds(source, reduced), 2)}
            )
            line = "{image:>10}  {kilobytes:4d} KB  reduced {reduced_decode!s:5}  {crops_per_second:7.1f} /s"
            print((line + "  {cpu_ms_per_crop:6.2f} ms").format(**rows[-1]))
    if args.json:
        record = {
            "what": "augmented 256x192 training crops per second",
            "workers": args.workers,
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],  # above the worker count: the rates were measured on a busy machine
            "versions": {"torch": torch.__version__, "opencv": cv2.__version__, "numpy": np.__version__},
            "rows": rows,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
