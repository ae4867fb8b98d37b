"""What the starter's recipes render and mix: people, scenes and objects, and the crops made of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from .starter_phases import MORE
from .synthetic.composite import CLOSE, CROWDED, MILD, PARTIAL, QUIET, STRONG, TUMBLING, VACANT
from .synthetic.generate import generate
from .synthetic.objects import generate_objects
from .synthetic.pool import build_pool
from .synthetic.scene_crops import build_scene_pool
from .synthetic.scene_set import generate_scenes

CROPS_EACH = 3  # of each person rendered in scenes
LAYER_SIZE = (192, 256)  # (W, H) of rendered people, margin included
SCENE_SIDE = 400  # longer side of scenes rendered as a whole, px; most people in them are smaller than a crop
OBJECTS = 1500  # rendered things that are not people
HELD_OUT = 600  # people nobody trains on


def pool_size(network: str) -> tuple[int, int]:
    """(W, H) of stored crops: the largest that a phase asks for."""
    return max(phase.size for phase in MORE[network])[::-1]


def scene_people(args: argparse.Namespace) -> int:
    """How many people are rendered in whole scenes."""
    return args.people // 2 if args.scene_people is None else args.scene_people


def prepare(args: argparse.Namespace, out: Path) -> None:
    """Layers and pools that do not exist yet."""
    held_out, size = args.held_out, pool_size(args.network)
    close = held_out * 2 // 3
    drawn = {name for phase in MORE[args.network] for name, _ in phase.pools}
    in_scenes = scene_people(args)
    jobs = (
        ("layers", args.people, args.seed, "usual"),
        ("close_layers", args.people // 2, args.seed + 20, "close-ups"),
        ("hand_layers", args.people // 2 if "hands" in drawn else 0, args.seed + 40, "hands"),
        ("held_out", held_out, args.seed + 1000, "usual"),
        ("close_held_out", close, args.seed + 1020, "close-ups"),
        ("hand_held_out", held_out // 2, args.seed + 1040, "hands"),
    )
    for folder, people, seed, framings in jobs:
        if people and not (out / folder / f"labels_{seed:04d}.npz").is_file():
            extra = {"with_accessories": folder != "held_out", "framings": framings}
            generate(args.assets, out / folder, people, seed, args.workers, LAYER_SIZE, **extra)
    if not (out / "scenes" / "annotations.json").is_file():
        generate_scenes(args.assets, out / "scenes", in_scenes, args.seed + 5, args.workers, SCENE_SIDE)
    if not (out / "held_out_scenes" / "annotations.json").is_file():
        generate_scenes(args.assets, out / "held_out_scenes", held_out, args.seed + 1005, args.workers, SCENE_SIDE)
    if not (out / "objects" / "done").is_file():
        generate_objects(args.assets, out / "objects", args.things, args.seed, args.workers)
    # A crop's surroundings follow from its seed and number, so tests have seeds of their own.
    pools = (
        ("strong", "layers", args.crops, args.seed, STRONG),
        ("crowded", "layers", args.crops * 2 // 7, args.seed + 5, CROWDED),
        ("mild", "layers", args.crops // 6, args.seed + 1, MILD),
        ("quiet", "layers", args.crops // 20, args.seed + 2, QUIET),
        ("vacant", "layers", args.crops // 6, args.seed + 3, VACANT),
        ("tumbling", "layers", args.crops // 5, args.seed + 7, TUMBLING),
        ("partial", "layers", args.crops * 2 // 5, args.seed + 9, PARTIAL),
        ("close", "close_layers", args.crops // 2, args.seed + 4, CLOSE),
        ("hands", "hand_layers", args.crops // 2, args.seed + 8, CLOSE),
        ("test_strong", "held_out", held_out, args.seed + 2000, STRONG),
        ("test_plain", "held_out", held_out, args.seed + 2001, None),
        ("test_partial", "held_out", held_out, args.seed + 2009, PARTIAL),
        ("test_close", "close_held_out", close, args.seed + 2004, None),
        ("test_hands", "hand_held_out", held_out // 2, args.seed + 2008, None),
    )
    for name, folder, count, seed, disturb in pools:
        wanted = name in drawn or name.startswith("test_")
        if wanted and not (out / "pool" / f"{name}.npz").is_file():
            sources = (out / folder, out / "objects", args.assets)
            build_pool(*sources, out / "pool", name, count, seed, size, args.workers, disturb)
    scene_pools = (("scenes", "scenes", CROPS_EACH * in_scenes), ("test_scenes", "held_out_scenes", held_out))
    for name, folder, count in scene_pools:
        if not (out / "pool" / f"{name}.npz").is_file():
            build_scene_pool(out / folder, out / "pool", name, count, args.seed + 6, size, args.workers)
