"""How the models in the box came about: parts, each a command of `training`, in the order they may be run in.

A part is run in a folder of its name, which `bundled` gives it as --out; other names in a command are files of earlier
parts. Cards in dwpose_core/bundled say what each of them does, and what the shipped files differ in: above all, most of
them were trained on people of an earlier scene version.

What was stopped before its end stands here with the steps that it made.
"""

from __future__ import annotations

from dataclasses import dataclass

BESIDE = "--things 1500 --held-out 600"  # what the starter renders besides


@dataclass(frozen=True)
class Part:
    """`command` is a module of `training` and its options but for --assets and --out; `on_gpu`: where it was run."""

    command: str
    on_gpu: bool = False

    @property
    def module(self) -> str:
        return self.command.split(maxsplit=1)[0]


def _labels(minutes: float, start: str, settings: str, student: str = "dwpose-s") -> Part:
    """Minutes of a GPU, from the labels alone."""
    options = f"--minutes {minutes} --teacher none --students {student} --start {start} {settings}"
    return Part(f"synthetic_run {options}", on_gpu=True)


def _cores(settings: str) -> Part:
    """dwpose-s on CPU cores."""
    return Part(f"starter --network dwpose-s {settings} {BESIDE}")


def _detector(start: str, settings: str, on_gpu: bool = False) -> Part:
    return Part(f"train_detector --name yolox-cspnext-s {start} {settings}", on_gpu)


def _mean(files: str, settings: str) -> Part:
    return Part(f"soup {files} {settings}")


MANY = "--people 14000 --scene-people 12000 --crops 42000"
MIXED = "--close-ups 0.6 --drawings 0.15 --layers 60000"
SAME = "--objects d-1/objects --held-out d-1/held_out"
SHARP = "--objects d-1/objects --held-out d-6a/held_out"  # people for larger pictures
LARGE = "--side 512 --layer-size 288 384 --smallest 224 --largest 448 --lr 1.3e-3 --muon-lr 1.9e-3 --test-scenes 300"
SIXTH = "--side 416 --layer-size 288 384 --people 3000 --scenes 7000 --scene-people 11800 --smallest 192"
S, T, M, D = (f"{name}.safetensors" for name in ("dwpose-s", "dwpose-t", "dwpose-m", "yolox-cspnext-s"))

PARTS: dict[str, Part] = {
    # dwpose-nano
    "nano-1": Part(
        f"starter --network dwpose-nano --people 18000 --scene-people 9000 --crops 140000 --length 1.0 {BESIDE}"
    ),
    "nano": Part(
        "starter --network dwpose-nano --start nano-1/dwpose-nano.safetensors "
        f"--people 18000 --scene-people 9000 --crops 90000 --length 1.0 {BESIDE}"
    ),
    # dwpose-s-synthetic, from the labels
    "s-1": _labels(
        8.8, "nano/dwpose-nano.safetensors", "--batch 256 --layers 30000 --pictures 3000 --things 600 --workers 12"
    ),
    "s-2": _cores(f"--start s-1/{S} --people 9000 --scene-people 4500 --crops 36000 --length 1.0 --seed 3"),
    "s-3": _cores(
        f"--start s-2/{S} --mean s-1/{S} --mean s-2/{S} --people 9000 --scene-people 16000 --crops 36000 "
        "--length 1.0 --seed 3"
    ),
    "s-4": _cores(f"--start s-3/{S} --mean s-3/{S} {MANY} --length 1.0 --seed 4"),
    "s-5": _labels(
        9.0,
        f"s-4/{S}",
        "--close-ups 0.4 --drawings 0.15 --layers 60000 --pictures 4000 --things 1000 --workers 9 --batch 256 "
        "--seed 11",
    ),
    "s-6": _labels(
        3.85,
        f"s-5/{S}",
        "--scenes 0.5 --close-ups 0.4 --drawings 0.15 --layers 60000 --workers 15 --batch 256 --seed 12",
    ),
    "s-7": _cores(f"--start s-5/{S} s-6/{S} --mean s-5/{S} --mean s-6/{S} {MANY} --length 1.0 --seed 4"),
    "s-8": _cores(f"--start s-4/{S} s-5/{S} s-6/{S} {MANY} --length 0.6 --seed 4"),
    "s-9": _cores(
        f"--start s-5/{S} s-6/{S} s-7/trained.safetensors s-8/trained.safetensors --mean s-7/{S} {MANY} "
        "--length 0.6 --seed 4"
    ),
    "s-10": _labels(
        8.7,
        f"s-9/{S}",
        f"--scenes 0.35 {MIXED} --pictures 4000 --things 1000 --workers 8 --batch 512 --seed 21",
    ),
    "s-9-10": _mean(f"s-10/{S} s-9/{S}", "--weights 3 2 --network dwpose-s"),
    "s-11": _cores(f"--start s-9-10/{S} --mean s-9-10/{S} --mean s-9-10/{S} {MANY} --length 0.45 --seed 6"),
    "s-12": _labels(
        8.6,
        f"s-11/{S}",
        f"--scenes 0.4 {MIXED} --pictures 4000 --things 1000 --workers 9 --batch 1024 --seed 31",
    ),
    "s-13": _cores(
        f"--start s-11/{S} s-12/{S} s-12/{S} --people 5000 --scene-people 2600 --crops 10000 --length 0.25 --seed 7"
    ),
    "s-11-13": _mean(f"s-11/{S} s-12/{S} s-13/trained.safetensors", "--weights 1 9 5 --network dwpose-s"),
    "s-14": _labels(
        8.5,
        f"s-11-13/{S}",
        f"--scenes 0.45 {MIXED} --pictures 4000 --things 1000 --workers 12 --batch 1024 --seed 41",
    ),
    "s-11-14": _mean(f"s-11-13/{S} s-14/{S}", "--weights 1 2 --network dwpose-s"),
    # the larger teacher, and DWPose's two stages
    "m": _labels(
        5.6,
        f"s-11-14/{S}",
        f"--scenes 0.45 {MIXED} --pictures 4000 --things 1000 --workers 12 --batch 1024 --seed 51",
        "dwpose-m",
    ),
    "m-s": _mean(f"m/{M} s-11-14/{S}", "--network dwpose-m"),
    "t-1": Part(
        f"synthetic_run --minutes 3.25 --teacher s-14/{S} --start s-14/{S} --students dwpose-t --scenes 0.45 {MIXED} "
        "--pictures 4000 --things 1000 --workers 12 --batch 1024 --seed 41",
        on_gpu=True,
    ),
    "t-2": Part(
        f"starter --network dwpose-t --teacher m-s/{M} --start t-1/{T} --mean t-1/{T} "
        "--people 2500 --scene-people 4500 --crops 8000 --length 0.415 --seed 15 " + BESIDE
    ),
    "s-17": Part(
        f"synthetic_run --minutes 9.2 --teacher m-s/{M} --students dwpose-s dwpose-t --start s-11-14/{S} t-2/{T} "
        f"--scenes 0.45 {MIXED} --pictures 3500 --things 900 --workers 8 --batch 1024 --seed 52",
        on_gpu=True,
    ),
    "s": _mean(f"s-11-14/{S} s-17/{S}", "--weights 1 2 --network dwpose-s --calibrate s-13/pool"),
    "t": Part(
        f"starter --network dwpose-t --teacher s-17/{T} --people 2500 --scene-people 4500 --crops 8000 --length 0.3 "
        f"--seed 15 {BESIDE}"
    ),
    # the detector, whose backbone is that of the seventh part above, moved by what was learnt until the fourteenth
    "d-1": _detector(
        f"--pose s-7/{S}",
        "--people 18000 --scenes 13000 --scene-people 28000 --test-scenes 800 --steps 3627 --tail 0.13 --seed 6",
    ),
    "d-2": _detector(
        f"--start d-1/last.pt {SAME}",
        "--people 10000 --scenes 22000 --scene-people 7000 --test-scenes 800 --steps 1717 --batch 192 --workers 1 "
        "--smallest 160 --largest 320 --tail 0.13 --seed 21",
        on_gpu=True,
    ),
    "d-3": _detector(
        f"--start d-2/last.pt {SAME}",
        "--people 18000 --scenes 13000 --scene-people 28000 --test-scenes 800 --steps 2200 --lr 6e-4 --muon-lr 9e-4 "
        "--smallest 160 --tail 0.2 --seed 31",
    ),
    "d-4": _detector(
        f"--start d-3/{D} {SAME}",
        "--people 7000 --scenes 10000 --scene-people 6000 --test-scenes 800 --steps 692 --batch 192 --workers 1 "
        "--side 416 --smallest 224 --largest 416 --lr 8e-4 --muon-lr 1.2e-3 --tail 0.25 --seed 71",
        on_gpu=True,
    ),
    "d-5": _detector(
        f"--start d-4/last.pt {SAME}",
        "--people 3000 --scenes 11000 --scene-people 2600 --test-scenes 800 --steps 1400 --lr 1.4e-3 --muon-lr 2e-3 "
        "--smallest 160 --largest 320 --seed 81",
    ),
    "d-6a": _detector(
        f"--start d-5/last.pt --objects d-1/objects --pose s-11-14/{S} --pose-before s-7/{S}",
        f"{SIXTH} --test-scenes 800 --steps 364 --largest 416 --lr 1.4e-3 --muon-lr 2e-3 --seed 91",
    ),
    "d-6b": _detector(
        f"--start d-6a/last.pt {SHARP}",
        f"{SIXTH} --test-scenes 800 --steps 1900 --largest 352 --lr 1.3e-3 --muon-lr 1.9e-3 --tail 0.1 --seed 92",
    ),
    "d-4-6": _mean("d-4/last.pt d-6b/last.pt", "--network yolox-cspnext-s --side 512"),
    "d-7": _detector(
        f"--start d-4-6/{D} {SHARP}",
        f"{LARGE} --people 3000 --scenes 5000 --scene-people 14900 --steps 1350 --tail 0.18 --seed 101",
    ),
    "d-4-7": _mean(f"d-7/last.pt d-4-6/{D}", "--network yolox-cspnext-s --side 512"),
    "d-8a": _detector(
        f"--start d-4-7/{D} {SHARP}",
        f"{LARGE} --people 3000 --scenes 6000 --scene-people 12500 --steps 628 --tail 0 --mosaic 0.5 --seed 126",
    ),
    "d-8b": _detector(
        f"--start d-8a/last.pt {SHARP}",
        f"{LARGE} --people 3000 --scenes 7000 --scene-people 6560 --steps 800 --tail 0 --mosaic 0.5 --seed 127",
    ),
    "d": _mean(
        "d-8b/last.pt d-4/last.pt d-6b/last.pt", "--weights 2 1 1 --network yolox-cspnext-s --calibrate d-3/pool"
    ),
}  # fmt: skip

# Of each model in the box, the part that makes it and its file there.
MODELS = {
    "dwpose-nano": ("nano", "dwpose-nano.safetensors"),
    "dwpose-t-synthetic": ("t", T),
    "dwpose-s-synthetic": ("s", S),
    "yolox-cspnext-s": ("d", D),
}


def needs(name: str) -> list[str]:
    """The parts whose files the command of a part names, in its order."""
    folders = (word.split("/")[0] for word in PARTS[name].command.split() if "/" in word)
    return list(dict.fromkeys(folders))


def parts_of(models: list[str]) -> list[str]:
    """What has to be run for some of MODELS, in an order in which nothing is missing."""
    order: dict[str, None] = {}

    def visit(name: str) -> None:
        for earlier in needs(name):
            visit(earlier)
        order[name] = None

    for model in models:
        visit(MODELS[model][0])
    return list(order)
