"""The weights the field has: what they are, where they lie, under which licence, and which of them are on this disk.

Digests and sizes of the hub files are those of their Git LFS pointers in yzd-v/DWPose, commits f7c16a3 (7 August 2023)
and 1a71441 (22 August 2023). No file is listed whose digest is not known, so every download is checked.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import rtmcc, yolox

# The authors publish the files as Apache-2.0. The images and labels behind them carry terms of their own.
APACHE = "Apache-2.0"
COCO_UBODY = "COCO-WholeBody (non-commercial research; its text also names CC BY 4.0) and UBody (no permissive licence)"
COCO = "COCO labels CC BY 4.0, images under Flickr terms"
SYNTHETIC = "-synthetic"  # tells our weights of a published network from the official ones


@dataclass(frozen=True)
class WeightEntry:
    """One file of weights. `network` names the architecture, `input_size` is (H, W) in pixels."""

    name: str
    kind: Literal["pose", "detector"]
    network: str
    input_size: tuple[int, int]
    repo: str | None  # on the hub; None for a file inside the package
    filename: str
    sha256: str | None  # None only inside the package
    bytes: int | None  # None where the exact size is not known
    weights_licence: str
    data_licence: str
    note: str


def _dwpose(name: str, network: str, filename: str, sha256: str, size: int | None, note: str) -> WeightEntry:
    input_size = rtmcc.VARIANTS[network].input_size
    return WeightEntry(
        name, "pose", network, input_size, "yzd-v/DWPose", filename, sha256, size, APACHE, COCO_UBODY, note
    )


def _in_package(name: str, kind: Literal["pose", "detector"], note: str) -> WeightEntry:
    variants, network = rtmcc.VARIANTS if kind == "pose" else yolox.VARIANTS, name.removesuffix(SYNTHETIC)
    size, file, data = variants[network].input_size, f"{name}.safetensors", "rendered people from CC0 assets"
    return WeightEntry(
        name, kind, network, size, None, file, None, None, APACHE, data, f"in the package: {note}; see its card"
    )


# What ships in the package and stands in where the default of a kind cannot be had.
BUNDLED = {"pose": "dwpose-s-synthetic", "detector": "yolox-cspnext-s"}
# In the order a user should consider them; AP is whole-body AP on COCO-WholeBody v1.0 val (DWPose, arXiv 2307.15880).
ENTRIES: tuple[WeightEntry, ...] = (
    _dwpose(
        "dwpose-l-384",
        "dwpose-l-384",
        "dw-ll_ucoco_384.onnx",
        "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843",
        134399116,
        "the reference model, AP .665; read into torch or run by onnxruntime",
    ),
    _dwpose(
        "dwpose-l",
        "dwpose-l",
        "dw-ll_ucoco.pth",
        "e9600664e7927229ed594197d552023e3be213f810beb38847a959ec8261e0f7",
        404734742,
        "AP .631",
    ),
    _dwpose(
        "dwpose-m",
        "dwpose-m",
        "dw-mm_ucoco.pth",
        "b24f27f57d18d8bb7abc3af8e09bcc5f77ee9ecae13439f70a8f7d1b885413cf",
        216812378,
        "AP .606",
    ),
    _dwpose(
        "dwpose-s",
        "dwpose-s",
        "dw-ss_ucoco.pth",
        "c13dfb1dc63aac2d794ac130bb89734330b3c74a1aff921a40fcde1d87361ffc",
        102933707,
        "AP .538",
    ),
    _dwpose(
        "dwpose-t",
        "dwpose-t",
        "dw-tt_ucoco.pth",
        "7097f5af7f100609acffe58eb01734f02ffbfe22794fe029c2ea0a4d68d0f42d",
        None,
        "AP .485, about 68 MB",
    ),
    _dwpose(
        "dwpose-l-384-pth",
        "dwpose-l-384",
        "dw-ll_ucoco_384.pth",
        "0d9408b13cd863c4e95a149dd31232f88f2a12aa6cf8964ed74d7d97748c7a07",
        406878486,
        "the training checkpoint of dwpose-l-384, three times its size",
    ),
    _dwpose(
        "rtmpose-l",
        "dwpose-l",
        "rtm-l_ucoco_256-95bb32f5_20230822.pth",
        "95bb32f5c6ef235a01e5787b33040d5330f7d315afbbefb66832cabe83b6e49b",
        134223626,
        "teacher of dwpose-t, -s and -m",
    ),
    _dwpose(
        "rtmpose-x",
        "rtmpose-x",
        "rtm-x_ucoco_256-05f5bcb7_20230822.pth",
        "05f5bcb76599e0e23389a9c21f3390b2aa1a56363b27d844556c3be4b138c536",
        226726579,
        "teacher of dwpose-l",
    ),
    _dwpose(
        "rtmpose-x-384",
        "rtmpose-x-384",
        "rtm-x_ucoco_384-f5b50679_20230822.pth",
        "f5b506794e8e4facfa6ae0bf2a19c7c43d67836a90b69a19beced4ddb54732b4",
        227246772,
        "teacher of dwpose-l-384, AP .653",
    ),
    _in_package("dwpose-s-synthetic", "pose", "a starter, for use without a download"),
    _in_package("dwpose-t-synthetic", "pose", "a smaller starter, distilled from dwpose-s-synthetic"),
    _in_package("dwpose-nano", "pose", "the smallest starter"),
    WeightEntry(
        name="yolox-l",
        kind="detector",
        network="yolox-l",
        input_size=yolox.VARIANTS["yolox-l"].input_size,
        repo="yzd-v/DWPose",
        filename="yolox_l.onnx",
        sha256="7860ae79de6c89a3c1eb72ae9a2756c0ccfbe04b7791bb5880afabd97855a411",
        bytes=216746733,
        weights_licence=APACHE,
        data_licence=COCO,
        note="the detector of the original pipeline; other sizes load by path (YOLOX releases, .pth or .onnx)",
    ),
    _in_package("yolox-cspnext-s", "detector", "a starter, for use without a download"),
)


def find(name: str, kind: str | None = None) -> WeightEntry:
    """The entry called `name`.

    Args:
        kind: "pose" or "detector" where only that will do.

    Raises:
        ValueError: for an unknown name, or one of the other kind.
    """
    known = [entry for entry in ENTRIES if kind in (None, entry.kind)]
    for entry in known:
        if entry.name == name:
            return entry
    raise ValueError(
        f"unknown {kind or 'model'} weights {name!r}; give a file (.onnx, .safetensors, .pth) or one of "
        + ", ".join(entry.name for entry in known)
    )


def manual_folders(cache_dir: str | Path | None = None) -> list[Path]:
    """Folders where a file put there by hand is found under its plain name, before the hub cache is asked: those in
    the environment variable DWPOSE_MODELS (several as in PATH), `cache_dir`, and `dwpose` in HF_HOME."""
    from huggingface_hub import constants

    folders = [Path(p).expanduser() for p in os.environ.get("DWPOSE_MODELS", "").split(os.pathsep) if p]
    folders += [Path(cache_dir).expanduser()] if cache_dir is not None else []
    return [*folders, Path(constants.HF_HOME) / "dwpose"]


def cached_path(entry: WeightEntry, cache_dir: str | Path | None = None) -> Path | None:
    """Where the file of `entry` is on this machine, or None. No network, and no digest is checked here."""
    if entry.repo is None:
        path = Path(__file__).resolve().parent.parent / "bundled" / entry.filename
        return path if path.is_file() else None
    for folder in manual_folders(cache_dir):
        if (folder / entry.filename).is_file():
            return folder / entry.filename
    from huggingface_hub import try_to_load_from_cache

    cache_dir = cache_dir and Path(cache_dir).expanduser()  # which, unlike the download, this function does not do
    found = try_to_load_from_cache(entry.repo, entry.filename, cache_dir=cache_dir)
    return Path(found) if isinstance(found, str) else None


def models_table(cache_dir: str | Path | None = None) -> str:
    """What `dwpose models` prints: every entry, and where its file is on this machine."""
    lines = []
    longest = max(len(entry.name) for entry in ENTRIES)
    for entry in ENTRIES:
        path = cached_path(entry, cache_dir)
        size = entry.bytes or (path.stat().st_size if path else None)
        height, width = entry.input_size
        megabytes = f"{size / 1e6:.1f} MB" if size else "size not known"
        lines += [
            f"{entry.name:{longest}s}  {entry.kind:8s} {width:3d}x{height:<3d}  {megabytes:>14s}  {entry.note}",
            f"    source    {entry.repo + ': ' if entry.repo else 'in the package: '}{entry.filename}",
            f"    sha256    {entry.sha256 or 'none, it comes with the package'}",
            f"    licence   weights {entry.weights_licence}; training data: {entry.data_licence}",
            f"    on disk   {path or 'no'}",
        ]
    folders = ", ".join(str(folder) for folder in manual_folders(cache_dir))
    return "\n".join([*lines, "", f"Files put by hand into one of these folders are found too: {folders}"])
