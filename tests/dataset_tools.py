"""Small collections and a small network for the dataset tests."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

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
    with tarfile.open(path, "w") as tar:
        for i in range(first, first + count):
            for suffix, data in (("jpg", picture(i)), ("txt", f"picture {i}".encode()), ("json", b"{}")):
                info = tarfile.TarInfo(f"sample{i:04d}.{suffix}")
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
