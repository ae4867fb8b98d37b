"""The sound of one film into another, in step with the pictures."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

# Audio that a file may carry as it is; other becomes AAC. Names are those of FFmpeg's decoders, the lists what is both
# registered for ISO base media, QuickTime or iTunes' files and known to FFmpeg's muxers of them.
_IN_MP4 = ("aac", "mp3", "mp3float", "ac3", "eac3", "opus", "libopus", "alac", "flac")
_AS_IS = {".mov": ("aac", "mp3", "mp3float", "ac3", "eac3", "alac"), ".m4v": ("aac", "ac3", "alac")}

# ISO/IEC 14496-3, table 1.18. Old cameras and old games have others.
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


def sound_of(container: Any) -> Any | None:
    """The first audio stream that FFmpeg knows; phones add one of a format of their own. None where there is none."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


class SoundCopy:
    """The sound of an open file into another, in step with the pictures so that neither waits for the other on
    playback.

    Args:
        start: seconds in `source` at which the new film begins.
        suffix: of the new file, it says what may be in it.
    """

    def __init__(self, source: Any, target: Any, start: Fraction, suffix: str):
        self._in, self._target = source, target
        stream = sound_of(source)
        self._as_is = stream.codec_context.name in _AS_IS.get(suffix.lower(), _IN_MP4)
        if self._as_is:
            self._out = target.add_stream_from_template(stream, opaque=True)
        else:
            layout = "mono" if stream.layout.nb_channels == 1 else "stereo"
            rate = min(_AAC_RATES, key=lambda rate: abs(math.log(rate / stream.rate)))  # PyAV resamples
            self._out = target.add_stream("aac", rate=rate, layout=layout)
        self._tick = Fraction(stream.time_base)
        self._shift = round(start / self._tick)  # the pictures start at 0 now
        self._packets = source.demux(stream)
        self._next = next(self._packets, None)

    def copy_until(self, time: Fraction | None) -> None:
        """Everything up to `time` seconds of the new video; None: to the end."""
        while self._next is not None:
            packet = self._next
            if time is not None and packet.dts is not None and (packet.dts - self._shift) * self._tick > time:
                return
            self._copy(packet)
            self._next = next(self._packets, None)
            if self._next is None and not self._as_is:
                self._target.mux(self._out.encode(None))

    def _copy(self, packet: Any) -> None:
        import av

        if not self._as_is:
            try:
                sounds = packet.decode()
            except av.error.InvalidDataError:
                sounds = []  # a gap, as players have there
            for sound in sounds:
                if sound.pts is not None:
                    sound.pts -= self._shift
                self._target.mux(self._out.encode(sound))
        elif packet.dts is not None:  # the demuxer's last packet is empty and only says "flush"
            packet.pts -= self._shift
            packet.dts -= self._shift
            packet.stream = self._out
            self._target.mux(packet)

    def close(self) -> None:
        self._in.close()
