"""`dwpose extract` and `dwpose stats`: their options and what they do."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def add_commands(command, add_networks, add_drawing) -> None:
    sub = command(
        "extract",
        "pose maps and keypoints of a whole collection, resumable, on one machine or many",
        """
        dwpose extract photos/ --out poses/                                    mirrored tree of maps
        dwpose extract photos/ --out set/ --output-format imagefolder          for diffusers' ControlNet trainers
        dwpose extract 'shards/*.tar' --out poses/ --output-format webdataset
        dwpose extract list.jsonl --out poses/ --keypoints jsonl npz coco --output-format dummy
        dwpose extract videos/ --out poses/ --overlay
        dwpose extract photos/ --out poses/ --devices 0,1,2,3
        dwpose extract photos/ --out poses/ --rank 3 --world-size 16
        dwpose extract photos/ --out poses/ --engine ray --ray-workers 8
        """,
    )
    sub.add_argument(
        "source", help="folder, glob, .txt/.csv/.jsonl list, .tar or .parquet files, saved dataset, videos"
    )
    sub.add_argument("--out", required=True, help="output folder or fsspec URL (s3://, gs://, ...)")
    what = sub.add_argument_group("what is read and written")
    formats = ("auto", "folder", "list", "webdataset", "parquet", "dataset", "video")
    what.add_argument("--input-format", choices=formats, default="auto", help="what SOURCE is")
    outputs = ("files", "imagefolder", "webdataset", "parquet", "dummy")
    what.add_argument("--output-format", choices=outputs, default="files", help="layout of the maps; dummy draws none")
    what.add_argument(
        "--keypoints", nargs="*", choices=("jsonl", "npz", "coco"), default=["jsonl"], help="keypoint files per shard"
    )
    what.add_argument("--map-format", choices=("png", "webp"), default="png", help="webp is lossless")
    what.add_argument("--overlay", action="store_true", help="videos: also the poses over the pictures, with the sound")
    what.add_argument("--image-column", default="image", help="of lists and tables")
    what.add_argument("--text-column", default="text", help="of lists and tables")
    what.add_argument("--samples-per-shard", type=int, help="default: 10000 images, or one video")
    what.add_argument(
        "--detect-resolution", type=int, metavar="N", help="shrink to this short side before the networks"
    )
    runs = sub.add_argument_group("the run")
    runs.add_argument("--overwrite", action="store_true", help="start over; default is to go on where a run stopped")
    runs.add_argument("--limit", type=int, help="only the first so many inputs")
    runs.add_argument("--dry-run", action="store_true", help="say what would be done")
    runs.add_argument("--max-failures", type=int, help="stop when more items than this failed")
    runs.add_argument("--log", choices=("line", "json", "none"), default="line", help="json: one object per line")
    hosts = sub.add_argument_group("machines")
    hosts.add_argument("--devices", help="one worker for each: 0,1,2,3 are GPUs; cpu,cpu works too")
    hosts.add_argument("--rank", type=int, help="this machine's number (default: as torchrun or Slurm say)")
    hosts.add_argument("--world-size", type=int, help="how many machines")
    hosts.add_argument(
        "--decoders", type=int, help="processes that decode and encode, per device (default: cores, max 8)"
    )
    hosts.add_argument("--streams", type=int, help="chunks in the networks at once (default: cores; 2 on a GPU)")
    hosts.add_argument("--engine", choices=("native", "ray"), default="native", help="what spreads the work")
    hosts.add_argument("--ray-workers", type=int, default=1, help="workers on the Ray cluster")
    hosts.add_argument("--ray-address", help="of a running cluster; 'auto' finds one")
    add_networks(sub)
    from ..video_cli import add_steady

    add_steady(sub)
    add_drawing(sub)
    sub.set_defaults(run="extract")

    sub = command(
        "stats",
        "what an extraction gave: counts, failures, people per image, scores, and a page with pictures",
        "dwpose stats poses/",
    )
    sub.add_argument("folder", help="the --out of `dwpose extract`")
    sub.add_argument("--samples", type=int, default=12, help="pictures on the page")
    sub.set_defaults(run="stats")


def config_from(args: argparse.Namespace):
    """`extract.Config` of the parsed options."""
    from ..arguments import drawing_from, parse_size
    from .plan import Config
    from .sources import detect_format

    input_format = detect_format(args.source) if args.input_format == "auto" else args.input_format
    options = {
        "detector_threshold": args.detector_threshold,
        "nms_threshold": args.nms_threshold,
        "keypoint_threshold": args.threshold,
        "max_people": args.max_people,
        "flip_test": args.flip_test,
        "refine": True if args.refine else None,
        "image_batch": args.batch_size,
    }
    steady = {"max_gap": args.max_gap, "min_cutoff": args.min_cutoff, "beta": args.beta, "smooth": not args.no_smooth}
    return Config(
        source=args.source if "://" in args.source else os.path.abspath(args.source),
        out=args.out if "://" in args.out else os.path.abspath(args.out),
        input_format=input_format,
        output_format=args.output_format,
        keypoints=tuple(sorted(set(args.keypoints))),
        samples_per_shard=args.samples_per_shard or (1 if input_format == "video" else 10_000),
        limit=args.limit,
        image_column=args.image_column,
        text_column=args.text_column,
        detect_resolution=args.detect_resolution,
        pose=args.pose,
        detector=None if args.detector == "none" else args.detector,
        dtype=args.dtype,
        backend=args.backend,
        options=options,
        style=drawing_from(args),
        draw_size=args.draw_size and parse_size(args.draw_size),
        map_format=args.map_format,
        overlay=args.overlay,
        steady=None if args.raw else steady,
    )


def extract(args: argparse.Namespace) -> int:
    from .extract import Machine
    from .plan import make_plan
    from .run import TooManyFailures, failures, rank_and_world, remove_output, run, summarise
    from .storage import Storage

    config = config_from(args)
    rank, world = rank_and_world(args.rank, args.world_size)
    decoders = min(8, os.cpu_count() or 1) if args.decoders is None else args.decoders
    device = args.device
    if device is None and "LOCAL_RANK" in os.environ and world > 1 and not args.devices:
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else None
    machine = Machine(device, args.provider, args.cache_dir, args.offline, decoders, args.streams)
    devices = [f"cuda:{d}" if d.isdecimal() else d for d in args.devices.split(",")] if args.devices else None
    if args.dry_run:
        return _dry_run(config)
    if args.overwrite and rank == 0:
        remove_output(config.out)
    try:
        if args.engine == "ray":
            from .ray_engine import run_on_ray

            summary = run_on_ray(
                config, machine, workers=args.ray_workers, address=args.ray_address, max_failures=args.max_failures,
                log=args.log,
            )  # fmt: skip
            rank, world = 0, 1
        else:
            summary = run(
                config, machine, devices=devices, rank=rank, world=world, max_failures=args.max_failures, log=args.log
            )
        stopped = None
    except (TooManyFailures, RuntimeError) as error:
        stopped = str(error)
    storage = Storage(config.out)
    plan = make_plan(config, storage)
    mine = range(rank, plan.shards, world)
    if stopped:
        summary = summarise(storage, plan, mine)
        print(f"dwpose: {stopped}", file=sys.stderr)
    for row in failures(storage, plan, mine, 10):
        print(f"failed: {row['key']}: {row['message']}", file=sys.stderr)
    if args.log != "json":
        rest = f", in {summary.seconds:.0f} s" if summary.seconds else ""
        print(
            f"{summary.ok} of {summary.items} inputs ok, {summary.failed} failed, {summary.people} people, "
            f"{summary.done} of {summary.shards} shards{rest}"
        )
        print(f"wrote {args.out}; every failure is in {args.out}/_dwpose/shards/*_report.jsonl")
    return 1 if stopped or summary.failed or summary.done < summary.shards else 0


def _dry_run(config) -> int:
    """Counts the inputs; writes nothing."""
    import itertools

    from . import sources
    from .plan import Plan, is_done
    from .storage import Storage

    storage = Storage(config.out)
    if storage.size("_dwpose/plan.json") is not None:
        plan = Plan(storage)
        done = sum(is_done(storage, shard) for shard in range(plan.shards))
        print(f"{plan.items} inputs in {plan.shards} shards, of which {done} are done")
        return 0
    listing = sources.items(
        config.source, config.input_format, skip=config.out if storage.local else "",
        image_column=config.image_column, text_column=config.text_column,
    )  # fmt: skip
    count = 0
    for item in itertools.islice(listing, config.limit):
        if count < 5:
            print(f"{item['path']} -> {item['key']}")
        count += 1
    shards = -(-count // config.samples_per_shard)
    print(f"{count} inputs ({config.input_format}) in {shards} shards as {config.output_format}; nothing was written")
    return 0 if count else 1


def stats(args: argparse.Namespace) -> int:
    from .stats import collect, text, write_page

    found = collect(args.folder)
    print(text(found))
    print(f"wrote {write_page(found, args.samples)}")
    return 0


def redraw(source: Path, out: Path, size: int | tuple[int, int] | None, style: dict) -> int:
    """Maps of stored keypoints, OUT/<key>.png, for `dwpose render`: a keypoints .jsonl(.gz), or a folder of them."""
    from tqdm import tqdm

    from ..images import atomic_write
    from .decode import Drawing
    from .sinks import read_keypoint_rows

    files = [source] if source.is_file() else sorted((source / "keypoints").rglob("*.jsonl.gz"))
    if not files:
        raise ValueError(f"no keypoints .jsonl.gz in {source}; `dwpose extract --keypoints jsonl` writes them")
    drawing, count = Drawing(style, size), 0
    for file in tqdm(files, unit="file", disable=len(files) == 1):
        for key, people in read_keypoint_rows(file.read_bytes()):
            with atomic_write(out / f"{key}.png") as temporary:
                temporary.write_bytes(drawing.encode(people))
            count += 1
    print(f"{count} maps; wrote {out}")
    return 0
