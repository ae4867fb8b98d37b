"""`dwpose animate`: its options and what it does."""

from __future__ import annotations

import argparse
from pathlib import Path

# As Wan2.2's own preprocessing names them, and its `generate.py --src_root_path` reads them.
POSE, FACE, REFERENCE = "src_pose.mp4", "src_face.mp4", "src_ref.png"


def add_command(command, add_networks) -> None:
    sub = command(
        "animate",
        "pose and face video for Wan-Animate and other animation models",
        """
        dwpose animate dance.mp4 --reference portrait.png --retarget -o inputs/
        dwpose animate frames/ --source-fps 24 --reference portrait.png -o inputs/
        dwpose animate dance.mp4 --style dwpose --people 0 --fps 16 -o inputs/       VACE, ControlNets
        """,
    )
    sub.add_argument("driving", help="the motion: any video FFmpeg reads, or a folder of frames")
    sub.add_argument("-o", "--out", required=True, metavar="DIR", help=f"folder for {POSE}, {FACE} and {REFERENCE}")
    sub.add_argument("--reference", metavar="IMAGE", help="the character; the videos get the shape of this picture")
    sub.add_argument("--retarget", action="store_true", help="give the motion the character's proportions and place")
    sub.add_argument("--fps", type=float, default=30.0, help="frame rate of the result; 0: as the driving video")
    sub.add_argument("--source-fps", type=float, help="frame rate of a folder of frames (default: as --fps)")
    sub.add_argument("--max-pixels", type=int, default=1280 * 720, help="width times height of the result, at most")
    sub.add_argument("--style", default="wan-animate", help="wan-animate, openpose, dwpose or xinsir")
    sub.add_argument("--people", type=int, default=1, help="how many people, the first by --select; 0: everyone")
    sub.add_argument(
        "--select", default="largest", help="by their mean rank over the clip: largest, centre, score, left or index"
    )
    sub.add_argument("--steadiness", type=float, default=0.05, help="seconds the path of the face is averaged over")
    sub.add_argument("--threshold", type=float, default=0.3, help="score from which a keypoint counts as seen")
    add_networks(sub)
    sub.set_defaults(run="animate")


def animate(args: argparse.Namespace) -> int:
    import numpy as np

    from .animate import prepare_animation
    from .arguments import describe, load_networks
    from .clips import Rate, open_clip
    from .images import check_writable, place_of, read_image, write_image
    from .video import VideoWriter
    from .video_cli import check_targets

    out = Path(args.out)
    check_targets(args.driving, *(str(out / name) for name in (POSE, FACE)))
    reference = None if args.reference is None else read_image(args.reference)
    with open_clip(args.driving, args.source_fps if Path(args.driving).is_dir() else None):
        pass  # before the networks: a wrong name should not take seconds
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; -o names a folder")
    if reference is not None and place_of(args.driving) == place_of(out):
        raise ValueError(f"{REFERENCE} would be one of the frames in {out}; write to another folder")
    check_writable(out / POSE)
    detector = load_networks(args)
    animation = prepare_animation(
        args.driving,
        detector,
        reference=reference,
        retarget=args.retarget,
        fps=args.fps or None,
        source_fps=args.source_fps,
        max_pixels=args.max_pixels,
        style=args.style,
        people=args.people or None,
        select=args.select,
        steadiness=args.steadiness,
        batch_size=args.batch_size,
    )
    written, rate = [POSE, FACE], Rate.of(animation.fps)
    for name, pictures in ((POSE, animation.pose_video), (FACE, animation.face_video)):
        with VideoWriter(out / name, rate) as film:
            for number, picture in enumerate(pictures):
                film.write(np.asarray(picture), number / rate.fps)
    # The picture may lie there already, and with more in it than is written: transparency, 16 bits.
    if reference is not None and place_of(args.reference) != place_of(out / REFERENCE):
        write_image(out / REFERENCE, reference)
        written.append(REFERENCE)
    shape = f"{animation.width} x {animation.height}"
    print(f"{len(animation.people)} frames of {shape} at {animation.fps:g} per second; {describe(detector)}")
    print(f"wrote {', '.join(written)} in {out}")
    return 0
