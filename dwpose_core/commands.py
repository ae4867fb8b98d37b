"""What the subcommands of `dwpose` do; `cli.py` holds their options. Each takes the parsed arguments and returns the
exit code."""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .animate_cli import animate  # noqa: F401
from .arguments import describe, draw_size, drawing_from, load_networks, parse_size
from .clips import FOLDER_FPS, Rate
from .dataset.cli import extract, stats  # noqa: F401
from .dataset.redraw import redraw
from .images import IMAGE_SUFFIXES, atomic_write, check_picture_name, in_order, place_of, read_image, write_image
from .people import People
from .video import WRITTEN_SUFFIXES, VideoWriter
from .video_cli import video  # noqa: F401


def image(args: argparse.Namespace) -> int:
    named = find_inputs(args.inputs, args.out)
    inputs = list(named)
    several = len(inputs) > 1 or any(Path(name).is_dir() for name in args.inputs)
    layout = args.json_layout or ("list" if args.json or args.scores else None)
    outputs = _output_paths(named, args.out, several, layout, args.overlay)
    boxes = _parse_boxes(args.box)
    if boxes is not None and several:
        raise ValueError("--box goes with a single input image")
    drawing = drawing_from(args)
    # Own boxes replace the detector: do not load, let alone download, one.
    detector = load_networks(args, with_detector=boxes is None)
    failures: list[str] = []
    nobody = found = 0
    with tqdm(total=len(inputs), unit="image", disable=len(inputs) == 1) as progress:
        for start in range(0, len(inputs), args.batch_size):
            photos, targets = [], []
            for path, target in zip(inputs[start : start + args.batch_size], outputs[start:], strict=False):
                try:
                    photos.append(read_image(path))
                    targets.append(target)
                except (ValueError, OSError) as error:
                    failures.append(str(error))
            results = detector.detect(photos, boxes=None if boxes is None else [boxes]) if photos else []
            for photo, people, target in zip(photos, results, targets, strict=True):
                try:
                    _write_results(photo, people, target, args, layout, drawing)
                except OSError as error:
                    failures.append(str(error))
                found += len(people)
                nobody += len(people) == 0
            progress.update(min(args.batch_size, len(inputs) - start))
            progress.set_postfix(people=found, failed=len(failures))
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    done = len(inputs) - len(failures)
    where = describe(detector)
    missed = f", nobody in {nobody}" if nobody else ""
    print(f"{done} of {_counted(len(inputs), 'image')}, {_counted(found, 'person', 'people')}{missed}; {where}")
    if done:
        print(f"wrote {outputs[0] if not several else args.out}")
    return 1 if failures else 0


def render(args: argparse.Namespace) -> int:
    source, drawing = Path(args.keypoints), drawing_from(args)
    extracted = (source / "keypoints").is_dir() or source.name.endswith((".jsonl", ".jsonl.gz"))
    if extracted:
        return redraw(source, Path(args.out), args.draw_size and parse_size(args.draw_size), drawing, args.fps)
    size = args.image_size and parse_size(args.image_size)
    if isinstance(size, int):
        raise ValueError(f"--image-size is WIDTHxHEIGHT in pixels, got {args.image_size}")
    out = Path(args.out)
    film = out.suffix.lower() in WRITTEN_SUFFIXES
    if args.fps is not None and not film:
        raise ValueError("--fps is for films: let -o end in .mp4, or leave --fps out")
    if source.is_dir() and not film:
        return _render_folder(source, out, size, args.draw_size, drawing)
    # A folder of files with a frame each, as OpenPose and many nodes write them, is a film.
    frames = [frame for file in _keypoint_files(source) for frame in _read_frames(file, size)]
    if film:
        _draw_film(frames, out, args.draw_size, drawing, FOLDER_FPS if args.fps is None else args.fps)
    elif len(frames) == 1:
        out = _single_output(args.out, source.stem)
        _draw_frames(frames, out, args.draw_size, drawing)
    elif out.suffix and not _names_folder(args.out):
        raise ValueError(
            f"{source} holds {len(frames)} frames: -o must be a folder or an .mp4, not a file like {out.name}"
        )
    else:
        _draw_frames(frames, out, args.draw_size, drawing, bar=True)
    count = sum(len(people) for people in frames)
    print(f"{_counted(len(frames), 'frame')}, {_counted(count, 'person', 'people')}; wrote {out}")
    return 0


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count} {one if count == 1 else many or one + 's'}"


def _render_folder(source: Path, out: Path, size: tuple[int, int] | None, size_drawn: str | None, drawing: dict) -> int:
    """Every .json and .npz of a folder: one frame to OUT/<stem>.png, several to OUT/<stem>/<frame>.png."""
    if out.suffix.lower() in IMAGE_SUFFIXES and not out.is_dir():
        raise ValueError(f"{source} is a folder: -o must be a folder or an .mp4, not a file like {out.name}")
    files = _keypoint_files(source)
    failures: list[str] = []
    for file in tqdm(files, unit="file"):
        try:
            frames = _read_frames(file, size)
            _draw_frames(frames, out / (f"{file.stem}.png" if len(frames) == 1 else file.stem), size_drawn, drawing)
        except (ValueError, OSError) as error:
            failures.append(str(error))
    for line in failures:
        print(f"failed: {line}", file=sys.stderr)
    print(f"{len(files) - len(failures)} of {len(files)} files; wrote {out}")
    return 1 if failures else 0


def _keypoint_files(source: Path) -> list[Path]:
    """A file, or those of a folder in their order, f_2 before f_10."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise ValueError(f"no keypoint file at {source}")
    files = in_order(source, (".json", ".npz"))
    if not files:
        raise ValueError(f"no .json or .npz in {source}, nor what `dwpose extract --keypoints jsonl` writes")
    stems = Counter(file.stem for file in files)
    if twice := {stem for stem, count in stems.items() if count > 1}:
        raise ValueError(f"{source} holds {min(twice)} as .json and as .npz: both would become one map")
    return files


def _draw_frames(frames: list[People], out: Path, size: str | None, drawing: dict, bar: bool = False) -> None:
    """One frame to the file `out`, several to <frame>.png in the folder `out`."""
    from .render import render as draw

    digits = max(6, len(str(len(frames))))
    for number, people in enumerate(tqdm(frames, unit="frame", disable=not bar or len(frames) == 1)):
        target = out / f"{number:0{digits}d}.png" if len(frames) > 1 else out
        write_image(target, draw(people, draw_size(size, people), **drawing))


def _draw_film(frames: list[People], out: Path, size: str | None, drawing: dict, fps: float) -> None:
    from .render import render as draw

    rate = Rate.of(fps)
    with VideoWriter(out, rate) as film:
        for number, people in enumerate(tqdm(frames, unit="frame")):
            film.write(draw(people, draw_size(size, people), **drawing), number / rate.fps)


def _read_frames(source: Path, size: tuple[int, int] | None) -> list[People]:
    """The frames of a .npz or of OpenPose JSON; errors name the file."""
    from .formats import from_openpose, load_npz

    try:
        frames = load_npz(source) if source.suffix.lower() == ".npz" else from_openpose(source.read_bytes(), size)
    except ValueError as error:
        hint = ", or give one with --image-size WIDTHxHEIGHT" if "no image_size" in str(error) else ""
        raise ValueError(f"{source}: {error}{hint}") from error
    if not frames:
        raise ValueError(f"{source} holds no frames: there is nothing to draw")
    return frames


def models(args: argparse.Namespace) -> int:
    from .models.catalogue import models_table

    print(models_table(args.cache_dir))
    return 0


def convert(args: argparse.Namespace) -> int:
    from .models.convert import convert as convert_weights

    print(convert_weights(args.source, args.target, part=args.part))
    return 0


def export(args: argparse.Namespace) -> int:
    from .models.export import export_onnx
    from .models.weights import load_network

    net = load_network(args.source, cache_dir=args.cache_dir, local_files_only=args.offline)
    print(export_onnx(net, args.target, opset=args.opset))
    return 0


def doctor(args: argparse.Namespace) -> int:
    from .doctor import report

    text, problems = report(args.cache_dir)
    print(text)
    return 1 if problems else 0


def find_inputs(names: list[str], out: str) -> dict[Path, Path]:
    """Files, the images below folders, and globs -> files in a stable order, each once, with the name its map gets
    (without suffix): that of the file, below a folder with the folders between.

    Maps of an earlier run in a folder `out` below an input folder are no input, nor is what is hidden: macOS puts a
    ._photo.jpg that is no picture beside each photo.jpg on a foreign disk.

    Raises:
        ValueError: when a name matches nothing.
    """
    found: dict[Path, Path] = {}
    target = Path(out).resolve()
    for name in names:
        path = Path(name)
        if name and path.is_dir():  # "", a variable of the shell that is not set, is not the folder we are in
            earlier = target if path.resolve() in target.parents else None
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
            matches = [p for p in matches if not any(part.startswith(".") for part in p.relative_to(path).parts)]
            matches = [p for p in matches if earlier is None or earlier not in p.resolve().parents]
            if not matches:
                raise ValueError(f"no image below the folder {name}")
        elif path.is_file():
            matches = [path]
        else:
            matches = [Path(p) for p in sorted(glob.glob(name, recursive=True)) if Path(p).is_file()]
            if not matches:
                raise ValueError(f"no file, folder or pattern matches {name!r}")
        for match in matches:
            below = match.relative_to(path) if path.is_dir() else Path(match.name)
            found.setdefault(match, below.with_name(match.stem))
    return found


def _single_output(out: str, stem: str) -> Path:
    """The file `out`, or `stem`.png in the folder `out`: one that exists, ends in a slash, or has no suffix."""
    path = Path(out)
    if _names_folder(out) or not path.suffix:
        return path / f"{stem}.png"
    check_picture_name(path)
    return path


def _names_folder(out: str) -> bool:
    """Whether `out` is a folder even though it may have a suffix, as in poses.v2/."""
    return Path(out).is_dir() or out.endswith(("/", os.sep))


def _output_paths(
    named: dict[Path, Path], out: str, several: bool, layout: str | None, overlay_too: bool
) -> list[Path]:
    """Where the map of each input goes; see `find_inputs`.

    Raises:
        ValueError: where something written would replace an input or what is written for another one, or `out` is no
            name for it.
    """
    if several:
        folder = Path(out)
        if folder.suffix.lower() in IMAGE_SUFFIXES:
            raise ValueError(f"with several inputs -o is a folder, not a file like {folder.name}")
        outputs = [folder / name.with_name(f"{name.name}.png") for name in named.values()]
    else:
        (name,) = named.values()
        outputs = [_single_output(out, name.name)]
    photographs = {place_of(path) for path in named}
    owner: dict[str, Path] = {}
    for path, target in zip(named, outputs, strict=True):
        files = [target]
        files += [_json_path(target, layout)] if layout else []
        files += [_overlay_path(target)] if overlay_too else []
        for file in files:
            place = place_of(file)
            if place in photographs:
                raise ValueError(
                    f"{file.name} would replace the photograph {file.resolve()}; choose another folder with -o"
                )
            if place in owner:
                raise ValueError(
                    f"{owner[place]} and {path} would both be written to {file.resolve()}; run them one by one"
                )
            owner[place] = path
    return outputs


def _json_path(target: Path, layout: str) -> Path:
    """Readers of the OpenPose program's files look for its name, <stem>_keypoints.json."""
    return target.with_suffix(".json") if layout == "list" else target.with_name(f"{target.stem}_keypoints.json")


def _overlay_path(target: Path) -> Path:
    return target.with_name(f"{target.stem}.overlay.png")


def _write_results(
    photo: np.ndarray, people: People, target: Path, args: argparse.Namespace, layout: str | None, drawing: dict
) -> None:
    from .formats import openpose_file, to_openpose
    from .render import overlay, render

    size = draw_size(args.draw_size, people)
    with _making(target):
        write_image(target, render(people, size, **drawing))
    if layout:
        frames = to_openpose(people, threshold=args.threshold, confidence="score" if args.scores else "binary")
        path = _json_path(target, layout)
        with _making(path), atomic_write(path) as temporary:
            contents = frames if layout == "list" else openpose_file(frames[0], body_25=layout == "body25")
            temporary.write_text(json.dumps(contents))
    if args.overlay:
        path = _overlay_path(target)
        with _making(path):
            write_image(path, overlay(photo, people, **drawing))


@contextlib.contextmanager
def _making(path: Path) -> Iterator[None]:
    """OSError that names the file, where there is no room for it on the disk or in memory."""
    try:
        yield
    except (OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "not enough memory"
        raise OSError(f"{path} cannot be written: {reason}") from error


def _parse_boxes(texts: list[str] | None) -> np.ndarray | None:
    if not texts:
        return None
    try:
        return np.array([[float(v) for v in text.split(",")] for text in texts], np.float32).reshape(len(texts), 4)
    except ValueError as error:
        raise ValueError(f"--box takes four numbers, X1,Y1,X2,Y2 in pixels; got {', '.join(texts)}") from error
