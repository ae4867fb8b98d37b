"""Weight files: which of ComfyUI's folders hold some, what the loader offers, and what a choice stands for."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from ..dwpose_core.models import catalogue

POSE_FOLDER, DETECTOR_FOLDER = "dwpose", "detection"
# Where the older pack keeps its downloads: nobody should need the same file twice.
OTHERS_FOLDER = "dwpose_controlnet_aux"
SUFFIXES = {".safetensors", ".onnx", ".pth", ".pt"}
AUTO, NONE = "auto", "none"
DEFAULTS = {"pose": "dwpose-l-384", "detector": "yolox-l"}


def home_of(kind: str) -> str:
    return POSE_FOLDER if kind == "pose" else DETECTOR_FOLDER


def register_folders() -> None:
    """models/dwpose and models/detection, also as keys of extra_model_paths.yaml, and the older pack's. Folders that
    ComfyUI or other packs share are only added to."""
    for key in (POSE_FOLDER, DETECTOR_FOLDER):
        folder_paths.add_model_folder_path(key, os.path.join(folder_paths.models_dir, key))
        paths, suffixes = folder_paths.folder_names_and_paths[key]
        if suffixes and not SUFFIXES <= set(suffixes):
            # Newer cores have models/detection themselves, without .onnx. The set is that of all their folders: a copy.
            folder_paths.folder_names_and_paths[key] = paths, SUFFIXES.union(suffixes)
            folder_paths.filename_list_cache.pop(key, None)
    for root in folder_paths.get_folder_paths("custom_nodes"):
        folder_paths.add_model_folder_path(OTHERS_FOLDER, os.path.join(root, "comfyui_controlnet_aux", "ckpts"))


def choices(kind: str) -> list[str]:
    """What the loader offers: "auto", the catalogue (downloaded on first use), and the files that are there."""
    names = [entry.name for entry in catalogue.ENTRIES if entry.kind == kind]
    return [AUTO, *([NONE] if kind == "detector" else []), *names, *offered(kind)]


def offered(kind: str) -> list[str]:
    """Files that may be a network of this kind; what they really are is read from their shapes."""
    return sorted({name for key in _folders(kind) for name in _names(key) if _kind_of(key, name) == kind})


def _folders(kind: str) -> tuple[str, ...]:
    home = home_of(kind)
    return home, DETECTOR_FOLDER if home == POSE_FOLDER else POSE_FOLDER, OTHERS_FOLDER


def _names(key: str) -> list[str]:
    # TorchScript is a program, not weights.
    return [
        name
        for name in folder_paths.get_filename_list(key)
        if os.path.splitext(name)[1].lower() in SUFFIXES and "torchscript" not in name.lower()
    ]


def _kind_of(key: str, name: str) -> str | None:
    """models/dwpose is ours: whatever lies there is a pose network, unless it is called yolo. Other packs keep pose
    networks of other kinds in models/detection (ViTPose), and everything they have in the older pack's folder."""
    if "yolo" in os.path.basename(name).lower():
        return "detector"
    if key == POSE_FOLDER or _looks_like_dwpose(name):
        return "pose"
    return "detector" if key == DETECTOR_FOLDER and "pose" not in os.path.basename(name).lower() else None


def _looks_like_dwpose(name: str) -> bool:
    stem = os.path.basename(name).lower()
    return ("dw" in stem or "rtm" in stem) and "ap10k" not in stem


def find_file(name: str, kind: str) -> Path | None:
    """A file of the folders by the name the loader shows, else by its last part, as workflows of others name files.

    Folders in a name end in what the system has that the workflow was made on, slash or backslash.
    """
    name = name.replace("\\", "/")
    for same in (str, os.path.basename):
        for key in _folders(kind):
            for known in folder_paths.get_filename_list(key):
                # A link to nowhere has a name, but no path.
                if same(known.replace("\\", "/")) == name and (path := folder_paths.get_full_path(key, known)):
                    return Path(path)
    return None


def candidates(kind: str, name: str) -> Iterator[tuple[Path, list[str]]]:
    """The file behind a choice, downloaded where needed, and what the user should know about it in sentences, the first
    for a place where there is room for one only. For "auto" the next ones are there for when a file turns out to be
    something else.

    Raises:
        ValueError: for a name that is neither a file nor in the catalogue.
        dwpose_core.models.download.WeightsUnavailable: with the file to get and where to put it.
    """
    from ..dwpose_core.models import download

    if name != AUTO:
        path = find_file(name, kind)
        yield (path, []) if path else _fetch(catalogue.find(name, kind))
        return
    entry = catalogue.find(DEFAULTS[kind], kind)
    starter = catalogue.cached_path(catalogue.find(catalogue.BUNDLED[kind]))
    try:
        found = _fetch(entry)
    except download.WeightsUnavailable as error:
        if starter is None and not _stand_ins(kind):
            raise
        logging.warning("DWPose: %s", error)
    else:
        yield found
    for path in _stand_ins(kind):
        yield path, [f"{entry.name} is not here, using {path.name}."]
    if starter is not None:
        then = f"Until then small, rough starters stand in. {entry.repo} on Hugging Face has the files."
        yield starter, [f"Put {entry.filename} into models/{home_of(kind)}.", then]


def _stand_ins(kind: str) -> list[Path]:
    """Files that "auto" takes where its own cannot be had, best guess first. Of detectors only those called YOLOX: most
    other YOLOs are other networks."""
    names = [name for name in offered(kind) if kind == "pose" or "yolox" in os.path.basename(name).lower()]
    own = catalogue.find(DEFAULTS[kind], kind).filename
    names = sorted((name for name in names if os.path.basename(name) != own), key=lambda n: not _looks_like_dwpose(n))
    return [path for name in names if (path := find_file(name, kind)) is not None]


# Entries whose download failed in this process, so that another file may have stood in: see `fingerprint`.
_missed: set[str] = set()


def fingerprint(kind: str, name: str | None) -> list:
    """What a choice stands for on this disk, without a look at the network: another list wherever a file comes, goes or
    changes. None is a choice that is not known yet.

    A file of the catalogue is known before it is here: it will be downloaded to this place with this digest, and the
    graph need not run again when it is. Only where the download had failed is it something new once it is there.
    """
    if name in (None, NONE):
        return [name]
    paths, published = [], []
    known = {entry.name: entry for entry in catalogue.ENTRIES if entry.kind == kind}
    if name == AUTO:
        paths = _stand_ins(kind)
    elif name not in known:
        paths = [find_file(name, kind)]
    if entry := known.get(DEFAULTS[kind] if name == AUTO else name):
        home = Path(folder_paths.get_folder_paths(home_of(kind))[0])
        path = find_file(entry.filename, kind) or catalogue.cached_path(entry, home)
        if entry.sha256 is not None and (path is None or _digest(path) == entry.sha256):
            published = [(str(path or home / entry.filename), entry.sha256, path is not None and entry.name in _missed)]
        else:
            paths = [path, *paths]
    return published + [(str(path), path.stat().st_mtime_ns) for path in paths if path is not None]


def _digest(path: Path) -> str:
    """sha256 of a file, read once for as long as it does not change."""
    state = path.stat()
    return _digest_of(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=32)
def _digest_of(path: Path, size: int, changed: int) -> str:
    from ..dwpose_core.models import download

    return download.digest(path)


def _fetch(entry: catalogue.WeightEntry) -> tuple[Path, list[str]]:
    """The file of a catalogue entry and a remark: from ComfyUI's folders, else downloaded and checked."""
    from ..dwpose_core.models import download

    path = find_file(entry.filename, entry.kind)
    if path is not None:
        if entry.sha256 is None or _digest(path) == entry.sha256:
            return path, []
        # A file put there by hand may be another edition on purpose, but nobody should take it for the published one.
        return path, [f"{path.name} is not the published file (its sha256 differs); using it as it is."]
    if entry.repo is None:
        return download.fetch(entry), []
    home = Path(folder_paths.get_folder_paths(home_of(entry.kind))[0])
    try:
        path = download.fetch(entry, cache_dir=home)
    except download.WeightsUnavailable:
        _missed.add(entry.name)
        raise
    cache = home / f"models--{entry.repo.replace('/', '--')}"
    if cache in path.parents:  # out of the hub's tree of links, to where a user would look for it
        os.replace(path.resolve(), home / entry.filename)
        shutil.rmtree(cache)
        path = home / entry.filename
    return path, []
