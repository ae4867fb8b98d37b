"""The sound of one film into another: which, unchanged or as AAC, whole and in step."""

from __future__ import annotations

import numpy as np
import pytest

from dwpose_core.video import VideoReader

from .test_video import all_frames, copy_film, make_film

av = pytest.importorskip("av")


@pytest.mark.parametrize(
    ("audio", "suffix", "kept"),
    [("aac", ".mp4", "aac"), ("libmp3lame", ".mkv", "mp3float"), ("pcm_s16le", ".mkv", "aac")],
)
@pytest.mark.parametrize("start", [0, 2])
def test_sound_is_kept_on_request(tmp_path, audio, suffix, kept, start):
    source = make_film(tmp_path / f"in{suffix}", count=50, audio=audio, start=start)
    copy_film(source, tmp_path / "silent.mp4")
    copy_film(source, tmp_path / "loud.mp4", audio=True)
    with av.open(str(tmp_path / "silent.mp4")) as container:
        assert not container.streams.audio
    with av.open(str(tmp_path / "loud.mp4")) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == kept
        frames = list(container.decode(sound))
        samples = np.concatenate([frame.to_ndarray().ravel() for frame in frames])
    assert len(samples) == pytest.approx(32000, abs=4096)  # 50 frames at 25 fps: two seconds
    assert float(frames[0].pts * frames[0].time_base) == pytest.approx(0, abs=0.07)
    assert np.abs(samples).mean() > 0.05  # the tone, not silence


@pytest.mark.parametrize(("rate", "kept"), [(11024, 11025), (37800, 44100), (192000, 96000), (16000, 16000)])
def test_sound_of_any_rate_becomes_aac(tmp_path, rate, kept):
    source = make_film(tmp_path / "in.mkv", count=25, audio="pcm_s16le", rate=rate)
    copy_film(source, tmp_path / "out.mp4", audio=True)
    with av.open(str(tmp_path / "out.mp4")) as container:
        sound = container.streams.audio[0]
        assert sound.rate == kept
        seconds = sum(frame.samples for frame in container.decode(sound)) / kept
    assert seconds == pytest.approx(16000 / rate, rel=0.1, abs=0.05)


@pytest.mark.parametrize(
    ("audio", "suffix", "kept"),
    [
        ("flac", ".mov", "aac"),
        ("libmp3lame", ".MOV", "mp3float"),
        ("libmp3lame", ".m4v", "aac"),
        ("flac", ".mp4", "flac"),
    ],
)
def test_each_kind_of_file_gets_sound_it_can_hold(tmp_path, audio, suffix, kept):
    source = make_film(tmp_path / "in.mkv", count=25, audio=audio)
    with av.open(str(copy_film(source, tmp_path / f"out{suffix}", audio=True))) as container:
        sound = container.streams.audio[0]
        assert sound.codec_context.name == kept
        assert sum(frame.samples for frame in container.decode(sound)) == pytest.approx(16000, abs=2048)


def test_sound_that_nobody_knows_is_left_out(tmp_path):
    """Phones add a track of a format of their own, of which FFmpeg has but the name."""
    source = make_film(tmp_path / "in.mp4", count=5, audio="aac")
    data = bytearray(source.read_bytes())
    for name in (b"mp4a", b"esds"):
        at = data.rindex(name)
        data[at : at + 4] = b"zzzz"
    source.write_bytes(data)
    with VideoReader(source) as video:
        assert not video.has_audio
    assert len(all_frames(copy_film(source, tmp_path / "out.mp4", audio=True))) == 5


def test_damaged_sound_is_a_gap(tmp_path):
    source = make_film(tmp_path / "in.mkv", count=50, audio="mp2")
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packets = [bytes(packet) for packet in container.demux(audio=0) if packet.size]
    for packet in packets[10:13]:
        at = data.index(packet)
        data[at : at + len(packet)] = np.random.default_rng(0).bytes(len(packet))
    source.write_bytes(data)
    with av.open(str(copy_film(source, tmp_path / "out.mp4", audio=True))) as container:
        sound = container.streams.audio[0]
        assert float(sound.duration * sound.time_base) == pytest.approx(2, abs=0.3)
