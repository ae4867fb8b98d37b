"""One video of a collection: pose film, overlay and keypoint files, made frame by frame."""

from __future__ import annotations

import shutil
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..formats import save_npz
from ..geometry import map_size
from ..people import People
from ..pipeline import Options
from ..tracking import GapFiller, OneEuro, Steady, Tracker
from ..video import VideoReader, pose_video
from .decode import reason_of
from .shard import Tally
from .sinks import KeypointLines, Row
from .storage import is_url, open_input

if TYPE_CHECKING:
    from ..preprocessor import DWposeDetector
    from .plan import Config


def steady_of(settings: dict[str, Any] | None, options: Options) -> Steady | None:
    """`tracking.Steady` from {"max_gap", "min_cutoff", "beta", "smooth"}; None leaves every frame by itself.

    Of `options` it takes from which score a point counts as seen, and how many people are followed.
    """
    if settings is None:
        return None
    seen = {"threshold": options.keypoint_threshold}
    euro = {name: settings[name] for name in ("min_cutoff", "beta") if name in settings}
    return Steady(
        Tracker(max_people=options.max_people, **seen),
        GapFiller(settings.get("max_gap", 5), **seen),
        OneEuro(**euro, **seen) if settings.get("smooth", True) else None,
    )


def extract_video(
    item: dict[str, Any], index: int, config: Config, detector: DWposeDetector, folder: Path
) -> tuple[Row, dict[str, Any]]:
    """The row of one video, and for `ShardWriter`: finished files by output name, its tally, its report fields."""
    key, tally, stored = item["key"], Tally(), []
    if "error" in item:
        return Row(key, index, index, message=item["error"]), {}
    files: dict[str, Path] = {}

    def place(name: str, suffix: str) -> Path:
        return files.setdefault(name, folder / f"{index:06d}{suffix}")

    maps = config.output_format == "files"
    lines = None
    try:
        source = item["path"]
        if is_url(source):  # FFmpeg seeks: a local copy beats thousands of range requests
            source = folder / f"{index:06d}.source{Path(source).suffix}"
            with open_input(item["path"]) as remote, open(source, "wb") as copy:
                shutil.copyfileobj(remote, copy)
        lines = KeypointLines(place(f"keypoints/{key}.jsonl.gz", ".jsonl.gz")) if "jsonl" in config.keypoints else None
        steady = steady_of(config.steady, detector.options)
        poses = pose_video(
            source,
            # Whom to keep is for the tracker to say: the surest box may be somebody else's in the next frame.
            detector.detect if steady is None else partial(detector.detect, max_people=None),
            map_path=place(f"{key}.mp4", ".mp4") if maps else None,
            overlay_path=place(f"{key}.overlay.mp4", ".overlay.mp4") if maps and config.overlay else None,
            steady=steady,
            batch_size=detector.options.image_batch,
            draw_size=lambda people: map_size(config.draw_size, people.image_size),
            drawing=config.style,
        )
        with VideoReader(source) as video:
            announced, fps = video.frame_count or 0, round(float(video.fps), 4)
        count, size = 0, (1, 1)
        with closing(poses):
            for people in poses:
                size = people.image_size
                tally.add(people)
                if lines is not None:
                    lines.add(f"{key}/{count:06d}", people)
                if "npz" in config.keypoints:
                    stored.append(people)
                count += 1
    except ImportError:  # PyAV is missing: true of all videos
        raise
    except Exception as error:  # whatever a damaged file makes FFmpeg or the networks raise becomes its row
        if lines is not None:
            lines.close()
        return Row(key, index, index, message=reason_of(error)), {}
    if lines is not None:
        lines.close()
    if "npz" in config.keypoints:
        save_npz(place(f"keypoints/{key}.npz", ".npz"), stored)
    # Of a file that was cut short FFmpeg reads what is there, without a word. Headers may be off by a frame or two.
    short = f"ends after {count} of the {announced} frames it announces" if count < 0.97 * announced - 2 else ""
    extra = {"files": files, "tally": tally, "report": {"frames": count, "fps": fps, "people": tally.people}}
    return Row(key, index, index, People.empty(size), short), extra
