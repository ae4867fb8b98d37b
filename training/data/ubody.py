"""UBody (Lin et al., CVPR 2023, arXiv 2303.16160): videos to frames, annotations to train and test files.

    python -m training.data.ubody data/UBody                        what the configurations in training/config.py read
    python -m training.data.ubody data/UBody --scenes Olympic --interval 1 --format png

Expects the layout of the release: videos/<scene>/.../<video>.mp4, annotations/<scene>/keypoint_annotation.json,
splits/intra_scene_test_list.npy. Writes images/<scene>/<video>/000010.jpg and per scene train_annotations.json and
val_annotations.json in COCO-WholeBody form.

The original cuts every video at 30 frames per second into PNGs and then trains on the images whose id is a multiple of
ten; only those are extracted here, as JPEG: a tenth of the frames at a fraction of the bytes. Only frames that are not
there yet are extracted, so an interrupted run continues, and another --interval or --format adds to the folders; the
annotation files name the frames of the last run's. Exit status 1 when a video is missing or damaged, all others are
used then.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from tqdm import tqdm

from dwpose_core.video import open_film

from ..checkpoint import write_atomic, write_json
from ..command import at_least_one, run
from ..pictures import imwrite
from .wholebody import read_coco, read_json

FRAME_RATE = 30  # the annotations count frames of `ffmpeg -r 30`, from 1
PAST_END = "past_end.json"  # beside the frames of a video: annotated frames that it does not have
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")


@dataclass(frozen=True)
class Frame:
    """One annotated image: its scene, the folder of its video, the frame number from 1, and the original entry."""

    scene: str
    video: str
    number: int
    image: dict

    @property
    def film(self) -> str:
        """The name that the split list uses: the video's, cut at `_Trim`."""
        return PurePosixPath(self.video).name.split("_Trim")[0]


def read_frames(annotation: Path, scene: str, interval: int) -> tuple[list[Frame], dict[int, list[dict]]]:
    """Images of a scene whose id is a multiple of `interval`, and the people of each image id.

    Raises:
        ValueError: when a file name is not <video>/<number>.<suffix>.
    """
    content = read_coco(annotation)
    people: dict[int, list[dict]] = {}
    for person in content["annotations"]:
        people.setdefault(person["image_id"], []).append(person)
    frames = []
    for image in content["images"]:
        if image["id"] % interval or image["id"] not in people:
            continue
        path = PurePosixPath(image["file_name"].lstrip("/"))  # some scenes have a leading slash
        if len(path.parts) < 2 or not path.stem.isdigit():
            raise ValueError(f"{annotation}: cannot tell video and frame from file_name {image['file_name']!r}")
        frames.append(Frame(scene, str(path.parent), int(path.stem), image))
    return frames, people


def frames_at_rate(video: Path, wanted: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, (H, W, 3) uint8 BGR) of the wanted frame numbers, counted from 1 at 30 frames per second.

    Number n shows the frame nearest to second (n - 1) / 30, as ffmpeg's constant frame rate does; for a video that has
    30 frames per second that is its n-th frame. Numbers past the end are left out. Raises as `decode` does.
    """
    if not wanted:
        return
    number, last = 1, max(wanted)
    start = None
    for frame in decode(video):
        start = frame.time if start is None else start
        # The frame fills all numbers not taken yet, up to the one nearest to its own moment. Ties go
        # to the earlier number; 0.05 allows for containers that store milliseconds.
        end = math.ceil((frame.time - start) * FRAME_RATE - 0.55) + 1
        image = None
        while number <= end:
            if number in wanted:
                image = frame.to_ndarray(format="bgr24") if image is None else image
                yield number, image
            number += 1
        if number > last:
            return


def decode(video: Path) -> Iterator:
    """The frames of a video, as PyAV gives them, with their times.

    Raises:
        ValueError: when it is damaged or no video.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError('reading videos needs PyAV: pip install "dwpose-torch[video]"') from error
    empty = True
    try:
        with open_film(video) as container:
            for stream in container.streams.video[:1]:
                stream.thread_type = "AUTO"
                for frame in container.decode(stream):
                    if frame.time is None:
                        raise ValueError(f"{video} has a frame without a time")
                    empty = False
                    yield frame
    except av.error.FFmpegError as error:
        raise ValueError(f"the video cannot be decoded ({error}); get it again") from error
    if empty:
        raise ValueError(f"{video} has no frames; get it again")


def past_end(folder: Path, video: Path | None) -> set[int]:
    """Frame numbers that an earlier run has looked for and that lie past the end of this very video."""
    note = folder / PAST_END
    if not note.is_file():
        return set()
    content = read_json(note)
    # Another size is another file, such as one that was downloaded again because it was cut off.
    return set(content["numbers"]) if video is None or content["video_bytes"] == video.stat().st_size else set()


def missing_frames(folder: Path, video: Path | None, numbers: set[int], suffix: str) -> set[int]:
    """Those of the wanted frame numbers that `folder` has no file of in this format, and that the video may have."""
    there = {int(path.stem) for path in folder.glob(f"*.{suffix}") if path.stem.isdigit()}
    return numbers - there - past_end(folder, video)


def extract_video(video: Path, target: Path, numbers: set[int], suffix: str, quality: int) -> tuple[int, int]:
    """Write the wanted frames of one video into the folder `target`; returns how many were written and missing.

    Frames go to a folder beside it first and move when the video is at its end, so `target` never has half a frame.
    What is there already stays: frames of another format or interval.

    Raises:
        ValueError: when the video cannot be decoded.
    """
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    options = (cv2.IMWRITE_JPEG_QUALITY, quality) if suffix == "jpg" else ()
    found = set()
    try:
        for number, image in frames_at_rate(video, numbers):
            path = part / f"{number:06d}.{suffix}"
            if not imwrite(path, image, options):
                raise OSError(f"could not write {path}: is the disk full?")
            found.add(number)
        target.mkdir(exist_ok=True)
        for path in part.iterdir():
            os.replace(path, target / path.name)
        if absent := numbers - found:
            absent |= past_end(target, video)
            write_json(target / PAST_END, {"video_bytes": video.stat().st_size, "numbers": sorted(absent)})
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return len(found), len(numbers - found)


def write_split(
    root: Path, scene: str, frames: list[Frame], people: dict[int, list[dict]], test_videos: set[str], suffix: str
) -> dict[str, int | None]:
    """train_annotations.json and val_annotations.json of the frames that exist; returns people per split.

    A split that would lose all of its people is left as it is, and counts as None: its frames are gone, or elsewhere.
    """
    counts: dict[str, int | None] = {}
    for split in ("train", "val"):
        wanted = [frame for frame in frames if (frame.film in test_videos) == (split == "val")]
        images, annotations = [], []
        for frame in wanted:
            name = f"{scene}/{frame.video}/{frame.number:06d}.{suffix}"
            if (root / "images" / name).is_file():
                images.append({**frame.image, "file_name": name})
                annotations += [{"category_id": 1, **person} for person in people[frame.image["id"]]]
        path = root / "annotations" / scene / f"{split}_annotations.json"
        if wanted and not annotations and path.is_file() and read_coco(path)["annotations"]:
            counts[split] = None
            continue
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        write_atomic(path, lambda temporary, content=content: temporary.write_text(json.dumps(content)))
        counts[split] = len(annotations)
    return counts


def prepare(root: Path, scenes: list[str], interval: int, suffix: str, quality: int, workers: int) -> list[str]:
    """Extract and split, see the top of this file; returns what went wrong, a line each."""
    test_list = np.load(root / "splits" / "intra_scene_test_list.npy", allow_pickle=False)
    test_videos = {str(name) for name in test_list}
    tables = {s: read_frames(root / "annotations" / s / "keypoint_annotation.json", s, interval) for s in scenes}
    wanted: dict[tuple[str, str], set[int]] = {}
    for scene, (frames, _) in tables.items():
        for frame in frames:
            wanted.setdefault((scene, frame.video), set()).add(frame.number)
    videos = {
        (scene, path.stem): path
        for scene in scenes
        for path in sorted((root / "videos" / scene).rglob("*"))
        if path.suffix.lower() in VIDEO_SUFFIXES
    }
    tasks, problems = [], []
    for (scene, video), numbers in wanted.items():
        source, target = videos.get((scene, PurePosixPath(video).name)), root / "images" / scene / video
        missing = missing_frames(target, source, numbers, suffix)
        if missing and source is None:
            problems.append(f"{scene}/{video}: not in {root / 'videos' / scene}")
        elif missing:
            tasks.append((source, target, missing, suffix, quality))
    with ProcessPoolExecutor(workers) as pool:
        jobs = {pool.submit(extract_video, *task): task[1].relative_to(root / "images") for task in tasks}
        bar = tqdm(as_completed(jobs), total=len(wanted), initial=len(wanted) - len(tasks), desc="videos", unit="video")
        for job in bar:
            try:
                _, absent = job.result()
            except ValueError as error:  # one damaged video must not keep the others from being used
                problems.append(f"{jobs[job]}: {error}")
                continue
            if absent:
                tqdm.write(f"{jobs[job]}: {absent} annotated frames lie past the end of the video")
    for scene, (frames, people) in tables.items():
        counts = write_split(root, scene, frames, people, test_videos, suffix)
        print(f"{scene}: {counts['train'] or 0} people to train on, {counts['val'] or 0} to test on")
        problems += [
            f"{scene}: {split}_annotations.json stays as it was: none of its .{suffix} frames is in {root / 'images'}"
            for split, count in counts.items()
            if count is None
        ]
    return problems


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the UBody folder")
    parser.add_argument("--scenes", nargs="+", help="only these; by default all that have annotations")
    parser.add_argument("--interval", type=at_least_one, default=10, help="keep images whose id is a multiple of this")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg")
    parser.add_argument("--quality", type=at_least_one, default=95, help="of JPEGs")
    parser.add_argument("--workers", type=at_least_one, default=os.cpu_count())
    args = parser.parse_args(argv)
    found = sorted(path.parent.name for path in (args.root / "annotations").glob("*/keypoint_annotation.json"))
    scenes = args.scenes or found
    unknown = [scene for scene in scenes if scene not in found]
    if unknown or not scenes:
        raise ValueError(
            f"no annotations/<scene>/keypoint_annotation.json below {args.root} for "
            f"{', '.join(unknown) or 'any scene'}; found: {', '.join(found) or 'nothing'}"
        )
    problems = prepare(args.root, scenes, args.interval, args.format, args.quality, args.workers)
    for problem in problems:
        print(f"problem: {problem}")
    if problems:
        print(f"{len(problems)} problems; the same command goes on with what is missing")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(run(main))
