"""What goes on a body: fitted pieces (proxies.npz, proxies.json), their pictures, eyes and skins."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .formats import read_mhclo, read_mhmat, read_obj
from .sources import Checkout, naming

KINDS = ("clothes", "hair", "eyebrows", "eyelashes", "eyes", "teeth")
RENAMED = {"clothes/fedora": "clothes/fedora01"}  # called after its folder
TEXTURE_SIZES = {"clothes": 1024, "hair": 512, "skin": 1024}  # pixels, longer side; all others:
SMALL_TEXTURE = 256
OCCLUSION_SIZE = 512
# Of these the reference pack has no picture, and more pictures would shift what a seed draws.
WITHOUT_PICTURE = {
    "clothes/fedora01",
    "clothes/fedora_cocked",
    "clothes/female_casualsuit02",
    "clothes/male_casualsuit01",
    "hair/afro01",
    "hair/bob01",
    "skin/middleage_african_female",
    "skin/middleage_caucasian_female",
    "skin/old_african_female",
    "skin/old_asian_female",
    "skin/old_asian_male",
    "skin/old_caucasian_female",
    "skin/old_caucasian_male",
    "skin/young_african_female",
    "skin/young_caucasian_female",
    "skin/young_caucasian_male_special_suit",
}
NO_SKINS = ("toon01",)  # a drawn figure


@dataclass(frozen=True)
class Picture:
    """A texture to be made: `name` without suffix in tex/, from `path`, `size` pixels at its longer side."""

    name: str
    path: Path
    checkout: Checkout
    size: int


@dataclass(frozen=True)
class Piece:
    """One entry of proxies.json."""

    name: str
    arrays: dict[str, np.ndarray]  # as in proxies.npz, keys without the name
    texture: Picture | None
    occlusion: Picture | None


def fitted_pieces(checkouts: tuple[Checkout, ...], more_pictures: bool) -> list[Piece]:
    """All clothes, hair, brows, lashes, eyes and one set of teeth, in the order of proxies.json."""
    files = [
        (kind, checkout, path)
        for kind in KINDS
        for checkout in checkouts
        for path in sorted(checkout.folder.glob(f"{kind}/*/*.mhclo"), key=str)
        if kind != "teeth" or path.stem == "teeth_base"  # behind lips one of six shapes is enough
    ]
    missing = [kind for kind in KINDS if kind not in {kind for kind, _, _ in files}]
    if missing:
        places = " or ".join(str(checkout.folder) for checkout in checkouts)
        raise ValueError(f"no .mhclo files of {', '.join(missing)} in {places}; are the checkouts complete?")
    return [_piece(*file, more_pictures) for file in tqdm(files, desc="clothes, hair", unit="piece")]


def _piece(kind: str, checkout: Checkout, path: Path, more_pictures: bool) -> Piece:
    name = RENAMED.get(f"{kind}/{path.stem}", f"{kind}/{path.stem}")
    text = checkout.text(path)
    with naming(path):
        fitting = read_mhclo(text)
    mesh_path = path.parent / fitting.mesh_file
    text = checkout.text(mesh_path)
    with naming(mesh_path):
        mesh = read_obj(text)
    if len(mesh.verts) != len(fitting.ref):
        raise ValueError(f"{path} fits {len(fitting.ref)} vertices, {fitting.mesh_file} has {len(mesh.verts)}")
    fields = {"ref": fitting, "w": fitting, "d": fitting, "uv": mesh, "tri": mesh, "tri_uv": mesh}
    fields |= {"scale_idx": fitting, "scale_den": fitting, "delete": fitting}
    arrays = {field: getattr(owner, field) for field, owner in fields.items()}
    material = path.parent / fitting.material_file
    keys = read_mhmat(checkout.text(material))
    flat, texture, occlusion = name.replace("/", "_"), None, None
    if "diffuseTexture" in keys and (more_pictures or name not in WITHOUT_PICTURE):
        size = TEXTURE_SIZES.get(kind, SMALL_TEXTURE)
        texture = Picture(flat, material.parent / keys["diffuseTexture"], checkout, size)
    if "aomapTexture" in keys:
        occlusion = Picture(f"{flat}_ao", material.parent / keys["aomapTexture"], checkout, OCCLUSION_SIZE)
    return Piece(name, arrays, texture, occlusion)


def eyes_and_skins(checkouts: tuple[Checkout, ...], more_pictures: bool) -> list[Picture]:
    """Pictures that belong to no fitted piece: irises and whole-body skins."""
    found = []
    for checkout in checkouts:
        for path in checkout.find("eyes/materials/*.png"):
            found.append(Picture(f"eye_{path.stem}", path, checkout, SMALL_TEXTURE))
        for path in sorted(checkout.folder.glob("skins/*/*.mhmat"), key=str):
            if path.stem in NO_SKINS or (f"skin/{path.stem}" in WITHOUT_PICTURE and not more_pictures):
                continue
            keys = read_mhmat(checkout.text(path))
            if "diffuseTexture" not in keys:
                raise ValueError(f"{path} names no diffuseTexture")
            picture = path.parent / keys["diffuseTexture"]
            found.append(Picture(f"skin_{path.stem}", picture, checkout, TEXTURE_SIZES["skin"]))
    return found
