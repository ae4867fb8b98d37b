"""UBody (Lin et al., CVPR 2023, arXiv 2303.16160): videos to frames, annotations to train and test files.

    python -m training.data.ubody data/UBody                        what the configurations in training/config.py read
    python -m training.data.ubody data/UBody --scenes Olympic --interval 1 --format png

Expects the layout of the release: videos/<scene>/.../<video>.mp4, annotations/<scene>/keypoint_annotation.json,
splits/intra_scene_test_list.npy. Writes images/<scene>/<video>/000010.jpg and per scene train_annotations.json and
val_annotations.json in COCO-WholeBody form.

The original cuts every video at 30 frames per second into PNGs and then trains on the images whose id is a multiple of
ten; only those are extracted here, as JPEG: a tenth of the frames at a fraction of the bytes. A video is finished when
its folder exists under its final name, so an interrupted run continues with the next one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from tqdm import tqdm

FRAME_RATE = 30  # the annotations count frames of `ffmpeg -r 30`, from 1
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
    content = json.loads(annotation.read_text())
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
    30 frames per second that is its n-th frame. Numbers past the end are left out.
    """
    try:
        import av
    except ImportError as error:
        raise ImportError('reading videos needs PyAV: pip install "dwpose-torch[video]"') from error
    if not wanted:
        return
    number, last = 1, max(wanted)
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        start = None
        for frame in container.decode(stream):
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


def extract_video(video: Path, target: Path, numbers: set[int], suffix: str, quality: int) -> tuple[int, int]:
    """Write the wanted frames of one video into the folder `target`; returns how many were written and missing.

    Frames go to a folder beside it that is renamed at the end, so `target` is complete whenever it exists.
    """
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    written = 0
    options = (cv2.IMWRITE_JPEG_QUALITY, quality) if suffix == "jpg" else ()
    for number, image in frames_at_rate(video, numbers):
        path = part / f"{number:06d}.{suffix}"
        if not cv2.imwrite(str(path), image, options):
            raise OSError(f"could not write {path}: is the disk full?")
        written += 1
    os.replace(part, target)
    return written, len(numbers) - written


def write_split(
    root: Path, scene: str, frames: list[Frame], people: dict[int, list[dict]], test_videos: set[str], suffix: str
) -> dict[str, int]:
    """train_annotations.json and val_annotations.json of the frames that exist; returns people per split."""
    counts = {}
    for split in ("train", "val"):
        images, annotations = [], []
        for frame in frames:
            if (frame.film in test_videos) != (split == "val"):
                continue
            name = f"{scene}/{frame.video}/{frame.number:06d}.{suffix}"
            if (root / "images" / name).is_file():
                images.append({**frame.image, "file_name": name})
                annotations += [{"category_id": 1, **person} for person in people[frame.image["id"]]]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        path = root / "annotations" / scene / f"{split}_annotations.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content))
        os.replace(temporary, path)
        counts[split] = len(annotations)
    return counts


def prepare(root: Path, scenes: list[str], interval: int, suffix: str, quality: int, workers: int) -> None:
    """Extract and split; see the top of this file."""
    test_list = np.load(root / "splits" / "intra_scene_test_list.npy", allow_pickle=False)
    test_videos = {str(name) for name in test_list}
    tables = {s: read_frames(root / "annotations" / s / "keypoint_annotation.json", s, interval) for s in scenes}
    tasks: dict[tuple[str, str], set[int]] = {}
    for scene, (frames, _) in tables.items():
        for frame in frames:
            tasks.setdefault((scene, frame.video), set()).add(frame.number)
    done = {task for task in tasks if (root / "images" / task[0] / task[1]).is_dir()}
    videos = {
        (scene, path.stem): path
        for scene in scenes
        for path in sorted((root / "videos" / scene).rglob("*"))
        if path.suffix.lower() in VIDEO_SUFFIXES
    }
    missing_videos = [f"{s}/{v}" for s, v in tasks if (s, PurePosixPath(v).name) not in videos and (s, v) not in done]
    with ProcessPoolExecutor(workers) as pool:
        jobs = {
            pool.submit(
                extract_video,
                videos[scene, PurePosixPath(video).name],
                root / "images" / scene / video,
                numbers,
                suffix,
                quality,
            ): f"{scene}/{video}"
            for (scene, video), numbers in tasks.items()
            if (scene, video) not in done and (scene, PurePosixPath(video).name) in videos
        }
        bar = tqdm(as_completed(jobs), total=len(tasks), initial=len(done), desc="videos", unit="video")
        for job in bar:
            _, missing = job.result()
            if missing:
                tqdm.write(f"{jobs[job]}: {missing} annotated frames lie past the end of the video")
    for scene, (frames, people) in tables.items():
        counts = write_split(root, scene, frames, people, test_videos, suffix)
        print(f"{scene}: {counts['train']} people to train on, {counts['val']} to test on")
    if missing_videos:
        names = ", ".join(missing_videos[:5])
        print(f"{len(missing_videos)} annotated videos are not in {root / 'videos'}: {names}; run again when they are")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the UBody folder")
    parser.add_argument("--scenes", nargs="+", help="only these; by default all that have annotations")
    parser.add_argument("--interval", type=int, default=10, help="keep images whose id is a multiple of this")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg")
    parser.add_argument("--quality", type=int, default=95, help="of JPEGs")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args(argv)
    found = sorted(path.parent.name for path in (args.root / "annotations").glob("*/keypoint_annotation.json"))
    scenes = args.scenes or found
    unknown = [scene for scene in scenes if scene not in found]
    if unknown or not scenes:
        raise ValueError(
            f"no annotations/<scene>/keypoint_annotation.json below {args.root} for "
            f"{', '.join(unknown) or 'any scene'}; found: {', '.join(found) or 'nothing'}"
        )
    prepare(args.root, scenes, args.interval, args.format, args.quality, args.workers)


if __name__ == "__main__":
    main()
