"""What a person wears: fitted suits, shoes, hair and eyes, and garments cut from the body's skin-tight helper mesh.

A garment is the helper mesh pushed outward and cut where a per-vertex distance to its hem turns negative (the shader
discards there), so hems lie anywhere. The same distance hides the skin below, so nothing pokes through.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from .body import BodyModel, Posed, Shape
from .items import Item, Material

HEM = 0.4  # dm; distances are clipped to +-HEM so that where regions meet the hem stays straight
HIDE_FROM = 0.15  # dm inside a garment from where on skin is not drawn
# Factors on the hair textures, which are medium brown: brown, dark blond, near black, red, grey, blond.
HAIR_TINTS = ((0.9, 0.85, 0.8), (1.9, 1.4, 0.8), (0.3, 0.28, 0.26), (1.3, 0.6, 0.35), (2.2, 2.2, 2.2), (2.3, 1.8, 1.0))
REGIONS = {  # prefixes of the bones that own a vertex
    "upper arm": ("upperarm", "shoulder01"),
    "forearm": ("lowerarm",),
    "hand": ("wrist", "metacarpal", "finger"),
    "thigh": ("upperleg",),
    "calf": ("lowerleg",),
    "foot": ("foot", "toe"),
}
LIMBS = {  # region, bone at its start, bone at its end, along each limb
    "arm": (
        ("upper arm", "upperarm01", "lowerarm01"),
        ("forearm", "lowerarm01", "wrist"),
        ("hand", "wrist", "finger3-1"),
    ),
    "leg": (("thigh", "upperleg01", "lowerleg01"), ("calf", "lowerleg01", "foot"), ("foot", "foot", "toe2-1")),
}


def random_color(rng: np.random.Generator) -> np.ndarray:
    """Linear RGB of cloth: black, white and greys often, washed-out hues more often than pure ones."""
    kind = rng.random()
    if kind < 0.35:
        return np.clip(rng.uniform(0.01, 0.85) ** 1.4 * rng.uniform(0.92, 1.08, 3), 0, 1)
    saturation = rng.random() ** (0.8 if kind < 0.7 else 0.35)
    return np.array(colorsys.hsv_to_rgb(rng.random(), saturation, rng.uniform(0.1, 1.0))) ** 1.8


def random_cloth(rng: np.random.Generator) -> Material:
    """Plain or patterned fabric, most of it with folds."""
    weave = int(rng.choice(7, p=(0.5, 0.09, 0.08, 0.1, 0.12, 0.05, 0.06)))
    return Material(
        plain=tuple(random_color(rng)),
        shine=rng.uniform(0, 0.08),
        weave=weave,
        weave_color=tuple(random_color(rng)),
        weave_form=(rng.uniform(4, 18 if weave == 4 else 45), rng.random(), rng.uniform(0.3, 1.0)),
        folds=(rng.uniform(0.02, 0.14) * (rng.random() < 0.8), rng.uniform(6, 22)),
    )


def muted(items: list[Item], rng: np.random.Generator) -> list[Item]:
    """The items in less pure colours, all by the same random share: people dress more quietly than dice do."""
    keep = rng.beta(1.2, 1.4)

    def grey(color: tuple[float, ...]) -> tuple[float, ...]:
        mean = sum(color) / 3
        return tuple(mean + (c - mean) * keep for c in color)

    return [
        replace(item, material=replace(m, plain=grey(m.plain), weave_color=grey(m.weave_color)))
        for item in items
        for m in (item.material,)
    ]


class Wardrobe:
    """Dresses posed bodies with what the asset folder holds."""

    def __init__(self, model: BodyModel, assets: Path):
        self.model = model
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
        self._measure(model)

    def _measure(self, model: BodyModel) -> None:
        """On the base mesh: which limb a vertex belongs to and its distance (dm) along that limb."""
        heads = model.head_mean @ model.base
        owner = np.array(model.bones)[model.main_bone]
        region = {name: np.char.startswith(owner, prefixes[0]) for name, prefixes in REGIONS.items()}
        for name, prefixes in REGIONS.items():
            for prefix in prefixes[1:]:
                region[name] |= np.char.startswith(owner, prefix)
        self.along = np.zeros(len(model.base))
        self.limb_length = {}
        for limb, parts in LIMBS.items():
            start = 0.0
            for name, first, last in parts:
                for side, sign in (("L", 1), ("R", -1)):
                    origin = heads[model.bone[f"{first}.{side}"]]
                    axis = heads[model.bone[f"{last}.{side}"]] - origin
                    length = float(np.linalg.norm(axis))
                    mine = region[name] & (model.base[:, 0] * sign > 0)
                    distance = start + (model.base[mine] - origin) @ axis / length
                    # A hand or foot never counts as higher up than its joint: the heel is not calf.
                    self.along[mine] = np.maximum(distance, start) if name in ("hand", "foot") else distance
                if name in ("hand", "foot"):
                    self.limb_length[limb] = start
                start += length
        self.arm = region["upper arm"] | region["forearm"] | region["hand"]
        self.leg = region["thigh"] | region["calf"] | region["foot"]
        self.hip_height = float(heads[model.bone["upperleg01.L"], 1])
        self.neck_height = float(heads[model.bone["neck01"], 1])
        self.cut = {name: self._cut(model, name) for name in ("helper-tights", "helper-skirt")}

    def _cut(self, model: BodyModel, mesh_name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Base vertex, triangles and cloth uv (metres) of a helper mesh's drawn vertices.

        Sleeves are cut along the arm. Triangles that join sleeve and trunk are of the trunk's cloth and have corners of
        their own: halfway between two unrelated uv, a pattern would run through in a hand's breadth.
        """
        mesh, base = model.meshes[mesh_name], model.base
        trunk_uv = base[:, :2] / 10
        sleeve_uv = np.stack((base[:, 2], self.along), axis=1) / 10
        on_arm = self.arm[mesh.vertex]
        uv = np.where(on_arm[:, None], sleeve_uv[mesh.vertex], trunk_uv[mesh.vertex])
        joins = on_arm[mesh.index].any(1) & ~on_arm[mesh.index].all(1)
        doubled = np.unique(mesh.index[joins][on_arm[mesh.index[joins]]])
        twin = np.arange(len(on_arm))
        twin[doubled] = len(on_arm) + np.arange(len(doubled))
        index = np.where(joins[:, None], twin[mesh.index], mesh.index)
        vertex = np.concatenate((mesh.vertex, mesh.vertex[doubled]))
        return vertex, index, np.concatenate((uv, trunk_uv[mesh.vertex[doubled]]))

    def _file(self, name: str | None) -> Path | None:
        return self.folder / name if name else None

    # Hems: positive inside the garment, in dm.

    def _top(self, rng: np.random.Generator) -> np.ndarray:
        low = self.hip_height + (rng.uniform(-1.2, 1.0) if rng.random() < 0.9 else rng.uniform(1.0, 2.6))
        high = self.neck_height + rng.uniform(-0.7, 0.9)
        front = np.clip(self.model.base[:, 2] / 1.5, 0, 1)
        neckline = high - front * rng.uniform(0, 1.3) * (rng.random() < 0.45)
        arm = self.limb_length["arm"]
        sleeve = (0.06, rng.uniform(0.2, 0.5), rng.uniform(0.5, 0.95), 0.98)[rng.choice(4, p=(0.14, 0.36, 0.12, 0.38))]
        trunk = np.minimum(self.model.base[:, 1] - low, neckline - self.model.base[:, 1])
        return np.clip(np.where(self.arm, sleeve * arm - self.along, trunk), -HEM, HEM)

    def _bottom(self, rng: np.random.Generator) -> np.ndarray:
        waist = self.hip_height + rng.uniform(0.3, 1.3)
        length = (rng.uniform(0.12, 0.5), rng.uniform(0.5, 0.85), 0.97)[rng.choice(3, p=(0.27, 0.1, 0.63))]
        above = waist - self.model.base[:, 1]
        down = length * self.limb_length["leg"] - self.along
        inside = np.where(self.leg, np.minimum(above, down), above)
        return np.clip(np.where(self.arm, -HEM, inside), -HEM, HEM)

    def _garment(
        self, mesh_name: str, vertices: np.ndarray, inside: np.ndarray, thickness: float, material: Material, rng
    ) -> Item:
        """The helper mesh pushed out by `thickness` dm, unevenly, wider toward cuffs, and cut at its hem."""
        mesh = self.model.meshes[mesh_name]
        normals = mesh.normals(vertices)
        wave = np.sin(self.model.base @ rng.normal(0, 1.6, 3) + rng.uniform(0, 6)) * rng.uniform(0.0, 0.4)
        flare = rng.uniform(0, 0.35) * (rng.random() < 0.5) * np.clip(self.along / 8, 0, 1)
        pushed = vertices + normals * (thickness * (1 + wave) + flare)[:, None]
        v, index, uv = self.cut[mesh_name]
        keep = (inside[v][index] > 0).any(1)
        return Item(pushed[v], normals[v], uv, index[keep], material, inside[v])

    def _cut_garments(self, vertices: np.ndarray, rng: np.random.Generator) -> tuple[list[Item], np.ndarray]:
        """Trousers, shirt, sometimes an open or closed coat, sometimes a skirt -> items and hidden skin vertices."""
        inner = rng.uniform(0.03, 0.12)
        outer = inner + rng.uniform(0.05, 0.3)
        tucked = rng.random() < 0.35
        bottom, top = self._bottom(rng), self._top(rng)
        matching = random_cloth(rng)
        trousers = matching if rng.random() < 0.1 else random_cloth(rng)
        items = [self._garment("helper-tights", vertices, bottom, outer if tucked else inner, trousers, rng)]
        hidden = bottom > HIDE_FROM
        if rng.random() < 0.96:
            items.append(self._garment("helper-tights", vertices, top, inner if tucked else outer, matching, rng))
            hidden |= top > HIDE_FROM
        height = self.model.base[:, 1]
        if rng.random() < 0.18:
            skirt = np.clip(height - (self.hip_height - rng.uniform(2.0, 8.5)), -HEM, HEM)
            items.append(self._garment("helper-skirt", vertices, skirt, outer + 0.08, random_cloth(rng), rng))
        if rng.random() < 0.2:
            items += self._coat(vertices, outer + rng.uniform(0.1, 0.35), rng)
        return items, hidden

    def _coat(self, vertices: np.ndarray, thickness: float, rng: np.random.Generator) -> list[Item]:
        """A jacket or coat over the rest, open in front or closed; long ones continue on the skirt mesh."""
        base = self.model.base
        material = random_cloth(rng)
        low = self.hip_height - rng.uniform(-0.8, 5.0)
        trunk = np.minimum(base[:, 1] - low, self.neck_height + 0.3 - base[:, 1])
        if rng.random() < 0.6:
            gap = rng.uniform(0.15, 0.9)
            trunk = np.where(base[:, 2] > 0, np.minimum(trunk, np.abs(base[:, 0]) - gap), trunk)
        inside = np.where(self.arm, 0.95 * self.limb_length["arm"] - self.along, trunk)
        inside = np.clip(np.where(self.leg, -HEM, inside), -HEM, HEM)
        items = [self._garment("helper-tights", vertices, inside, thickness, material, rng)]
        if low < self.hip_height - 1.0:
            tail = np.clip(trunk, -HEM, HEM)
            items.append(self._garment("helper-skirt", vertices, tail, thickness, material, rng))
        return items

    def dress(
        self, shape: Shape, posed: Posed, view: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
    ) -> list[Item]:
        """Everything to draw, in drawing order. `view` maps world points (dm) to view space."""
        vertices = view(posed.vertices)

        def suits_gender(name: str) -> bool:
            return ("female" in name) == (shape.male < 0.5)

        def worn(name: str, material: Material) -> Item:
            proxy = self.model.proxies[name]
            placed = view(self.model.fit(proxy, shape, posed))
            v = proxy.mesh.vertex
            return Item(placed[v], proxy.mesh.normals(placed)[v], proxy.mesh.uv, proxy.mesh.index, material)

        fitted = []
        if rng.random() < 0.3:
            fitting = [name for name in self.suits if suits_gender(name) or rng.random() < 0.1]
            fitted.append(fitting[rng.integers(len(fitting))])
            items, hidden = [], np.zeros(len(vertices), bool)
            if rng.random() < 0.2:
                items = self._coat(vertices, rng.uniform(0.3, 0.5), rng)
        else:
            items, hidden = self._cut_garments(vertices, rng)
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
        tone = np.clip(rng.normal(1, 0.15) * (1 + rng.normal(0, 0.05, 3)), 0.5, 1.4)
        if rng.random() < 0.2:
            tone = tone * rng.uniform(0.25, 0.8)  # the textures at hand are mostly of light skin
        skin = Material(
            texture=self._file(skins[rng.integers(len(skins))]), tint=tuple(tone), shine=rng.uniform(0, 0.12)
        )
        v = skin_mesh.vertex
        shown = ~hidden[skin_mesh.triangles].all(1)
        body = Item(vertices[v], skin_mesh.normals(vertices)[v], skin_mesh.uv, skin_mesh.index[shown], skin)
        return [body, *items, *self._head(worn, rng)]

    def _head(self, worn: Callable[[str, Material], Item], rng: np.random.Generator) -> list[Item]:
        """Eyes, teeth, brows, lashes, then hair or a hat (hair would poke through a hat)."""

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
        if kind < 0.08:
            items.append(worn(any_of(self.hats), random_cloth(rng)))
        elif kind < 0.9:
            hair = any_of(self.hairs)
            items.append(worn(hair, replace(flat, texture=picture(hair), tint=tuple(tint), shine=0.05, alpha_min=0.35)))
        return items
