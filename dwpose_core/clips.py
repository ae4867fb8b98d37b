"""What a clip is read from besides a video file: a folder of frames, an animated WebP, a video at another rate.

    with open_clip("frames/", fps=24) as clip:
        for frame in clip: ...

All have what `video.VideoWriter` wants of its source: `fps`, `time_base`, `has_audio`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from .images import IMAGE_SUFFIXES, from_pil, in_order, read_image
from .video import Frame, VideoReader

FOLDER_FPS = 25  # of a folder of frames, as FFmpeg's image2 demuxer takes it
_ROUNDING = Fraction(1, 10)  # of a frame
_FINEST = 1001  # rates are fractions of at most this denominator: 30000 / 1001 is the odd one in use


@dataclass(frozen=True)
class Rate:
    """The source of a video that is made from no other one: frames at an even rate, no sound."""

    fps: Fraction
    has_audio: bool = False

    @classmethod
    def of(cls, fps: float | Fraction) -> Rate:
        """Raises ValueError for what is no rate."""
        rate = Fraction(fps).limit_denominator(_FINEST) if 0 < fps <= 1000 else Fraction(0)
        if not rate:  # also what comes out as 0 of _FINEST
            raise ValueError(f"fps must be above 0 and at most 1000 frames per second, got {fps}")
        return cls(rate)

    @property
    def time_base(self) -> Fraction:
        return 1 / self.fps


class FrameFolder:
    """The pictures of a folder as the frames of a clip, by name, f_2 before f_10. Folders in it are not looked into.

    Raises:
        ValueError: for a folder without pictures, a rate that is none, and while iterating for a damaged picture.
    """

    has_audio = False

    def __init__(self, path: str | os.PathLike, fps: float | None = None):
        self.path = Path(path)
        self.fps = Rate.of(FOLDER_FPS if fps is None else fps).fps
        self.time_base = 1 / self.fps
        self._files = in_order(self.path, IMAGE_SUFFIXES)
        if not self._files:
            raise ValueError(f"no picture in the folder {path}; its frames must lie in it, not in folders below")
        self.frame_count = len(self._files)

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def __iter__(self) -> Iterator[Frame]:
        for number, file in enumerate(self._files):
            yield Frame(read_image(file), number / self.fps)


class AnimatedWebP:
    """The frames of a WebP, which FFmpeg does not read and ComfyUI likes to write. Transparency over white.

    Raises:
        FileNotFoundError, ValueError: where there is none, and while iterating when it is damaged.
    """

    has_audio = False
    time_base = Fraction(1, 1000)  # durations are whole milliseconds

    def __init__(self, path: str | os.PathLike):
        from PIL import Image, UnidentifiedImageError

        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no video file at {path}")
        try:
            self._file = Image.open(self.path)
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} cannot be opened as a video: {error}") from error
        self.frame_count = getattr(self._file, "n_frames", 1)
        self.fps = Rate.of(self.frame_count / max(sum(self._durations()), Fraction(1, 1000))).fps

    def __enter__(self) -> AnimatedWebP:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def _durations(self) -> Iterator[Fraction]:
        """Seconds that each frame is shown; the file stands at that frame."""
        for number in range(self.frame_count):
            try:
                self._file.seek(number)
                self._file.load()
            except (OSError, EOFError, SyntaxError) as error:
                raise ValueError(f"{self.path} is damaged and cannot be decoded to its end: {error}") from error
            yield Fraction(self._file.info.get("duration") or 40, 1000)

    def __iter__(self) -> Iterator[Frame]:
        time = Fraction(0)
        for duration in self._durations():
            yield Frame(from_pil(self._file), time, duration)
            time += duration


class Resampled:
    """A video at another, even rate, with its own sound: frames are repeated or left out."""

    def __init__(self, reader: VideoReader | AnimatedWebP, fps: float):
        self.fps = Rate.of(fps).fps
        self.time_base = 1 / self.fps
        self._reader = reader
        self.path, self.has_audio = reader.path, reader.has_audio
        count = reader.frame_count
        self.frame_count = count and max(1, int(count / self._reader.fps * self.fps))

    def __enter__(self) -> Resampled:
        return self

    def __exit__(self, *error: Any) -> None:
        self._reader.__exit__(*error)

    @property
    def start(self) -> Fraction:
        return self._reader.start

    def __iter__(self) -> Iterator[Frame]:
        return even(self._reader, self.fps, self._reader.fps)


def open_clip(
    path: str | os.PathLike, fps: float | None = None
) -> VideoReader | AnimatedWebP | FrameFolder | Resampled:
    """A video file, or a folder of frames, to iterate over in a `with` block.

    Args:
        fps: of a folder, 25 if None; a video file is brought to this rate, None leaves it at its own.

    Raises:
        ValueError, FileNotFoundError, ImportError: as `FrameFolder` and `video.VideoReader`.
    """
    if Path(path).is_dir():
        return FrameFolder(path, fps)
    if fps is not None:
        Rate.of(fps)  # a wrong one before anything is opened
    reader = (AnimatedWebP if Path(path).suffix.lower() == ".webp" else VideoReader)(path)
    return reader if fps is None else Resampled(reader, fps)


def even(frames: Iterable[Frame], fps: Fraction, source_fps: Fraction) -> Iterator[Frame]:
    """At times 0, 1 / fps, 2 / fps, ... to the end of the last frame, the frame that is nearest in time.

    A tenth of a frame beyond does not make one more: it is what rounding to a file's ticks leaves.
    """
    number, last = 0, None
    for frame in frames:
        while last is not None and number / fps <= (last.time + frame.time) / 2:
            yield Frame(last.image, number / fps)
            number += 1
        last = frame
    while last is not None and (number + _ROUNDING) / fps < last.time + (last.length or 1 / source_fps):
        yield Frame(last.image, number / fps)
        number += 1
