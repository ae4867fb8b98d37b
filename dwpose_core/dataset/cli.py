"""`dwpose extract` and `dwpose stats`: their options and what they do."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

_SHOWN = 10  # rows printed at the end


def add_commands(command, add_networks, add_drawing) -> None:
    sub = command(
        "extract",
        "pose maps and keypoints of a whole collection, resumable, on one machine or many",
        """
        dwpose extract photos/ --out poses/                                    mirrored tree of maps
        dwpose extract photos/ --out set/ --output-format imagefolder          for diffusers' ControlNet trainers
        dwpose extract "shards/*.tar" --out poses/ --output-format webdataset
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
    what.add_argument("--image-column", default="image", metavar="NAME", help="pictures or paths in lists and tables")
    what.add_argument(
        "--text-column", default="text", metavar="NAME", help="captions; text also finds caption and prompt"
    )
    what.add_argument("--samples-per-shard", type=int, help="default: 10000 images, or one video")
    what.add_argument(
        "--detect-resolution", type=int, metavar="N", help="shrink to this short side before the networks"
    )
    what.add_argument("--min-people", type=int, default=0, metavar="N", help="leave images of fewer people out")
    what.add_argument(
        "--min-body",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="leave images out in which nobody shows this share of the 17 body points",
    )
    runs = sub.add_argument_group("the run")
    runs.add_argument("--overwrite", action="store_true", help="start over; default is to go on where a run stopped")
    runs.add_argument("--retry-failed", action="store_true", help="do shards again in which something failed")
    runs.add_argument("--limit", type=int, metavar="N", help="only the first N inputs")
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
    hosts.add_argument("--engine", choices=("native", "ray"), default="native", help="how the work is distributed")
    hosts.add_argument("--ray-workers", type=int, default=1, help="workers on the Ray cluster")
    hosts.add_argument("--ray-address", help="address of a running cluster; 'auto' finds one")
    add_networks(sub)
    from ..video_cli import add_steady

    add_steady(sub)
    add_drawing(sub)
    sub.set_defaults(run="extract", defaults={name: sub.get_default(name) for names, *_ in _ONLY_FOR for name in names})

    sub = command(
        "stats",
        "report on an extraction: counts, failures, people per image, scores, and a page with pictures",
        "dwpose stats poses/",
    )
    sub.add_argument("folder", help="the --out of `dwpose extract`")
    sub.add_argument("--samples", type=int, default=12, help="pictures on the page")
    sub.set_defaults(run="stats")


def config_from(args: argparse.Namespace):
    """`extract.Config` of the parsed options."""
    from ..arguments import drawing_from, options_from, parse_size
    from .plan import Config
    from .sources import detect_format

    for what, value in (("SOURCE", args.source), ("--out", args.out)):
        if not value:  # a variable of the shell that is not set is not the folder we are in
            raise ValueError(f"{what} is empty; give a name, or . for the folder you are in")
    input_format = detect_format(args.source) if args.input_format == "auto" else args.input_format
    steady = {"max_gap": args.max_gap, "min_cutoff": args.min_cutoff, "beta": args.beta, "smooth": not args.no_smooth}
    shard = args.samples_per_shard
    return Config(
        source=args.source if "://" in args.source else os.path.abspath(args.source),
        out=args.out if "://" in args.out else os.path.abspath(args.out),
        input_format=input_format,
        output_format=args.output_format,
        keypoints=tuple(sorted(set(args.keypoints))),
        samples_per_shard=(1 if input_format == "video" else 10_000) if shard is None else shard,
        limit=args.limit,
        image_column=args.image_column,
        text_column=args.text_column,
        detect_resolution=args.detect_resolution,
        min_people=args.min_people,
        min_body=args.min_body,
        pose=args.pose,
        detector=None if args.detector == "none" else args.detector,
        dtype=args.dtype,
        backend=args.backend,
        options=options_from(args),
        style=drawing_from(args),
        draw_size=args.draw_size and parse_size(args.draw_size),
        map_format=args.map_format,
        overlay=args.overlay,
        steady=None if args.raw else steady,
    )


# Options, what they are for, and when they have an effect: others are refused rather than passed over in silence.
_ONLY_FOR = (
    (
        ("raw", "max_gap", "min_cutoff", "beta", "no_smooth"),
        "videos",
        lambda config, args: config.input_format == "video",
    ),
    (
        ("image_column", "text_column"),
        "lists with columns and tables",
        lambda config, args: (
            config.input_format in ("parquet", "dataset") or args.source.lower().endswith((".csv", ".tsv", ".jsonl"))
        ),
    ),
    (
        ("map_format", "style", "draw_size", "thickness", "no_body", "no_hand", "no_face", "feet", "color_by_person"),
        "maps",
        lambda config, args: config.output_format != "dummy",
    ),
    (("ray_workers", "ray_address"), "--engine ray", lambda config, args: args.engine == "ray"),
    (("devices", "rank", "world_size"), "--engine native", lambda config, args: args.engine == "native"),
)


def check_effect(args: argparse.Namespace, config) -> None:
    """Raises ValueError for an option that would have no effect, or a number that makes no sense."""
    from ..pipeline import Options

    for names, what, has_effect in _ONLY_FOR:
        said = [name for name in names if getattr(args, name) != args.defaults[name]]
        if said and not has_effect(config, args):
            raise ValueError(f"--{said[0].replace('_', '-')} is for {what}, and has no effect here; leave it out")
    if args.devices and args.device is not None:
        raise ValueError("--device and --devices both say where to work; leave one out")
    if args.devices and not all(args.devices.split(",")):
        raise ValueError(f"--devices has a comma too many: {args.devices!r}")
    for name, least in (("decoders", 0), ("streams", 1), ("ray_workers", 1), ("max_failures", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    Options(**config.options)


def extract(args: argparse.Namespace) -> int:
    from ..models.download import WeightsUnavailable
    from .extract import Machine
    from .plan import Plan
    from .run import rank_and_world, run
    from .storage import Storage

    config = config_from(args)
    check_effect(args, config)
    rank, world, said_by = (0, 1, "") if args.engine == "ray" else rank_and_world(args.rank, args.world_size)
    decoders = min(8, os.cpu_count() or 1) if args.decoders is None else args.decoders
    device = args.device
    if device is None and "LOCAL_RANK" in os.environ and world > 1 and not args.devices:
        import torch

        device = f"cuda:{os.environ['LOCAL_RANK']}" if torch.cuda.is_available() else None
    machine = Machine(device, args.provider, args.cache_dir, args.offline, decoders, args.streams)
    devices = [f"cuda:{d}" if d.isdecimal() else d for d in args.devices.split(",")] if args.devices else None
    if args.dry_run:
        return _dry_run(config, args.overwrite, args.retry_failed, args.log == "line")
    if world > 1:
        print(f"dwpose: rank {rank} of {world} (from {said_by}): every {world}th shard is done here", file=sys.stderr)
    stopped, seconds = None, 0.0
    common = {"max_failures": args.max_failures, "log": args.log, "overwrite": args.overwrite}
    common |= {"retry_failed": args.retry_failed}
    storage = Storage(config.out)
    try:
        if args.engine == "ray":
            from .ray_engine import run_on_ray

            run_on_ray(config, machine, workers=args.ray_workers, address=args.ray_address, **common)
        else:
            seconds = run(config, machine, devices=devices, rank=rank, world=world, **common).seconds
    except WeightsUnavailable:
        raise
    except RuntimeError as error:
        stopped = error
        if storage.size("_dwpose/plan.json") is None:
            print(f"dwpose: {error}", file=sys.stderr)
            return 1
    return _report(args, storage, Plan(storage), rank, world, stopped, seconds)


def _report(args, storage, plan, rank: int, world: int, stopped: RuntimeError | None, seconds: float) -> int:
    """Says what is done and what is not; returns the exit code."""
    from .plan import describe
    from .run import TooManyFailures, remarks, summarise

    mine = range(rank, plan.shards, world)
    summary = summarise(storage, plan, mine)
    lost = {row["key"]: row for row in getattr(stopped, "rows", ())}  # those of a given-up shard are stored nowhere
    shown, count = [], 0
    for count, row in enumerate(remarks(storage, mine), 1):
        lost.pop(row["key"], None)
        shown += [row] if count <= _SHOWN else []
    if stopped:
        print(f"dwpose: {stopped}", file=sys.stderr)
    shown = [*lost.values(), *shown][:_SHOWN]
    for row in shown:
        kind = "incomplete" if row["status"] == "ok" else "failed"
        print(f"{kind}: {row['key']}: {row['message']}", file=sys.stderr)
    if len(lost) + count > len(shown):
        print(f"... and {len(lost) + count - len(shown)} more", file=sys.stderr)
    if plan.left_out:
        print(f"dwpose: not read: {describe(plan.left_out)}", file=sys.stderr)
    if args.log != "json":
        rest = f", in {seconds:.0f} s" if seconds else ""
        without = f" ({summary.left_out} left out)" if summary.left_out else ""
        print(
            f"{summary.ok} of {summary.items} inputs ok{without}, {summary.failed + len(lost)} failed, "
            f"{summary.people} people, {summary.done} of {summary.shards} shards{rest}"
        )
        if world > 1:
            whole = summarise(storage, plan, range(plan.shards))
            print(
                f"of all ranks: {whole.ok} of {whole.items} inputs ok, {whole.failed} failed, "
                f"{whole.done} of {whole.shards} shards"
            )
        again = " of finished shards" if isinstance(stopped, TooManyFailures) else ""
        print(f"wrote {args.out}; every failure{again} is in {args.out.rstrip('/')}/_dwpose/shards/*_report.jsonl")
    return 1 if stopped or summary.failed or summary.done < summary.shards else 0


def _dry_run(config, overwrite: bool, retry_failed: bool, show: bool) -> int:
    """Counts the inputs; writes nothing."""
    import itertools
    import json
    import tempfile

    from .plan import check_outputs, describe, has_failures, is_done, list_inputs, present_plan
    from .storage import Storage

    storage = Storage(config.out)
    if not overwrite and (plan := present_plan(config, storage)) is not None:
        done = [shard for shard in range(plan.shards) if is_done(storage, shard)]
        again = sum(has_failures(storage, shard) for shard in done)
        retry = "which would be done again" if retry_failed else "see --retry-failed"
        rest = f"; something failed in {again} of these, {retry}" if again else ""
        print(f"{plan.items} inputs in {plan.shards} shards, of which {len(done)} are done{rest}")
        return 0
    with tempfile.TemporaryDirectory(prefix="dwpose-") as name:
        folder = Path(name)
        shards = list_inputs(config, storage, folder, show)
        check_outputs(config, storage, folder, shards, overwrite)
        about = json.loads((folder / "plan.json").read_text())
        with open(folder / "plan.jsonl", "rb") as file:
            for item in map(json.loads, itertools.islice(file, 5)):
                print(f"{item['path']} -> {item['key']}".encode(errors="backslashreplace").decode())
    if about["left_out"]:
        print(f"not read: {describe(about['left_out'])}")
    print(
        f"{about['items']} inputs ({config.input_format}) in {shards} shards as {config.output_format}; "
        f"nothing was written"
    )
    return 0


def stats(args: argparse.Namespace) -> int:
    from .stats import collect, text, write_page

    found = collect(args.folder)
    print(text(found))
    print(f"wrote {write_page(found, args.samples)}")
    return 0
