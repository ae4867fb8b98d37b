"""Frames in, frames out: videos read upright with their own times, and written as H.264 with the same frames.

    with VideoReader("in.mp4") as video, VideoWriter("pose.mp4", video) as out:
        for frame, people in people_of(video, detector.detect, Steady()):
            out.write(render(people), frame.time)

PyAV (FFmpeg) does the work: pip install "dwpose-torch[video]".
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from .images import atomic_write, check_writable
from .people import People
from .render import overlay, render
from .sound import SoundCopy, sound_of
from .stages import batched, prefetch
from .tracking import Steady

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".gif")
WRITTEN_SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv")

_LARGEST = 16384  # x264's own limit, MAX_RESOLUTION
_AHEAD = 16  # decoded frames that wait for the networks: they are the largest thing in memory


@dataclass(frozen=True)
class Frame:
    """One frame: (H, W, 3) uint8 RGB, upright, and when it is shown, in seconds from the first frame.

    `length` is for how long, in seconds; None where only the frame rate tells.
    """

    image: np.ndarray
    time: Fraction
    length: Fraction | None = None


class Source(Protocol):
    """What a video is made from: frames if it is read, and what the new file takes over.

    With sound it has the `path` of the file and the `start` of its pictures, too.
    """

    fps: Fraction
    time_base: Fraction
    has_audio: bool

    def __iter__(self) -> Iterator[Frame]: ...


class VideoReader:
    """The frames of a video file, decoded one after the other while you iterate, as a player shows them. Every time
    from the first one.

    Turned upright, with square pixels (anamorphic video of DVDs and DV is stretched to its display shape), and all of
    the size of the first one, as FFmpeg's own tools do where a stream changes its size.

    Attributes:
        fps: average frames per second. Frames of a variable-rate video carry their own times.
        frame_count: as the file says, without what it hides at its ends, or None where it does not say. For progress
            bars, not to be relied on: of a file that was cut short FFmpeg reads what is there, without a word.

    Raises:
        ImportError: without PyAV. FileNotFoundError, ValueError: when there is no video in the file, and while
            iterating when it is damaged.
    """

    def __init__(self, path: str | os.PathLike):
        av = _import_av()
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"no video file at {path}")
        try:
            self._open()
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"{path} cannot be opened as a video: {error.strerror or error}") from error
        self.time_base = Fraction(self._stream.time_base)
        self.fps = Fraction(self._stream.average_rate or _measured_rate(self.path) or 25)
        self.frame_count: int | None = self._stream.frames or None
        if self.frame_count and self._stream.duration and "mp4" in self._container.format.name:
            # One that was trimmed without encoding still holds the other frames; its duration leaves them out.
            shown = round(self._stream.duration * self.time_base * self.fps)
            self.frame_count = min(self.frame_count, max(1, shown))
        self.has_audio = sound_of(self._container) is not None
        self.start = Fraction(0)  # presentation time of the first frame; known once it is decoded
        self._stretch = _pixel_aspect(self._stream.sample_aspect_ratio)

    def _open(self) -> None:
        self._container = open_film(self.path)
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{self.path} has no video stream")
        self._stream = self._container.streams.best("video")  # not the first: that may be the picture of a cover
        self._stream.thread_type = "AUTO"
        self._begun = False

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: Any) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        av = _import_av()
        if self._begun:
            self._open()
        self._begun = True
        first = last = size = None
        whole = (self._stream.duration or 0) * self.time_base
        try:
            for number, picture in enumerate(self._container.decode(self._stream), 1):
                pts = picture.pts
                if pts is None or (last is not None and pts <= last):  # broken files: keep the frame, keep the order
                    pts = 0 if last is None else last + max(1, round(1 / (self.fps * self.time_base)))
                if first is None:
                    first = pts
                    self.start = first * self.time_base
                    size = round(picture.width * self._stretch), picture.height
                last, time = pts, (pts - first) * self.time_base
                # The last one is often held. With B-frames its own entry in an mp4 is about decoding, not showing.
                length = whole - time if number == self.frame_count else (picture.duration or 0) * self.time_base
                told = length > 0 and abs(length * self.fps - 1) > 0.1  # less is rounding to the file's ticks
                yield Frame(_upright(picture, size), time, length if told else None)
        except av.error.FFmpegError as error:
            raise ValueError(f"{self.path} is damaged and cannot be decoded to its end: {error.strerror}") from error
        if first is None:
            raise ValueError(f"{self.path} has a video stream without a single frame")


def _whole(path: str | os.PathLike) -> str:
    """An absolute path: else FFmpeg takes what stands before a colon, as in 2024-05-01T12:30.mp4, for a protocol."""
    return os.path.abspath(path)


def open_film(path: str | os.PathLike) -> Any:
    """A file to read, whatever its tags are written in: most of old ones are not in UTF-8."""
    av = _import_av()
    try:
        return av.open(_whole(path))
    except UnicodeDecodeError:  # PyAV before 19, which has no such keyword any more
        return av.open(_whole(path), metadata_errors="replace")


def _measured_rate(path: Path, frames: int = 100) -> Fraction | None:
    """Frames per second from the times of the first ones, without decoding: what browsers record says no rate, and
    FFmpeg's guess is then the resolution of time, 1000."""
    av, times = _import_av(), []
    # Damage is told when it is read.
    with open_film(path) as container, contextlib.suppress(av.error.FFmpegError):
        for packet in islice(container.demux(container.streams.best("video")), frames):
            if packet.pts is not None:
                times.append(packet.pts * packet.time_base)
    length = max(times, default=0) - min(times, default=0)
    return Fraction(len(times) - 1, 1) / length if length > 0 else None


def _pixel_aspect(ratio: Fraction | None) -> Fraction:
    """Width of a pixel over its height; 1 where that is unknown, damaged, or only what rounding an even side left."""
    return ratio if ratio and 1 / 4 <= ratio <= 4 and abs(ratio - 1) > 0.01 else Fraction(1)


def _upright(picture: Any, size: tuple[int, int]) -> np.ndarray:
    """RGB pixels scaled to `size` (W, H), turned by the display matrix that phones write instead of turning them, and
    mirrored by it, as some do with the front camera."""
    quarter_turns = round(picture.rotation / 90) % 4  # counter-clockwise, as numpy counts
    pixels = picture.to_ndarray(format="rgb24", width=size[0], height=size[1])
    return np.ascontiguousarray(np.rot90(pixels[::-1] if _is_mirrored(picture) else pixels, quarter_turns))


def _is_mirrored(picture: Any) -> bool:
    """Whether its display matrix, (3, 3) of which `rotation` reads the first column, turns y over before it turns."""
    with contextlib.suppress(ValueError):  # PyAV before 19 fails at side data that it has no name for
        matrix = picture.side_data.get("DISPLAYMATRIX")
        if matrix is not None:
            (a, b), (c, d) = np.frombuffer(matrix, np.int32).reshape(3, 3)[:2, :2].astype(float)
            return a * d < b * c
    return False


def check_video_name(path: str | os.PathLike) -> None:
    """Raises ValueError for a suffix `VideoWriter` cannot write."""
    path = Path(path)
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise ValueError(f"a video is written as .mp4 (or .mov, .mkv), not as {path.name}")


class VideoWriter:
    """Writes an H.264 mp4 that appears under its name only when it is complete.

    Args:
        path: the .mp4 file.
        source: the video it is made from, a `VideoReader` or one of `clips`: gives the frame rate and the resolution
            of time.
        audio: also take over the sound of `source`, unchanged where such a file can hold it, else as AAC (mono
            or stereo).
        crf: x264's quality, 0 (lossless) to 51; 18 is visually lossless.

    Raises ValueError where no such file can be written.

    H.264 in its common form needs even sides: an odd image is extended by one row or column of its edge.
    """

    def __init__(self, path: str | os.PathLike, source: Source, *, audio: bool = False, crf: int = 18):
        path = Path(path)
        check_video_name(path)
        check_writable(path)  # of a file that it cannot open FFmpeg says no name
        self._source, self._crf, self._suffix = source, crf, path.suffix
        self._want_audio = audio and source.has_audio
        self._stack = contextlib.ExitStack()
        self._temporary = self._stack.enter_context(atomic_write(path))
        self._container = self._video = self._audio = None
        self._last: int | None = None  # time of the last frame, in ticks of `source.time_base`
        self._length: Fraction | None = None  # of the last frame, in seconds
        self._first_dts: int | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        try:
            if kind is None:
                self._finish()
                self._close()
        except BaseException as late:
            self._close_failed()
            if not self._stack.__exit__(type(late), late, late.__traceback__):
                raise
        else:
            if kind is not None:
                self._close_failed()
            self._stack.__exit__(kind, error, trace)

    def write(self, image: np.ndarray, time: Fraction, length: Fraction | None = None) -> None:
        """(H, W, 3) uint8 RGB, all of one size, at rising times in seconds from the first frame.

        Args:
            length: seconds for which the last frame is shown; None is as long as the rate says.
        """
        av = _import_av()
        height, width = image.shape[:2]
        image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._container is None:
            self._open(av, image.shape[:2])
        if (self._video.height, self._video.width) != image.shape[:2]:
            raise ValueError(
                f"frames must keep their size: {image.shape[:2]} after {self._video.height, self._video.width}"
            )
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        picture.time_base = self._source.time_base
        picture.pts = round(time / self._source.time_base)
        if self._last is not None and picture.pts <= self._last:
            before = float(self._last * self._source.time_base)
            raise ValueError(f"frames must come at rising times: {float(time):g} s after {before:g} s")
        self._last, self._length = picture.pts, length
        packets = self._video.encode(picture)
        if self._first_dts is None and packets:
            self._first_dts = packets[0].dts
        self._container.mux(packets)
        if self._audio is not None:
            self._audio.copy_until(time)

    def _open(self, av: Any, size: tuple[int, int]) -> None:
        if max(size) > _LARGEST:
            raise ValueError(f"an H.264 video has at most {_LARGEST} pixels a side, got {size[1]} x {size[0]}")
        self._container = av.open(_whole(self._temporary), "w")
        video = self._container.add_stream("libx264", rate=self._source.fps)
        video.height, video.width = size
        video.pix_fmt = "yuv420p"
        # The same input shall give the same file, anywhere and always: x264's result depends on the number of threads,
        # and with its look-ahead (mbtree) in a thread of its own one file in some hundred comes out differently.
        video.options = {
            "crf": str(self._crf),
            "preset": "veryfast",
            "threads": "4",
            "x264-params": "mbtree=0:sync-lookahead=0",
        }
        context = video.codec_context
        context.time_base = self._source.time_base
        # What the RGB conversion does, said in the file: players guess BT.709 for large pictures otherwise.
        context.colorspace, context.color_range = 6, 1  # SMPTE 170M, limited range (ITU-T H.273)
        self._video = video
        if self._want_audio:
            sound = open_film(self._source.path)
            self._audio = SoundCopy(sound, self._container, self._source.start, self._suffix)

    def _finish(self) -> None:
        if self._container is None:
            raise ValueError("no frame was written: a video needs at least one")
        packets = self._video.encode(None)
        # An mp4 is as long as its decoding times say. They begin early, by what the first frames are reordered, which
        # in a video of varying rate is not what its end lacks: the last packet makes up for it, or players stop short.
        end = self._last + (self._length or 1 / self._source.fps) / self._source.time_base
        begin = packets[0].dts if self._first_dts is None else self._first_dts
        packets[-1].duration = max(1, round(end + begin - packets[-1].dts))
        self._container.mux(packets)
        if self._audio is not None:
            self._audio.copy_until(None)

    def _close(self) -> None:
        for part in (self._audio, self._container):
            if part is not None:
                part.close()

    def _close_failed(self) -> None:
        with contextlib.suppress(Exception):  # what went wrong first is what counts
            self._close()


def people_of(
    frames: Iterable[Frame],
    detect: Callable[[Sequence[np.ndarray]], Sequence[People]],
    steady: Steady | None = None,
    batch_size: int = 8,
) -> Iterator[tuple[Frame, People]]:
    """Every frame with its people, in order.

    Args:
        detect: images to People, one each (`DWposeDetector.detect`).
        steady: gives ids, fills gaps and smooths, see `tracking.Steady`; None leaves every frame by itself.
        batch_size: frames per call of `detect`.
    """
    waiting: deque[Frame] = deque()
    for chunk in batched(frames, batch_size):
        for frame, people in zip(chunk, detect([frame.image for frame in chunk]), strict=True):
            waiting.append(frame)
            for done in [people] if steady is None else steady.push(people, float(frame.time)):
                yield waiting.popleft(), done
    for done in [] if steady is None else steady.flush():
        yield waiting.popleft(), done


def pose_video(
    source: str | os.PathLike | Source,
    detect: Callable[[Sequence[np.ndarray]], Sequence[People]],
    *,
    map_path: str | os.PathLike | None = None,
    overlay_path: str | os.PathLike | None = None,
    steady: Steady | None = None,
    batch_size: int = 8,
    draw_size: Callable[[People], tuple[int, int]] | None = None,
    drawing: dict[str, Any] | None = None,
) -> Iterator[People]:
    """Yields the people of each frame while the pose video and the overlay are being written.

    Decoding, networks, and drawing with encoding run side by side, a few frames apart: memory does not grow with the
    film. Both files appear once the last frame is out; a caller that stops early leaves nothing behind.

    Args:
        source: any video FFmpeg reads, or what `clips.open_clip` opened; close this generator before you close that.
        detect, steady, batch_size: as `people_of`.
        map_path: the pose maps, an .mp4 with the frames and times of `source`, or None.
        overlay_path: the poses over the pictures, with the sound of `source`, or None.
        draw_size: people -> (H, W) of the map; None is the size of the video.
        drawing: keywords of `render.render` and `render.overlay`.
    """
    drawing = drawing or {}
    with contextlib.ExitStack() as stack:
        named = isinstance(source, (str, os.PathLike))
        video = stack.enter_context(VideoReader(source)) if named else source
        maps = stack.enter_context(VideoWriter(map_path, video)) if map_path else None
        overlays = stack.enter_context(VideoWriter(overlay_path, video, audio=True)) if overlay_path else None
        # Closed in reverse: no thread reads the file any more when the file is closed.
        frames = stack.enter_context(contextlib.closing(prefetch(video, min(2 * batch_size, _AHEAD))))
        found = people_of(frames, detect, steady, batch_size)
        for frame, people in stack.enter_context(contextlib.closing(prefetch(found, max(batch_size, _AHEAD)))):
            if maps is not None:
                maps.write(render(people, draw_size and draw_size(people), **drawing), frame.time, frame.length)
            if overlays is not None:
                overlays.write(overlay(frame.image, people, **drawing), frame.time, frame.length)
            yield people


def _import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError('videos need PyAV: pip install "dwpose-torch[video]"') from error
    return av
