"""What rendered people wear: how garments hang, prints, skin tones. Needs assets; some need EGL."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy", reason="the body model needs scipy")

from training.synthetic import render
from training.synthetic.body import BodyModel
from training.synthetic.camera import Camera
from training.synthetic.clothes import GREY, HIDE_FROM, Wardrobe, hides, in_grey
from training.synthetic.fabrics import printed, random_cloth, random_color
from training.synthetic.garments import GAP, HEM, SKIRT, TIGHTS, Drape, Fabric, Fit, Tailor
from training.synthetic.items import Item, Material
from training.synthetic.light import Light
from training.synthetic.rotations import Y
from training.synthetic.subjects import texture_files

SIZE = (60, 80)
LIGHT = Light(np.ones((9, 3)) * 0.1, np.array((0.0, 0.0, 1.0)), np.ones(3))
LOOSE = Fit(close=0.1, loose=0.6)
PLAIN = Fabric(Material())


@pytest.fixture(scope="module")
def tailor(body_model) -> Tailor:
    return Tailor(body_model)


@pytest.fixture(scope="module")
def outfits(body_model, assets) -> list[list[Item]]:
    """The items of 60 people at rest."""
    wardrobe = Wardrobe(body_model, assets)
    shape = body_model.random_shape(np.random.default_rng(0))
    posed = body_model.pose(shape, {}, {})
    return [wardrobe.dress(shape, posed, lambda points: points, np.random.default_rng(k)) for k in range(60)]


def everywhere(body_model: BodyModel) -> np.ndarray:
    return np.full(len(body_model.base), HEM)


def drape(tailor: Tailor, down: np.ndarray = -Y, name: str = TIGHTS) -> Drape:
    return Drape(tailor.sheet[name], tailor.base, down)


def test_cloth_is_not_squeezed_where_parts_meet(tailor):
    """A triangle whose corners are of unrelated uv shows the whole pattern at once, always at the same place."""
    for sheet in tailor.sheet.values():
        edges = np.linalg.norm(sheet.metres[sheet.index] - sheet.metres[np.roll(sheet.index, 1, axis=1)], axis=2)
        assert 0.03 < edges.max() < 0.1, "metres, as on the body"
        assert len(sheet.vertex) == len(sheet.metres) and sheet.index.max() < len(sheet.metres)


@pytest.mark.parametrize("seed", range(4))
def test_garments_lie_over_each_other(body_model, tailor, seed):
    """A tight shirt over baggy trousers is as wide as they are, and everything is off the skin."""
    rng = np.random.default_rng(seed)
    body = drape(tailor)
    body.layer(tailor.bottom(rng), LOOSE, PLAIN, rng)
    trousers = body.outside.copy()
    body.layer(everywhere(body_model), Fit(close=0.05), PLAIN, rng)
    covered = trousers > 0
    assert 0.1 < covered.mean() < 0.9
    assert (body.outside[covered] >= trousers[covered] + GAP).all()
    assert (body.outside > 0.02).all()


def test_cloth_hangs_down(body_model, tailor):
    """In the world, not on the body: upside down, the same vertices hang the other way. Shoulders keep their shirt."""
    sheet = tailor.sheet[TIGHTS]
    upright, turned = drape(tailor, -Y), drape(tailor, Y)
    for body in (upright, turned):
        body.layer(everywhere(body_model), LOOSE, PLAIN, np.random.default_rng(0))
    below = (upright.normals[:, 1] < -0.6) & (sheet.free > 0.7)
    above = (upright.normals[:, 1] > 0.6) & (sheet.free > 0.7)
    assert upright.outside[below].mean() > turned.outside[below].mean() + 0.2
    assert turned.outside[above].mean() > upright.outside[above].mean() + 0.2
    shoulder = np.linalg.norm(sheet.place[:, None] - tailor.shoulders, axis=2).min(1) < 0.7
    for body in (upright, turned):
        assert body.outside[shoulder].max() < 0.45 < body.outside.max()  # dm


@pytest.mark.parametrize("name", [TIGHTS, SKIRT])
def test_folds_are_in_the_mesh_and_in_its_normals(body_model, tailor, name):
    shapes = {}
    for loose in (0.0, 0.6):
        body = drape(tailor, name=name)
        item = body.layer(everywhere(body_model), Fit(0.1, loose), PLAIN, np.random.default_rng(1))
        sheet = body.sheet
        placed, shading = (array[: len(sheet.base)] for array in (item.positions, item.normals))  # doubles come last
        np.testing.assert_allclose(shading, sheet.mesh.normals(placed))
        shapes[loose] = body.outside, shading
    change = (shapes[0.0][1] * shapes[0.6][1]).sum(1)
    assert np.median(np.degrees(np.arccos(np.clip(change, -1, 1)))) > 5
    assert shapes[0.6][0].mean() > shapes[0.0][0].mean() + 0.2


def test_cuffs_and_belts_hold_the_cloth(body_model, tailor):
    """At a hem of their own kind only."""
    sheet = tailor.sheet[TIGHTS]
    hem = np.zeros(len(body_model.base))
    for fit, held in ((Fit(0.1, 0.6, cuffed=True), sheet.limb), (Fit(0.1, 0.6, belted=True), ~sheet.limb)):
        body = drape(tailor)
        body.layer(hem, fit, PLAIN, np.random.default_rng(0))
        free = ~held & (sheet.free > 0.5)
        assert body.outside[held].max() < 0.5 * np.median(body.outside[free])


@pytest.mark.parametrize(
    ("fit", "threshold"),
    [
        (Fit(0.1), HIDE_FROM),
        (Fit(0.1, 0.2), HIDE_FROM + 0.1),
        (Fit(0.1, 0.8), 0.9 * HEM),  # still hidden farther in, or the body would poke through
        (Fit(0.1, 0.8, belted=True, cuffed=True), HIDE_FROM),
    ],
)
def test_skin_is_hidden_inside_garments(fit, threshold):
    inside = np.linspace(-HEM, HEM, 81)
    np.testing.assert_array_equal(hides(inside, fit), inside > threshold)


@pytest.mark.parametrize("seed", range(5))
def test_prints_keep_their_scale(seed):
    """The picture repeats after its width and height, at right angles, and folds are as dense as on plain cloth."""
    rng = np.random.default_rng(seed)
    cloth = random_cloth(rng)
    fabric = printed(cloth, Path("backgrounds/a.jpg"), rng)
    per_metre = np.linalg.norm(fabric.scale, axis=0)
    assert fabric.scale[:, 0] @ fabric.scale[:, 1] == pytest.approx(0, abs=1e-9)
    assert 1 / 2.0 <= per_metre[0] <= 1 / 0.15 and 1 <= per_metre[1] / per_metre[0] <= 2
    assert fabric.material.folds[1] * per_metre[0] == pytest.approx(cloth.folds[1])
    metres = np.array(((0.0, 0.0), (0.3, -0.2)))
    one, two = fabric.coordinates(metres)
    np.testing.assert_allclose(two - one, metres[1] @ fabric.scale)
    assert PLAIN.coordinates(metres) is metres


def test_people_wear_prints_that_atlases_hold(outfits, assets):
    known, garments = (
        set(texture_files(assets)),
        [item for items in outfits for item in items if item.inside is not None],
    )
    prints = [item for item in garments if item.material.texture is not None]
    assert {item.material.texture for items in outfits for item in items} - {None} <= known
    assert 0.1 < len(prints) / len(garments) < 0.35
    assert len({item.material.texture for item in prints}) > 5


def test_cloth_in_grey(outfits):
    """Plain cloth, prints and pictures of suits lose their colour; hair, eyes and the like do not."""
    kinds = set()
    for items in outfits:
        for item in items[1:]:
            texture = item.material.texture
            kind = None if texture is None else texture.name.split("_")[0] if texture.parent.name == "tex" else "print"
            kinds.add(kind)
            assert (in_grey(item).material is GREY) == (kind in (None, "clothes", "print"))
    assert {None, "clothes", "print", "hair", "eye"} <= kinds


def test_plain_clothes_are_grey_suits(body_model, assets, outfits, monkeypatch):
    wardrobe = Wardrobe(body_model, assets, plain=True)
    for garments in ("_cut_garments", "_coat"):
        monkeypatch.setattr(wardrobe, garments, None)
    shape = body_model.random_shape(np.random.default_rng(0))
    posed = body_model.pose(shape, {}, {})
    plain = [wardrobe.dress(shape, posed, lambda points: points, np.random.default_rng(k)) for k in range(20)]
    assert all(in_grey(item) == item for items in plain for item in items[1:])
    assert all(any(item.material is GREY for item in items) for items in plain)
    skins = [items[0].material.texture.name for items in plain]
    assert all(name.startswith("skin_") for name in skins) and len(set(skins)) > 3


def test_a_third_of_the_people_are_dark(outfits):
    light = np.array([np.mean(items[0].material.tint) for items in outfits])
    assert 0.2 < (light < 0.7).mean() < 0.45
    dark = np.sort(light[light < 0.7])
    assert dark[0] < 0.25 and (np.diff(dark) < 0.2).all()


def test_a_third_of_the_cloth_is_nearly_black():
    rng = np.random.default_rng(0)
    brightest = np.array([random_color(rng).max() for _ in range(2000)])
    assert 0.27 < (brightest < 0.06).mean() < 0.42
    assert (brightest > 0.4).mean() > 0.2 and brightest.min() > 0.002, "all colours, and light falls on each"


def card(fabric: Fabric) -> Item:
    """6 x 8 dm of cloth that fills the picture."""
    corners = np.array(((-3.0, -4, -10), (3, -4, -10), (3, 4, -10), (-3, 4, -10)))
    uv = fabric.coordinates(corners[:, :2] / 10)
    return Item(corners, np.tile((0.0, 0.0, 1.0), (4, 1)), uv, np.array(((0, 1, 2), (0, 2, 3))), fabric.material)


def test_prints_look_the_same_in_both_renderers(assets, egl):
    from training.synthetic.torch_render import TorchRenderer

    pictures = sorted((assets / "backgrounds").glob("*.jpg"))[:4]
    opengl, other = render.Renderer(SIZE), TorchRenderer(SIZE, pictures, "cpu")
    projection = Camera(np.eye(3), np.zeros(3), (-0.3, 0.3, -0.4, 0.4)).projection()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        item = card(printed(random_cloth(rng), pictures[seed % 4], rng))
        one, two = (r.render([item], projection, LIGHT)[0][..., :3].astype(int) for r in (opengl, other))
        assert np.abs(one - two).mean() < 2
        assert one.std() > 2, "a picture can be seen"


def test_opengl_keeps_few_textures(tmp_path, egl, monkeypatch):
    monkeypatch.setattr(render, "HELD", 3)
    renderer = render.Renderer(SIZE)
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for path in paths:
        cv2.imwrite(str(path), np.full((4, 4, 3), 90, np.uint8))
    for k in (0, 1, 2, 0, 3, 4):
        texture = renderer.texture(paths[k])
    assert list(renderer.textures) == [paths[0], paths[3], paths[4]]  # the one that was used longest ago went
    assert renderer.texture(paths[4]) is texture
