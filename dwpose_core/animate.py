"""Pose video and steady face video from a driving video, as animation pipelines want them, in one call.

    animation = prepare_animation("dance.mp4", detector, reference=portrait)
    WanAnimatePipeline(...)(image=portrait, **animation.inputs(), ...)

`WanAnimatePipeline` of diffusers takes lists of PIL images and leaves their making to the user. What they look like
follows the preprocessing of Wan2.2-Animate (arXiv 2509.14055; Wan-Video/Wan2.2): its way to draw, its sizes, its face
crop. Crops do not shake here: one size, and a smooth path.
"""

from __future__ import annotations

import colorsys
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

from . import edit
from .clips import Rate, even, open_clip
from .images import as_images
from .people import People
from .preprocessor import DWposeDetector
from .regions import crop_square, part_boxes, steady_boxes
from .render import Style, find_style, render
from .skeleton import HAND_EDGES, OPENPOSE_BODY, OPENPOSE_COLORS, OPENPOSE_LIMBS
from .tracking import GapFiller, Steady, Tracker, smooth
from .video import Frame, people_of

if TYPE_CHECKING:
    from PIL import Image

WAN_STYLE = "wan-animate"
# Wan's transformer looks at patches of 2 x 2 latents of 8 x 8 pixels.
SIDE_MULTIPLE = 16
FACE_SIZE = 512  # what Wan-Animate's face encoder takes
SELECTIONS = ("largest", "centre", "score", "left", "index")
# The original grows the box of the face points to 1.3 times its area and gives three quarters of the new height to the
# forehead: both sides times sqrt(1.3), and the middle goes up by a quarter of what is gained in height.
_FACE_PADDING = (1.3**0.5 - 1) / 2
_FACE_LIFT = (1.3**0.5 - 1) / 4


@dataclass(frozen=True)
class Animation:
    """What `prepare_animation` makes: as many frames in each list, at `fps`.

    Attributes:
        pose_video: PIL images of (width, height).
        face_video: PIL images of 512 x 512, of the person who is selected first; black where no face is seen in the
            whole video.
        people: those drawn, in pixels of the pose video.
    """

    pose_video: list[Image.Image]
    face_video: list[Image.Image]
    people: list[People]
    fps: float

    @property
    def width(self) -> int:
        return self.pose_video[0].width

    @property
    def height(self) -> int:
        return self.pose_video[0].height

    def inputs(self) -> dict[str, Any]:
        """Keywords of `WanAnimatePipeline`."""
        names = ("pose_video", "face_video", "height", "width")
        return {name: getattr(self, name) for name in names}


def prepare_animation(
    video: str | os.PathLike | Sequence[Any] | np.ndarray | torch.Tensor,
    detector: DWposeDetector,
    *,
    reference: Any = None,
    retarget: bool = False,
    fps: float | None = 30,
    source_fps: float | None = None,
    max_pixels: int = 1280 * 720,
    style: str | Style = WAN_STYLE,
    people: int | None = 1,
    select: str = "largest",
    steadiness: float = 0.05,
    batch_size: int = 8,
    progress: bool = True,
) -> Animation:
    """Pose video and face video of a driving video.

    Args:
        video: path of any video FFmpeg reads (needs PyAV) or of a folder of frames, or frames as `images.as_images`
            accepts them.
        detector: finds the people.
        reference: picture of the character to animate, see `images.as_images`. The pose video gets its shape; without
            it, that of the driving video.
        retarget: give the motion the proportions and the place of the person in `reference`.
        fps: of the result; frames are repeated or left out. None keeps those of the video. Wan-Animate is made for 30.
        source_fps: of frames given as a list or a folder, not of a file; None takes `fps`, so that every frame is
            used once.
        max_pixels: width times height of the result; sides are multiples of 16.
        style: "wan-animate", or a style of `render.render` for other pipelines (VACE: "dwpose").
        people: how many; None takes everyone. Wan-Animate animates one.
        select: which ones: one of SELECTIONS, by the mean rank over the clip, see `edit.select_tracks`.
        steadiness: seconds over which the path of the face crop is averaged (standard deviation). With much more than
            the default a head that moves fast leaves its crop.
        batch_size: frames per call of the detector.
        progress: show bars.

    Raises:
        ValueError: for a video without people, a reference without a person where one is needed, or a setting that
            makes no sense.
        ImportError: for a path, without PyAV.
    """
    from PIL import Image

    if retarget and reference is None:
        raise ValueError("retarget needs a reference: the picture whose person gives the proportions")
    for rate in (fps, source_fps):
        if rate is not None:
            Rate.of(rate)
    if not 0 <= steadiness < np.inf:
        raise ValueError(f"steadiness must be a number of seconds, 0 or more; got {steadiness}")
    if people is not None and people < 1:
        raise ValueError(f"people must be at least 1, or None for everyone; got {people}")
    if select not in SELECTIONS:
        raise ValueError(f"select must be one of {', '.join(SELECTIONS)}, got {select!r}")
    if style != WAN_STYLE:
        find_style(style)
    clip = _Clip(video, fps, source_fps)
    # All that can be wrong is looked at before the film goes through the networks.
    size, character = fit_size((1, 1), max_pixels), None
    if reference is not None:
        picture, *more = as_images(reference)
        if more:
            raise ValueError(f"reference must be one picture, got {1 + len(more)}")
        size = fit_size(picture.shape[:2], max_pixels)
        character = _largest(detector.detect(picture)) if retarget else None
    threshold = detector.options.keypoint_threshold

    def detect(images: Sequence[np.ndarray]) -> list[People]:
        # Whom to keep is for the tracker to say: the surest box may be somebody else's in the next frame.
        return detector.detect(list(images), batch_size=batch_size, max_people=None)

    tracker = Tracker(max_people=detector.options.max_people, threshold=threshold)
    steady = Steady(tracker, GapFiller(threshold=threshold))
    found = people_of(_bar(clip, clip.count, "finding people", progress), detect, steady, batch_size)
    frames = [everyone for _, everyone in found]
    if not any(map(len, frames)):
        raise ValueError("nobody was found in this video; try options=Options(detector_threshold=...) below 0.3")
    most = max(map(len, frames)) * len(frames)
    actors = edit.select_tracks(frames, select, count=people or most)

    # Keypoints before the filter that follows: its lag is little for a pose, but much for a small face that moves fast.
    leads = edit.select_tracks(frames, select)
    faces = [_face_box(person, threshold) for person in leads]
    if any(np.isfinite(face).all() for face in faces):
        paths = steady_boxes(np.stack(faces), _FACE_PADDING, steadiness * clip.fps)
        pictures = zip(_bar(clip, len(frames), "cropping faces", progress), paths, strict=True)
        face_video = [Image.fromarray(crop_square(frame.image, box, FACE_SIZE)) for frame, box in pictures]
    else:
        warnings.warn("no face is seen in this video: the face video is black", stacklevel=2)
        face_video = [Image.new("RGB", (FACE_SIZE, FACE_SIZE)) for _ in frames]

    actors = smooth(actors, float(clip.fps), threshold=threshold)
    if reference is None:
        size = fit_size(frames[0].image_size, max_pixels)
    if character is not None:
        lead = next(int(person.id[0]) for person in leads if len(person))
        actors = edit.align(edit.retarget(actors, character, lead), character, lead)
    # What has the shape of the map already only loses what its sides lack of multiples of 16.
    padded = reference is not None and character is None
    actors = [edit.fit(person, size, "pad" if padded else "stretch") for person in actors]
    if style == WAN_STYLE:
        maps = (draw_wan(person, threshold) for person in actors)
    else:
        maps = (render(person, style=style, threshold=threshold) for person in actors)
    pose_video = [Image.fromarray(pose_map) for pose_map in _bar(maps, len(actors), "drawing", progress)]
    return Animation(pose_video, face_video, actors, float(clip.fps))


def fit_size(size: Sequence[int], max_pixels: int) -> tuple[int, int]:
    """(H, W) of the same shape with at most `max_pixels` pixels and as many as sides in multiples of 16 allow."""
    if max_pixels < SIDE_MULTIPLE**2:
        raise ValueError(f"max_pixels must be at least {SIDE_MULTIPLE**2}, got {max_pixels}")
    factor = (max_pixels / (size[0] * size[1])) ** 0.5
    # A hair more than exact, as 720 * (1280 * 720 / (720 * 1280)) ** 0.5 must not come out as 719.99.
    height, width = (max(1, int(side * factor * (1 + 1e-9)) // SIDE_MULTIPLE) * SIDE_MULTIPLE for side in size)
    return height, width


def draw_wan(people: People, threshold: float = 0.3) -> np.ndarray:
    """Pose map in the style of Wan-Animate, (H, W, 3) uint8 RGB of `people.image_size`.

    ControlNet's colours with thinner lines, which follow the shorter side; toes, but no face (that has a video of its
    own). The neck and the toes are means of two points, with the mean of their scores.
    """
    height, width = people.image_size
    stick = max(min(height, width) // 200 - 1, 1)
    thin = max(stick // 2, 1)
    canvas = np.zeros((height, width, 3), np.uint8)
    for person in people:
        xy, score = person.xy[0].astype(np.float64), person.score[0]
        body_xy, body_score = (np.stack([(v[a] + v[b]) / 2 for a, b in _WAN_BODY]) for v in (xy, score))
        seen = (body_score >= threshold) & np.isfinite(body_xy).all(-1)
        for (a, b), color in zip(_WAN_LIMBS, _WAN_COLORS, strict=False):
            if seen[a] and seen[b]:
                (x, y), (dx, dy) = (body_xy[a] + body_xy[b]) / 2, body_xy[a] - body_xy[b]
                axes = (int(np.hypot(dx, dy) / 2), stick)
                outline = cv2.ellipse2Poly((int(x), int(y)), axes, int(np.degrees(np.arctan2(dy, dx))), 0, 360, 1)
                cv2.fillConvexPoly(canvas, outline, [int(0.6 * channel) for channel in color])
        for point, color in zip(body_xy[seen], np.array(_WAN_COLORS)[seen].tolist(), strict=True):
            cv2.circle(canvas, tuple(map(int, point)), stick, color, -1)
        for side in ("left_hand", "right_hand"):
            points, scores = (values[0] for values in person.part(side))
            drawn = (scores >= threshold) & np.isfinite(points).all(-1)
            whole = np.where(drawn[:, None], points, 0).astype(int)
            drawn &= (whole > 0).all(-1)  # as ControlNet: what is left of or above pixel 1 is not drawn
            for (a, b), color in zip(HAND_EDGES, _HAND_COLORS, strict=True):
                if drawn[a] and drawn[b]:
                    cv2.line(canvas, whole[a].tolist(), whole[b].tolist(), color, thin)
            for point in whole[drawn].tolist():
                cv2.circle(canvas, point, thin, (0, 0, 255), -1)
    return canvas


# Body points of Wan-Animate as pairs of COCO-WholeBody points to average: the OpenPose-18, left toes, right toes.
_WAN_BODY = (*(((i, i) if i >= 0 else (5, 6)) for i in OPENPOSE_BODY.values()), (17, 18), (20, 21))
_WAN_LIMBS = (*OPENPOSE_LIMBS, (13, 18), (10, 19))
_WAN_COLORS = (*OPENPOSE_COLORS, (200, 200, 0), (100, 100, 0))
# A hand edge has its share of the colour circle.
_HAND_COLORS = [[255 * c for c in colorsys.hsv_to_rgb(i / len(HAND_EDGES), 1, 1)] for i in range(len(HAND_EDGES))]


class _Clip(Iterable[Frame]):
    """The frames of a video, at an even rate; can be gone through more than once, and holds none of them."""

    def __init__(self, video: Any, fps: float | None, source_fps: float | None):
        self._video = None if isinstance(video, (str, os.PathLike)) else video
        if self._video is None:
            if source_fps is not None and Path(video).is_file():
                raise ValueError(f"source_fps is for frames; {video} has a rate of its own, leave source_fps out")
            self._open = partial(open_clip, video, (source_fps or fps or 30) if Path(video).is_dir() else None)
            with self._open() as reader:
                self._source_fps, frames = reader.fps, reader.frame_count
        else:
            if not hasattr(video, "__len__"):
                raise ValueError(f"a video is a path or a list or batch of frames, got {type(video).__name__}")
            if getattr(video, "ndim", 4) < 4:
                self._video = video = [video]
            if len(video) == 0:
                raise ValueError("this video has no frames")
            self._source_fps, frames = Fraction(source_fps or fps or 30).limit_denominator(1001), len(video)
        self.fps = Fraction(fps).limit_denominator(1001) if fps else self._source_fps
        self.count = frames and int(frames / self._source_fps * self.fps)

    def __iter__(self) -> Iterator[Frame]:
        if self._video is None:
            with self._open() as reader:
                yield from even(reader, self.fps, self._source_fps)
        else:
            images = (image for item in self._video for image in as_images(item))
            frames = (Frame(_array(image), number / self._source_fps) for number, image in enumerate(images))
            yield from even(frames, self.fps, self._source_fps)


def _array(image: np.ndarray | torch.Tensor) -> np.ndarray:
    return image.cpu().numpy() if isinstance(image, torch.Tensor) else image


def _bar(items: Iterable, total: int | None, title: str, show: bool) -> Iterable:
    from tqdm import tqdm

    return tqdm(items, total=total, desc=title, unit="frame", disable=not show)


def _face_box(person: People, threshold: float) -> np.ndarray:
    """(4,) xyxy around the face points with more room above, NaN where there is no face."""
    if not len(person):
        return np.full(4, np.nan, np.float32)
    (box,) = part_boxes(person, "face", threshold)
    return box - np.float32([0, 1, 0, 1]) * (box[3] - box[1]) * np.float32(_FACE_LIFT)


def _largest(people: People) -> People:
    if not len(people):
        raise ValueError("nobody was found in the reference; give one with a person, or retarget=False")
    return edit.select_per_frame([people], "largest")[0]
