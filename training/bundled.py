"""The models in the box again, from assets to weights, in one command that goes on where it was stopped.

    python -m training.bundled --assets DIR --out DIR                            all of them, one after the other
    python -m training.bundled dwpose-s-synthetic --assets DIR --out DIR         one, with what it was made from
    python -m training.bundled --assets DIR --out DIR --list                     the commands, without running them
    python -m training.bundled --assets DIR --out DIR --device cpu --budget 0.01

Runs the parts of bundled_parts.py, each a command of `training` in OUT/PART, and writes OUT/NAME.safetensors. All four
models need, by the times of their parts, about 75 minutes of one H200 with 16 CPU cores, 30 hours of two cores, a
third of them for rendering, and 40 GB. `--budget` scales people, pictures, steps and minutes alike: less of the same,
which gives weaker models. `--device cpu` makes do without a GPU, in as many minutes, with fewer pictures held and
smaller batches.

GPU parts end by the clock, so the results agree with the shipped files in quality, not bit by bit. The rendered people,
crops and states of a part are deleted once it is done, unless later ones name them; `--keep` keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from .bundled_parts import MODELS, PARTS, parts_of
from .checkpoint import write_atomic, write_json
from .command import more_than_zero, run
from .starter import LEAST_CROPS, LEAST_SCENE_PEOPLE
from .synthetic.body import check_assets

REPOSITORY = Path(__file__).resolve().parents[1]
# What --budget scales, and the least of it that fills a batch or draws something.
LEAST = {
    "--minutes": 0.2, "--people": 24, "--scene-people": LEAST_SCENE_PEOPLE, "--crops": LEAST_CROPS, "--length": 1e-6,
    "--layers": 64, "--pictures": 24, "--things": 24, "--held-out": 48, "--steps": 4, "--scenes": 96,
    "--test-scenes": 16,
}  # fmt: skip
# The most that synthetic_run's CPU defaults hold in memory and train at a time.
ON_CPU = {"--layers": 4000, "--pictures": 300, "--things": 100, "--batch": 24}
PICTURES = ("layers", "close_layers", "hand_layers", "held_out", "close_held_out", "hand_held_out", "objects", "scenes",
            "held_out_scenes", "rendered", "pool", "state")  # fmt: skip


def command_of(name: str, assets: Path, budget: float, device: str, cores: int) -> list[str]:
    """The words after `python -m` that run a part in the folder above its own."""
    part = PARTS[name]
    words = part.command.split()
    for at, word in enumerate(words[:-1]):
        share = word == "--scenes" and part.module == "synthetic_run"  # of the crops; elsewhere a number
        if word in LEAST and words[at + 1][0].isdigit() and not share:  # --held-out may be a folder
            words[at + 1] = _scaled(words[at + 1], budget, LEAST[word])
        if part.on_gpu and device == "cpu" and word in ON_CPU:
            words[at + 1] = str(min(int(words[at + 1]), ON_CPU[word]))
        if word == "--workers" and part.module == "synthetic_run":  # processes that draw; elsewhere part of the recipe
            words[at + 1] = str(min(int(words[at + 1]), max(1, cores - 1)))
    words[0] = f"training.{part.module}"
    if part.module != "soup":
        words += ["--assets", str(assets)]
    if part.module in ("synthetic_run", "train_detector"):
        words += ["--device", device if part.on_gpu else "cpu"]
    return [*words, "--out", name]


def _scaled(value: str, budget: float, least: float) -> str:
    """Never more than what stands in the recipe because of `least`; whole numbers stay whole."""
    number = min(float(value), least) if budget < 1 else 0.0
    number = max(float(value) * budget, number)
    return f"{number:.4g}" if "." in value else str(round(number))


def run_part(name: str, words: Sequence[str], out: Path) -> float:
    """Runs a part to its end; returns its seconds. Asked to stop, it asks the part, and waits for it.

    Raises:
        ValueError: when its command ends with an error, which it has told.
        SystemExit: 143 after SIGTERM. KeyboardInterrupt.
    """
    began = time.monotonic()
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen([sys.executable, "-m", *words], cwd=out, env=os.environ | {"PYTHONPATH": paths})
    before = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    try:
        status = child.wait()
    except KeyboardInterrupt:  # which a terminal has sent to the part as well, others have not
        child.terminate()
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if status in (-signal.SIGTERM, 128 + signal.SIGTERM):
        raise SystemExit(128 + signal.SIGTERM)
    if status:
        raise ValueError(f"part {name} ended with status {status}; mend what it says above and start again to go on")
    return time.monotonic() - began


def clear(out: Path, done: Collection[str]) -> None:
    """Delete the pictures and states of the parts that are done, unless others name them: of another model, too."""
    named = {word for name, part in PARTS.items() if name not in done for word in part.command.split()}
    for name in done:
        for folder in PICTURES:
            if f"{name}/{folder}" not in named:
                shutil.rmtree(out / name / folder, ignore_errors=True)


def build(models: list[str], assets: Path, out: Path, budget: float, device: str, keep: bool) -> None:
    """Every part of `models` that is not done yet, and then their files.

    Raises:
        ValueError: when `out` was begun with other options, or a part fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    order, record = parts_of(models), out / "parts.json"
    done: dict[str, dict] = json.loads(record.read_text()) if record.is_file() else {}
    for number, name in enumerate(order, 1):
        words = command_of(name, assets, budget, device, os.cpu_count() or 1)
        text = shlex.join(["python", "-m", *words])
        if name in done:
            if done[name]["budget"] != budget:
                raise ValueError(f"{out} was begun with --budget {done[name]['budget']}; choose another --out")
            continue
        print(f"[{number}/{len(order)}] {text}", flush=True)
        seconds = run_part(name, words, out)
        done[name] = {"command": text, "budget": budget, "seconds": round(seconds)}
        write_json(record, done)
        if not keep:
            clear(out, done)
    for model in models:
        part, file = MODELS[model]
        write_atomic(out / f"{model}.safetensors", lambda path, made=out / part / file: shutil.copyfile(made, path))
        print(out / f"{model}.safetensors")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"{', '.join(MODELS)} (all if not given)")
    parser.add_argument("--assets", type=Path, required=True, help="folder of packed body assets, with --photographs")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget", type=more_than_zero, default=1.0, help="relative to what the shipped files took")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="for the parts made on a GPU (cuda)")
    parser.add_argument("--keep", action="store_true", help="rendered people and crops too, about 250 GB")
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    args = parser.parse_args(argv)
    models = list(dict.fromkeys(args.models)) or list(MODELS)
    for model in models:
        if model not in MODELS:
            parser.error(f"{model} is not in the box; choose from {', '.join(MODELS)}")
    assets = args.assets.resolve()
    if args.list:
        for name in parts_of(models):
            words = command_of(name, args.assets, args.budget, args.device, os.cpu_count() or 1)
            print(shlex.join(["python", "-m", *words]))
        return
    check_assets(assets)
    on_gpu = [name for name in parts_of(models) if PARTS[name].on_gpu]
    if on_gpu and args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{len(on_gpu)} parts were made on a GPU ({', '.join(on_gpu)}), and there is none; --device cpu takes CPUs "
            "for as many minutes, which trains them less"
        )
    build(models, assets, args.out.resolve(), args.budget, args.device, args.keep)


if __name__ == "__main__":
    sys.exit(run(main))
