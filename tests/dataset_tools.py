"""Small collections and a small network for the dataset tests."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from dwpose_core.cli import main
from dwpose_core.dataset.sinks import read_keypoint_rows
from dwpose_core.models import create_model


def make_weights(path: Path) -> Path:
    """The debug network with an output layer that is sure of itself: one person in every picture."""
    torch.manual_seed(0)
    net = create_model("debug").eval()
    with torch.inference_mode():
        top = max(float(logits.max()) for logits in net(torch.randn(2, 3, 64, 64)))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name in ("head.cls_x.weight", "head.cls_y.weight"):
        state[name] *= 3 / top
    save_file(state, path)
    return path


def picture(i: int, kind: str = "JPEG", **options) -> bytes:
    """A small picture, another one for each i."""
    rng = np.random.default_rng(i)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((80 + i % 5, 64 + i % 7), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_photos(folder: Path, count: int = 12, broken: bool = True) -> Path:
    """a/000.jpg, b/c/001.png, ... with captions for every third, and two that are broken."""
    for i in range(count):
        name = f"a/{i:03d}.jpg" if i % 2 == 0 else f"b/c/{i:03d}.png"
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(i, "JPEG" if i % 2 == 0 else "PNG"))
        if i % 3 == 0:
            file.with_suffix(".txt").write_text(f"picture {i}")
    if broken:
        (folder / "a" / "004x.jpg").write_bytes(picture(4)[:300])
        (folder / "b" / "empty.png").write_bytes(b"")
    return folder


def make_tar(path: Path, first: int, count: int) -> Path:
    members = {}
    for i in range(first, first + count):
        members |= {f"sample{i:04d}.jpg": picture(i), f"sample{i:04d}.txt": f"picture {i}".encode()}
        members |= {f"sample{i:04d}.json": b"{}"}
    return write_tar(path, members)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def tree(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Digest of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in without
    }


@cache
def _weights(folder: Path) -> Path:
    return make_weights(folder / "debug.safetensors")


def extractor(tmp_path_factory, tmp_path):
    """For `extract = pytest.fixture(extractor)`: runs `dwpose extract SOURCE --out <tmp>/NAME ...` in threads.

    The call returns exit code and folder; networks are the debug one unless `pose` says otherwise.
    """
    weights = _weights(tmp_path_factory.getbasetemp())

    def call(source, *options, out="out", decoders="0", pose=weights, log="none"):
        target = out if "://" in str(out) else str(tmp_path / out)
        device = () if "--devices" in options else ("--device", "cpu")
        code = main(
            ["extract", str(source), "--out", target, "--pose", str(pose), "--detector", "none", *device,
             "--decoders", decoders, "--log", log, "--offline", *map(str, options)]
        )  # fmt: skip
        return code, tmp_path / out

    return call


def reports(out: Path) -> list[dict]:
    files = sorted((out / "_dwpose" / "shards").glob("*_report.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def failed(out: Path) -> dict[str, str]:
    return {row["key"]: row["message"] for row in reports(out) if row["status"] == "failed"}


def stored(out: Path) -> dict:
    files = sorted((out / "keypoints").glob("*.jsonl.gz"))
    return {key: people for file in files for key, people in read_keypoint_rows(file.read_bytes())}
