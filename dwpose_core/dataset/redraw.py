"""Maps and films of stored keypoints, without a network: `dwpose render` of what `dwpose extract` wrote."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..clips import FOLDER_FPS, Rate
from ..images import atomic_write
from ..people import People
from ..video import WRITTEN_SUFFIXES
from .decode import Drawing
from .sinks import read_keypoint_rows


def redraw(source: Path, out: Path, size: int | tuple[int, int] | None, style: dict, fps: float | None = None) -> int:
    """OUT/<key>.png of a keypoints .jsonl(.gz) or an extraction of images, OUT/<key>.mp4 of an extraction of videos.

    Args:
        fps: of the films; None takes what the videos had, 25 where that is not known. Their frames are even in time.

    Raises:
        ValueError: where there are no such keypoints, and for a rate that is none.
    """
    from tqdm import tqdm

    files = [source] if source.is_file() else sorted((source / "keypoints").rglob("*.jsonl.gz"))
    if not files:
        raise ValueError(f"no keypoints .jsonl.gz in {source}; `dwpose extract --keypoints jsonl` writes them")
    if out.suffix.lower() in WRITTEN_SUFFIXES:
        raise ValueError(f"-o must be a folder for the keypoints of an extraction, not a file like {out.name}")
    if fps is not None:
        Rate.of(fps)
    drawing, count = Drawing(style, size), 0
    rates = _rates_of_videos(source)
    if fps is not None and rates is None:
        raise ValueError(f"--fps is for videos, and {source} is not the folder of an extraction of videos")
    for file in tqdm(files, unit="file", disable=len(files) == 1):
        rows = _rows(file)
        if rates is None:
            for key, people in rows:
                with atomic_write(out / f"{key}.png") as temporary:
                    temporary.write_bytes(drawing.encode(people))
                count += 1
            continue
        for key, frames in itertools.groupby(rows, key=lambda row: row[0].rpartition("/")[0]):
            _film(out / f"{key}.mp4", (people for _, people in frames), drawing, fps or rates.get(key, FOLDER_FPS))
            count += 1
    print(f"{count} {'maps' if rates is None else 'films'}; wrote {out}")
    return 0


def _rows(file: Path) -> Iterator[tuple[str, People]]:
    try:
        for key, people in read_keypoint_rows(file.read_bytes()):
            name = Path(key)
            if name.is_absolute() or name.drive or ".." in name.parts:  # others may have made the file
                raise ValueError(f"the key {key!r} leads out of the folder")
            yield key, people
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _rates_of_videos(source: Path) -> dict[str, float] | None:
    """Key -> frames per second of the videos whose report says it; None unless `source` is an extraction of videos."""
    about = source / "_dwpose"
    config = about / "config.json"
    if not config.is_file() or json.loads(config.read_bytes())["input_format"] != "video":
        return None
    reports = sorted((about / "shards").glob("*_report.jsonl"))
    rows = (json.loads(line) for report in reports for line in report.read_bytes().splitlines())
    return {row["key"]: row["fps"] for row in rows if "fps" in row}


def _film(path: Path, frames: Iterable[People], drawing: Drawing, fps: float) -> None:
    from ..video import VideoWriter

    rate = Rate.of(fps)
    with VideoWriter(path, rate) as film:
        for number, people in enumerate(frames):
            film.write(drawing.draw(people), number / rate.fps)
