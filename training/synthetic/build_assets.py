r"""Build the folder of packed body assets from checkouts of its public sources.

    python -m training.synthetic.build_assets --makehuman DIR --makehuman-assets DIR --hdri DIR \
        --backgrounds DIR --out DIR

| option             | repository (commit of the reference pack)      | licence                          |
|--------------------|------------------------------------------------|----------------------------------|
| --makehuman        | makehumancommunity/makehuman a8bc2d5           | CC0-1.0                          |
| --makehuman-assets | makehumancommunity/makehuman-assets 8cf9645    | CC0-1.0                          |
| --hdri             | pmndrs/assets d8709a9                          | CC0-1.0                          |
| --backgrounds      | BuddiesOfBudgie/budgie-backgrounds 8206742     | CC0-1.0                          |
| --photographs      | 51, listed in assets/photographs.json          | CC0-1.0, seven: public domain    |
| --cmu              | DragonForgedTheArtist/IClone-CMU-Mocap 79529f9 | CMU terms, only with --allow-cmu |

Pictures of makehuman-assets are in git-LFS: run `git lfs pull` there. Where that is not possible, --pictures names
folders that hold the same files; they are recognised by the sha256 that the CC0 repository names, not by their path.
Person k of a seed looks the same with the result as with the reference pack; --more-pictures adds the skins, hair and
clothes of which the reference pack has no picture, for more variety but other people. --photographs names a folder that
holds checkouts as OWNER/NAME, of which 180 photographs and 21 panoramas are taken.

OUT must not exist; it appears complete or not at all. OUT/manifest.json names source, commit, licence and sha256 of
every file and of everything it was made from. The same checkouts give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .assets.body import base_arrays, target_arrays
from .assets.clothing import eyes_and_skins, fitted_pieces
from .assets.motion import motion_arrays
from .assets.photographs import PartCheckout, open_parts, read_parts
from .assets.pictures import hdri, panorama, photo, texture
from .assets.sources import CC0, SOURCES, Checkout, PictureStore, naming

NO_PHOTOS = ("saturnian-profile",)  # a planet in black space


class Pack:
    """The folder being written and its manifest."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[dict] = []

    def add(self, name: str, data: bytes, *checkouts: Checkout) -> None:
        """Write a file made from everything that was read from `checkouts` since their last file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        origin = [
            {"source": c.source.repository, "commit": c.commit, "licence": c.source.licence, "files": files}
            for c in checkouts
            if (files := c.take_inputs())
        ]
        sha256 = hashlib.sha256(data).hexdigest()
        # Without an origin the file is part of this repository.
        self.files.append({"file": name, "bytes": len(data), "sha256": sha256, "licence": CC0, "from": origin})
        if origin:
            self.files[-1]["licence"] = origin[0]["licence"]

    def add_arrays(self, name: str, arrays: dict[str, np.ndarray], *checkouts: Checkout) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        self.add(name, buffer.getvalue(), *checkouts)


def build_assets(
    roots: dict[str, Path],
    out: Path,
    picture_folders: tuple[Path, ...] = (),
    more_pictures: bool = False,
    allow_cmu: bool = False,
    photographs: Path | None = None,
) -> dict:
    """Build `out` from the checkouts in `roots` and return the manifest.

    Args:
        roots: keys of SOURCES; "makehuman" and "makehuman-assets" are needed, the others leave their part out.
        picture_folders: where the content of git-LFS pointers may lie.
        more_pictures: also pictures that the reference pack lacks.
        allow_cmu: accept the terms of the motion capture, the only source that is not free of terms.
        photographs: folder with the checkouts of photographs.json as OWNER/NAME.

    Raises:
        ValueError: `out` exists; a checkout is missing or incomplete, is not CC0, has git-LFS pointers without content,
            or holds another photograph than photographs.json means.
    """
    if "cmu" in roots and not allow_cmu:
        raise ValueError(f"--cmu is not CC0; give --allow-cmu if you accept: {SOURCES['cmu'].licence}")
    if out.exists():
        raise ValueError(f"{out} exists; name a new folder or remove it")
    store = PictureStore(list(picture_folders))
    checkouts = {key: Checkout(key, root, store) for key, root in roots.items()}
    parts = open_parts(photographs) if photographs else []
    partial = out.with_name(f".{out.name}.partial")  # beside it, so that the rename is one step
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pack = Pack(partial)
    try:
        _add_clothing(pack, (checkouts["makehuman-assets"], checkouts["makehuman"]), more_pictures)
        _add_body(pack, checkouts["makehuman"])
        if "hdri" in checkouts:
            _add_light(pack, checkouts["hdri"])
        if "backgrounds" in checkouts:
            _add_photos(pack, checkouts["backgrounds"])
        if parts:
            _add_photographs(pack, parts)
        if "cmu" in checkouts:
            pack.add_arrays("poses_cmu.npz", motion_arrays(checkouts["cmu"]), checkouts["cmu"])
        pack.files.sort(key=lambda entry: entry["file"])
        manifest = {"files": pack.files}
        (partial / "manifest.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _add_clothing(pack: Pack, checkouts: tuple[Checkout, ...], more_pictures: bool) -> None:
    pieces = fitted_pieces(checkouts, more_pictures)
    geometry = {f"{piece.name}|{field}": array for piece in pieces for field, array in piece.arrays.items()}
    pack.add_arrays("proxies.npz", geometry, *checkouts)
    wanted = [picture for piece in pieces for picture in (piece.texture, piece.occlusion) if picture]
    wanted += eyes_and_skins(checkouts, more_pictures)
    for checkout in checkouts:
        checkout.require([picture.path for picture in wanted if picture.checkout is checkout])
        checkout.take_inputs()  # materials only lead to the pictures
    files = {}
    for picture in tqdm(wanted, desc="textures", unit="picture"):
        content = picture.checkout.read(picture.path)
        with naming(picture.path):
            data, suffix = texture(content, picture.size)
        files[picture.name] = picture.name + suffix
        pack.add(f"tex/{files[picture.name]}", data, picture.checkout)
    table = {
        piece.name: {
            "tex": files[piece.texture.name] if piece.texture else None,
            "ao": files[piece.occlusion.name] if piece.occlusion else None,
            "verts": len(piece.arrays["ref"]),
            "tris": len(piece.arrays["tri"]),
        }
        for piece in pieces
    }
    pack.add("proxies.json", json.dumps(table, indent=1).encode())
    clothing = checkouts[0]
    for path in clothing.find("poses/*.bvh"):
        clothing.text(path.with_suffix(".meta"))  # where the licence of a pose stands
        pack.add(f"bvh/{path.name}", clothing.read(path), clothing)


def _add_body(pack: Pack, makehuman: Checkout) -> None:
    pack.add_arrays("base.npz", base_arrays(makehuman), makehuman)
    pack.add_arrays("targets.npz", target_arrays(makehuman), makehuman)
    pack.add("LICENSE-CC0.md", makehuman.read(makehuman.root / makehuman.source.licence_file), makehuman)


def _add_light(pack: Pack, checkout: Checkout) -> None:
    paths = checkout.find("*.hdr")
    checkout.require(paths)
    for path in tqdm(paths, desc="light", unit="panorama"):
        for name, make in ((f"hdri/{path.name}", hdri), (f"backgrounds/pano_{path.stem}.jpg", panorama)):
            content = checkout.read(path)
            with naming(path):
                pack.add(name, make(content), checkout)


def _add_photos(pack: Pack, checkout: Checkout) -> None:
    paths = [path for path in checkout.find("*.jpg") if path.stem not in NO_PHOTOS]
    checkout.require(paths)
    for path in tqdm(paths, desc="backgrounds", unit="photo"):
        content = checkout.read(path)
        with naming(path):
            pack.add(f"backgrounds/budgie_{path.name}", photo(content), checkout)


def _add_photographs(pack: Pack, parts: list[PartCheckout]) -> None:
    wanted = [(checkout, file) for checkout in parts for file in checkout.part.photographs]
    for checkout, file in tqdm(wanted, desc="photographs", unit="photo"):
        pack.add(f"backgrounds/{file.name}.jpg", checkout.picture(file), checkout)


def report(manifest: dict, roots: dict[str, Path]) -> str:
    """What was taken from where under which licence, and what was left out."""
    lines = []
    for key, source in SOURCES.items():
        if key not in roots:
            lines.append(f"{source.repository}: not given (--{key}, {source.url}), so no {source.gives}")
            continue
        made = [origin for entry in manifest["files"] for origin in entry["from"]]
        made = [origin for origin in made if origin["source"] == source.repository]
        taken = {path for origin in made for path in origin["files"]}
        commit = made[0]["commit"]
        where = f"commit {commit[:7]}" if commit else "commit unknown (no git work tree)"
        if commit != source.commit:
            where += f"; reference pack: {source.commit[:7]}"
        lines.append(f"{source.repository}, {where}: {source.gives}; {len(taken)} files -> {len(made)}")
        lines.append(f"    licence: {source.licence}")
    repositories = {part.source.repository for part in read_parts()}
    made = [entry for entry in manifest["files"] if any(o["source"] in repositories for o in entry["from"])]
    if made:
        lines.append(f"{len(repositories)} repositories of photographs: {len(made)} files")
        lines.append(f"    licence: {', '.join(sorted({entry['licence'] for entry in made}))}")
    else:
        lines.append(f"{len(repositories)} repositories of photographs: not given (--photographs)")
    lines.append(f"{len(manifest['files'])} files, {sum(entry['bytes'] for entry in manifest['files']) / 1e6:.1f} MB")
    if "hdri" not in roots or "backgrounds" not in roots:
        lines.append("Rendering needs the light of --hdri, compositing the photographs of --backgrounds.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for key, source in SOURCES.items():
        needed = key.startswith("makehuman")
        parser.add_argument(f"--{key}", type=Path, required=needed, metavar="DIR", help=f"checkout of {source.url}")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="checkouts as DIR/OWNER/NAME")
    parser.add_argument("--allow-cmu", action="store_true", help="accept the terms of the motion capture: not CC0")
    parser.add_argument("--pictures", type=Path, nargs="+", default=[], metavar="DIR", help="content of LFS pointers")
    parser.add_argument("--more-pictures", action="store_true", help="more variety, but other people for a seed")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    given = {key: getattr(args, key.replace("-", "_")) for key in SOURCES}
    roots = {key: root for key, root in given.items() if root is not None}
    try:
        manifest = build_assets(
            roots, args.out, tuple(args.pictures), args.more_pictures, args.allow_cmu, args.photographs
        )
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    print(report(manifest, roots))


if __name__ == "__main__":
    main()
