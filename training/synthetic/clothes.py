"""What a person wears: fitted suits, shoes, hair and eyes, and garments cut to measure (garments.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .body import BodyModel, Posed, Shape
from .fabrics import printed, random_cloth, random_color
from .garments import HEM, SKIRT, TIGHTS, Drape, Fabric, Fit, Tailor
from .gloves import Gloves
from .headgear import KINDS, Headgear
from .items import Item, Material
from .rotations import Y

HIDE_FROM = 0.15  # dm inside a tight garment from where on skin is not drawn
HEAD_COVERED = 0.18  # of people: caps, helmets, hoods, masks, goggles
GLOVED = 0.06  # of people
COATED = 0.3  # of people, jackets included
SUITED = 0.3  # of people: a fitted suit instead of garments cut here
GREY = Material(plain=(0.3, 0.3, 0.3))
DARK_SKIN = 1 / 3  # of people; the textures at hand are mostly of light skin
# Factors on the hair textures, which are medium brown: brown, dark blond, near black, red, grey, blond.
HAIR_TINTS = ((0.9, 0.85, 0.8), (1.9, 1.4, 0.8), (0.3, 0.28, 0.26), (1.3, 0.6, 0.35), (2.2, 2.2, 2.2), (2.3, 1.8, 1.0))


def hides(inside: np.ndarray, fit: Fit) -> np.ndarray:
    """Which skin a garment hides; one looks farther into sleeves and legs that hang off."""
    open_hem = 0.0 if fit.cuffed and fit.belted else fit.loose / 2 + fit.flare / 2
    return inside > min(HIDE_FROM + open_hem, 0.9 * HEM)


def random_fit(close: float, baggy: float, rng: np.random.Generator) -> Fit:
    """Some garments are tight, most loose, and a share of `baggy` stands far off the body."""
    kind = rng.random()
    loose = rng.uniform(0.3, 0.8) if kind < baggy else rng.uniform(0.08, 0.35) if kind < 0.85 else rng.uniform(0, 0.08)
    flare = rng.uniform(0.1, 0.35 + 0.2 * loose) * (rng.random() < 0.4)
    return Fit(close, loose, flare, belted=bool(rng.random() < 0.35), cuffed=bool(rng.random() < 0.3))


def in_grey(item: Item) -> Item:
    """Cloth without its colour, pattern and picture."""
    texture = item.material.texture  # prints are from the folder of backgrounds
    cloth = texture is None or texture.name.startswith("clothes_") or texture.parent.name == "backgrounds"
    return replace(item, material=GREY) if cloth else item


class Wardrobe:
    """Dresses posed bodies with what the asset folder holds.

    Args:
        plain: everybody wears a fitted suit, and cloth is grey: for runs that ask what clothing brings.
    """

    def __init__(self, model: BodyModel, assets: Path, plain: bool = False):
        self.model = model
        self.plain = plain
        self.folder = assets / "tex"
        names = list(model.proxies)
        self.suits = [n for n in names if n.startswith("clothes/") and "shoes" not in n and "fedora" not in n]
        self.shoes = [n for n in names if n.startswith("clothes/shoes")]
        self.hats = [n for n in names if n.startswith("clothes/fedora")]
        self.hairs = [n for n in names if n.startswith("hair/") and model.proxies[n].texture]  # alpha is in the texture
        self.brows = [n for n in names if n.startswith("eyebrows/")]
        self.lashes = [n for n in names if n.startswith("eyelashes/")]
        files = sorted(path.name for path in self.folder.iterdir())
        self.eyes = [f for f in files if f.startswith("eye_")]
        self.skins = [f for f in files if f.startswith("skin_") and "suit" not in f]  # those have clothes painted on
        self.prints = sorted((assets / "backgrounds").glob("*.jpg"))
        self.tailor = Tailor(model)
        self.headgear = Headgear(model)
        self.gloves = Gloves(model)

    def _file(self, name: str | None) -> Path | None:
        return self.folder / name if name else None

    def _fabric(self, print_share: float, rng: np.random.Generator) -> Fabric:
        cloth = random_cloth(rng)
        if self.prints and rng.random() < print_share:
            return printed(cloth, self.prints[rng.integers(len(self.prints))], rng)
        return Fabric(cloth)

    def _cut_garments(self, drapes: dict[str, Drape], rng: np.random.Generator) -> tuple[list[Item], np.ndarray]:
        """Trousers, shirt, sometimes an open or closed coat, sometimes a skirt -> items and hidden skin vertices."""
        body, tailor = drapes[TIGHTS], self.tailor
        tucked, skirted, topped = rng.random() < 0.3, rng.random() < 0.18, rng.random() < 0.96
        matching = self._fabric(0.25, rng)
        trousers = matching if rng.random() < 0.18 else self._fabric(0.12, rng)
        fit = replace(random_fit(rng.uniform(0.04, 0.12), 0.25, rng), belted=True)
        if skirted:  # nothing bulky below it
            fit = replace(fit, loose=min(fit.loose, 0.1), flare=0.0)
        worn = [(tailor.bottom(rng), fit, trousers)]
        if topped:
            fit = random_fit(rng.uniform(0.04, 0.2), 0.3 * (not skirted), rng)
            worn.append((tailor.top(rng), replace(fit, belted=fit.belted or tucked), matching))
        hidden = np.zeros(len(self.model.base), bool)
        items = []
        for inside, fit, fabric in reversed(worn) if tucked else worn:
            items.append(body.layer(inside, fit, fabric, rng))
            hidden |= hides(inside, fit)
        if skirted:
            fit = random_fit(0.08 + body.stands_off(tailor.hips), 0.3, rng)
            fit = replace(fit, belted=False, cuffed=False)
            items.append(drapes[SKIRT].layer(tailor.skirt(rng), fit, self._fabric(0.2, rng), rng))
        if rng.random() < COATED:
            fabric = trousers if rng.random() < 0.25 else self._fabric(0.12, rng)
            items += self._coat(drapes, fabric, rng)
        return items, hidden

    def _coat(self, drapes: dict[str, Drape], fabric: Fabric, rng: np.random.Generator) -> list[Item]:
        """A jacket or coat over the rest; long ones continue on the skirt mesh."""
        fit = replace(random_fit(rng.uniform(0.2, 0.5), 0.4, rng), belted=False)
        inside, tail = self.tailor.coat(rng)
        items = [drapes[TIGHTS].layer(inside, fit, fabric, rng)]
        if tail is not None:
            fit = replace(fit, close=drapes[TIGHTS].stands_off(self.tailor.hips), loose=fit.loose / 2)
            items.append(drapes[SKIRT].layer(tail, fit, fabric, rng))
        return items

    def dress(
        self, shape: Shape, posed: Posed, view: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
    ) -> list[Item]:
        """Everything to draw, in drawing order. `view` maps world points (dm) to view space."""
        vertices = view(posed.vertices)
        down = view(np.zeros((1, 3)))[0] - view(Y[None])[0]
        drapes = {name: Drape(sheet, vertices, down) for name, sheet in self.tailor.sheet.items()}

        def suits_gender(name: str) -> bool:
            return ("female" in name) == (shape.male < 0.5)

        def worn(name: str, material: Material) -> Item:
            proxy = self.model.proxies[name]
            placed = view(self.model.fit(proxy, shape, posed))
            v = proxy.mesh.vertex
            return Item(placed[v], proxy.mesh.normals(placed)[v], proxy.mesh.uv, proxy.mesh.index, material)

        fitted = []
        if rng.random() < SUITED or self.plain:
            fitting = [name for name in self.suits if suits_gender(name) or rng.random() < 0.1]
            fitted.append(fitting[rng.integers(len(fitting))])
            items, hidden = [], np.zeros(len(vertices), bool)
            if rng.random() < COATED and not self.plain:
                items = self._coat(drapes, self._fabric(0.12, rng), rng)
        else:
            items, hidden = self._cut_garments(drapes, rng)
        if rng.random() < 0.8:
            fitted.append(self.shoes[rng.integers(len(self.shoes))])
        for name in fitted:
            proxy = self.model.proxies[name]
            material = replace(random_cloth(rng), occlusion=self._file(proxy.occlusion))
            kind = rng.random()
            if proxy.texture and kind < 0.65:  # as photographed, or tinted
                tint = (1.0, 1.0, 1.0) if kind < 0.3 else tuple(np.clip(random_color(rng) * 2.5, 0.03, 2))
                material = replace(material, texture=self._file(proxy.texture), tint=tint, weave=0, folds=(0.0, 1.0))
            elif proxy.texture:
                # The texture's uv are not metres: 0..1 over the whole garment.
                material = replace(material, texture=self._file(proxy.texture), recolor=True, folds=(0.0, 1.0))
            items.append(worn(name, material))
            hidden[proxy.covered] = True
        skin_mesh = self.model.meshes["body"]
        skins = [name for name in self.skins if suits_gender(name) or rng.random() < 0.15]
        picture = skins[rng.integers(len(skins))]
        tone = np.clip(rng.normal(1, 0.15) * (1 + rng.normal(0, 0.05, 3)), 0.5, 1.4)
        if rng.random() < DARK_SKIN:
            # Evenly spread to the eye; dark skin keeps its red longest. The textures of Africans are dark already.
            shade = rng.uniform(0.38, 0.88) ** (1.0 if "african" in picture else 2.2)
            tone = tone * shade ** np.array((0.86, 1.0, 1.12))
        skin = Material(texture=self._file(picture), tint=tuple(tone), shine=rng.uniform(0, 0.12))
        v = skin_mesh.vertex
        shown = ~hidden[skin_mesh.triangles].all(1)
        body = Item(vertices[v], skin_mesh.normals(vertices)[v], skin_mesh.uv, skin_mesh.index[shown], skin)
        if rng.random() < GLOVED:
            items += self.gloves.wear(vertices, rng)
        items += self._head(worn, vertices, rng)
        return [body, *(map(in_grey, items) if self.plain else items)]

    def _head(
        self, worn: Callable[[str, Material], Item], vertices: np.ndarray, rng: np.random.Generator
    ) -> list[Item]:
        """Eyes, teeth, brows, lashes, then hair or something on the head (hair would poke through most of it)."""

        def any_of(names: list[str]) -> str:
            return names[rng.integers(len(names))]

        def picture(name: str) -> Path | None:
            return self._file(self.model.proxies[name].texture)

        tint = np.clip(np.array(HAIR_TINTS[rng.integers(len(HAIR_TINTS))]) * rng.uniform(0.5, 1.2), 0, 2.6)
        items = [worn("eyes/low-poly", Material(texture=self._file(any_of(self.eyes)), shine=0.3))]
        teeth = Material(texture=picture("teeth/teeth_base"), tint=(0.7, 0.66, 0.6))
        items.append(worn("teeth/teeth_base", teeth))
        brow, lash = any_of(self.brows), any_of(self.lashes)
        flat = Material(translucent=True, shine=0.0)
        items.append(worn(brow, replace(flat, texture=picture(brow), tint=tuple(tint * 0.6))))
        if rng.random() < 0.8:
            items.append(worn(lash, replace(flat, texture=picture(lash))))
        kind = rng.random()
        if kind < 0.05:
            items.append(worn(any_of(self.hats), random_cloth(rng)))
            return items
        hair = kind < 0.9
        if rng.random() < HEAD_COVERED:
            cover = list(KINDS)[rng.choice(len(KINDS), p=[share for share, _ in KINDS.values()])]
            items += self.headgear.wear(cover, vertices, rng)
            hair = hair and not KINDS[cover][1]
        if hair:
            style = any_of(self.hairs)
            items.append(
                worn(style, replace(flat, texture=picture(style), tint=tuple(tint), shine=0.05, alpha_min=0.35))
            )
        return items
