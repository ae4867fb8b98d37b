"""Training speed of a configuration: images per second and the share of the time spent waiting for data.

    python -m benchmarks.bench_training_step rtmpose-l --batch-size 256 --precision bf16 --workers 12 --json out.json
    torchrun --nproc-per-node 8 -m benchmarks.bench_training_step rtmpose-l --batch-size 256 --precision bf16

Runs the real recipe, with its data loading and augmentation, on drawn 640 x 480 JPEGs. The first 40 steps (start-up,
autotuning, compilation) do not count. Any flag of the recipe can follow.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.bench_training_data import photographs
from training import train_pose

WARM_UP = 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--steps", type=int, default=120, help="counted steps")
    parser.add_argument("--people", type=int, default=2048)
    parser.add_argument("--json", type=Path)
    args, recipe = parser.parse_known_args()
    rank, folder = int(os.environ.get("RANK", 0)), Path(tempfile.gettempdir()) / f"training_step_{args.people}"
    finished = folder / "finished"
    if rank == 0 and not finished.exists():
        photographs(folder / "photographs", (480, 640), args.people)
        finished.touch()
    while not finished.exists():
        time.sleep(0.5)
    with tempfile.TemporaryDirectory() as out:
        pictures = folder / "photographs"
        flags = ["--train", f"{pictures}/annotations.json,{pictures}", "--out", out, "--name", "bench"]
        flags += ["--val-annotations", "", "--max-steps", str(WARM_UP + args.steps), "--log-every", str(WARM_UP)]
        train_pose.main([args.config, *flags, "--epochs", "1000", "--tensorboard", "false", *recipe])
        if rank:
            return
        lines = [json.loads(line) for line in (Path(out) / "bench" / "log.jsonl").read_text().splitlines()]
        settings = json.loads((Path(out) / "bench" / "config.json").read_text())
    counted = [line for line in lines if line["step"] > WARM_UP]
    gpu = torch.cuda.is_available()
    record = {
        "what": "training speed with data loading and augmentation",
        "config": args.config,
        "images_per_second": round(sum(line["images_per_second"] for line in counted) / len(counted), 1),
        "data_wait": round(sum(line["data_wait"] for line in counted) / len(counted), 4),
        "batch_size": settings["batch_size"],
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "precision": settings["precision"],
        "compile": settings["compile"],
        "workers": settings["workers"],
        "device": torch.cuda.get_device_name() if gpu else f"{os.cpu_count()} CPU cores",
        "memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1) if gpu else None,
        "torch": torch.__version__,
    }
    print(json.dumps(record, indent=2))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
