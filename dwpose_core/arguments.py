"""What several subcommands of `dwpose` make of their options: networks, drawing, sizes."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

import torch

from .geometry import map_size
from .people import People
from .pipeline import Options

if TYPE_CHECKING:
    from .preprocessor import DWposeDetector


def options_from(args: argparse.Namespace) -> dict:
    """Keywords of `Options` from the arguments of `cli._add_networks`."""
    return {
        "detector_threshold": args.detector_threshold,
        "detector_size": args.detector_size,
        "nms_threshold": args.nms_threshold,
        "keypoint_threshold": args.threshold,
        "max_people": args.max_people,
        "flip_test": args.flip_test,
        "refine": True if args.refine else None,
        "image_batch": args.batch_size,
    }


def load_networks(args: argparse.Namespace, with_detector: bool = True) -> DWposeDetector:
    """The networks that the options of `cli._add_networks` name."""
    from .preprocessor import DWposeDetector

    options = Options(**options_from(args))
    return DWposeDetector.from_pretrained(
        args.pose,
        args.detector if with_detector and args.detector != "none" else None,
        device=args.device,
        dtype=args.dtype and getattr(torch, args.dtype),
        backend=args.backend,
        provider=args.provider,
        cache_dir=args.cache_dir,
        local_files_only=args.offline,
        options=options,
    )


def describe(detector: DWposeDetector) -> str:
    """Which weights on which device."""
    return " + ".join(runner.description for runner in (detector.detector, detector.pose) if runner is not None)


def drawing_from(args: argparse.Namespace) -> dict:
    """Keywords of `render.render`, the same for every image."""
    from .render import STYLES

    if args.style not in STYLES:
        raise ValueError(f"unknown style {args.style!r}; choose one of {', '.join(STYLES)}")
    if args.draw_size:
        parse_size(args.draw_size)
    if not 0 < args.thickness < math.inf:  # before the networks: no map of a million could be drawn
        raise ValueError(f"--thickness must be a positive factor, got {args.thickness:g}")
    if args.feet and args.no_body:
        raise ValueError("--feet are drawn with the body: leave out --no-body")
    return {
        "style": args.style,
        "parts": [part for part in ("body", "hand", "face") if not getattr(args, f"no_{part}")],
        "feet": args.feet,
        "threshold": args.threshold,
        "thickness": args.thickness,
        "color_by_person": args.color_by_person,
    }


def draw_size(text: str | None, people: People) -> tuple[int, int]:
    """(H, W) of the map: as said, or as the image."""
    return map_size(text and parse_size(text), people.image_size)


def parse_size(text: str) -> tuple[int, int] | int:
    """ "1024" -> 1024, "1024x1536" (width x height) -> (1536, 1024)."""
    sides = text.lower().split("x")
    if not all(side.isdecimal() and int(side) > 0 for side in sides) or len(sides) > 2:
        raise ValueError(f"size must be a number or WIDTHxHEIGHT in pixels, got {text!r}")
    return int(sides[0]) if len(sides) == 1 else (int(sides[1]), int(sides[0]))
