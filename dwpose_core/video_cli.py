"""`dwpose video`: its options and what it does."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path


def add_command(command, add_networks, add_drawing) -> None:
    sub = command(
        "video",
        "pose video of a video: same frames, same times",
        """
        dwpose video in.mp4 -o pose.mp4
        dwpose video in.mp4 -o pose.mp4 --overlay both.mp4 --keypoints pose.npz
        dwpose video phone.mov -o pose.mp4 --draw-size 512 --beta 40
        dwpose video in.mp4 -o pose.mp4 --max-people 1 --fps 16
        dwpose video frames/ -o pose.mp4 --fps 24
        dwpose video in.mp4 -o pose.mp4 --raw
        """,
    )
    sub.add_argument("input", help="any video FFmpeg reads, an animated WebP, or a folder of frames")
    sub.add_argument("-o", "--out", required=True, metavar="FILE.mp4", help="the pose maps")
    sub.add_argument("--overlay", metavar="FILE.mp4", help="also the poses over the pictures, with the sound")
    sub.add_argument("--keypoints", metavar="FILE", help="also the keypoints of all frames: .npz, or .json (OpenPose)")
    sub.add_argument("--fps", type=float, help="rate of a folder of frames (default: 25); videos are resampled to it")
    add_networks(sub).add_argument(
        "--detect-every", type=int, default=1, metavar="N", help="look for people in every Nth frame only: faster"
    )
    add_steady(sub)
    add_drawing(sub)
    sub.set_defaults(run="video")


def add_steady(sub: argparse.ArgumentParser) -> None:
    calm = sub.add_argument_group(
        "from frame to frame", "The people that --max-people keeps are the same ones as long as they are there."
    )
    calm.add_argument(
        "--max-gap", type=int, default=5, metavar="N", help="fill people and points missing for up to N frames"
    )
    calm.add_argument("--min-cutoff", type=float, default=1.0, help="Hz; lower: points at rest jitter less")
    calm.add_argument("--beta", type=float, default=20.0, help="higher: fast points lag less")
    calm.add_argument("--no-smooth", action="store_true", help="ids and gaps only")
    calm.add_argument("--raw", action="store_true", help="every frame by itself: no ids, no filling, no smoothing")


def steady_from(args: argparse.Namespace):
    """A fresh `tracking.Steady` as the options say; None with --raw."""
    from .tracking import GapFiller, OneEuro, Steady, Tracker

    if args.raw:
        return None
    seen = {"threshold": args.threshold}
    euro = None if args.no_smooth else OneEuro(min_cutoff=args.min_cutoff, beta=args.beta, **seen)
    return Steady(Tracker(max_people=args.max_people, **seen), GapFiller(args.max_gap, **seen), euro)


def check_targets(source: str, *targets: str | None) -> None:
    """Raises ValueError where two of the files would be one."""
    from .images import place_of

    names = [source, *filter(None, targets)]
    for i, name in enumerate(names):
        for other in names[:i]:
            if place_of(name) == place_of(other):
                what = "is the input" if other == source else "is named twice"
                raise ValueError(f"{name} {what}; write to another file")


def video(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .arguments import describe, draw_size, drawing_from, load_networks
    from .clips import open_clip
    from .formats import save_npz, to_openpose
    from .images import atomic_write, check_writable
    from .keyframes import SparseDetection
    from .video import check_video_name, pose_video

    check_targets(args.input, args.out, args.overlay, args.keypoints)
    for name in filter(None, (args.out, args.overlay)):
        check_video_name(name)
    keypoints = args.keypoints and Path(args.keypoints)
    if keypoints and keypoints.suffix not in (".npz", ".json"):
        raise ValueError(f"--keypoints is written as .npz or .json, not as {keypoints.name}")
    drawing = drawing_from(args)
    steady = steady_from(args)
    stored, frames, seen, ids = [], 0, 0, set()
    with ExitStack() as leave:
        clip = leave.enter_context(open_clip(args.input, args.fps))  # before the networks: a wrong name, told at once
        for name in filter(None, (args.out, args.overlay, keypoints)):
            check_writable(name)
        kept = keypoints and leave.enter_context(atomic_write(keypoints))
        detector = load_networks(args)
        detect, batch_size = detector.detect, args.batch_size
        if args.detect_every != 1:
            detect = SparseDetection(detector, args.detect_every)
            batch_size = detect.chunk(batch_size)
        poses = pose_video(
            clip,
            # Whom to keep is for the tracker to say: the surest box may be somebody else's in the next frame.
            detect if steady is None else partial(detect, max_people=None),
            map_path=args.out,
            overlay_path=args.overlay,
            steady=steady,
            batch_size=batch_size,
            draw_size=lambda people: draw_size(args.draw_size, people),
            drawing=drawing,
        )
        with closing(poses):
            for people in tqdm(poses, total=clip.frame_count, unit="frame"):
                frames += 1
                seen += len(people)
                ids.update([] if people.id is None else people.id.tolist())
                if keypoints:
                    stored.append(people)
        if keypoints and keypoints.suffix == ".npz":
            save_npz(kept, stored)
        elif keypoints:
            kept.write_text(json.dumps(to_openpose(stored, threshold=args.threshold)))
    tracks = "" if args.raw else f", {len(ids)} tracks"
    rate = f"{frames} frames at {float(clip.fps):g} per second"
    print(f"{rate}, {seen / frames:.1f} people each{tracks}; {describe(detector)}")
    print("wrote " + ", ".join(str(name) for name in (args.out, args.overlay, keypoints) if name))
    if args.overlay and not clip.has_audio:
        print("the input has no sound", file=sys.stderr)
    announced = clip.frame_count or 0
    if frames < 0.97 * announced - 2:  # headers may be off by a frame or two
        print(f"failed: {args.input} ends after {frames} of the {announced} frames it announces", file=sys.stderr)
        return 1
    return 0
