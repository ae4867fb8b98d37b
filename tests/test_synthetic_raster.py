"""The torch rasteriser against geometry and against OpenGL, on rendered people and on single triangles."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training import command
from training.synthetic.camera import FAR, Camera
from training.synthetic.items import Item, Material
from training.synthetic.labels import SEEN_WITHIN, VISIBLE, visibility
from training.synthetic.light import Light
from training.synthetic.meshes import window_of
from training.synthetic.raster import Fragments, rasterize, set_up
from training.synthetic.torch_render import TorchRenderer, seen

SIZE = (96, 128)
PEOPLE = 5
LIGHT = Light(np.ones((9, 3)) * 0.1, np.array((0.0, 0.0, 1.0)), np.ones(3))


@pytest.fixture(scope="module")
def textures(assets) -> list[Path]:
    from training.synthetic.subjects import texture_files

    return texture_files(assets)


class Both:
    """Draws every picture twice, and keeps the second one for comparison."""

    def __init__(self, opengl, torch_renderer):
        self.opengl, self.torch_renderer, self.pairs = opengl, torch_renderer, []

    def render(self, items, projection, light):
        first = self.opengl.render(items, projection, light)
        self.pairs.append((first, self.torch_renderer.render(items, projection, light)))
        return first


@pytest.fixture(scope="module")
def pairs(assets, egl, textures):
    """(layer, torch RGBA, torch distance) of a few people that both renderers drew."""
    os.environ.setdefault("LP_NUM_THREADS", "1")
    from training.synthetic.generate import PersonGenerator

    generator = PersonGenerator(assets, SIZE)
    generator.renderer = both = Both(generator.renderer, TorchRenderer(SIZE, textures, "cpu"))
    rows = []
    for number in range(PEOPLE):
        layer = generator.person(seed=3, number=number)
        rows.append((layer, *both.pairs[-1][1]))
    return rows


def test_people_look_the_same_as_in_opengl(pairs):
    for layer, rgba, _ in pairs:
        mine, other = rgba[..., 3] > 127, layer.rgba[..., 3] > 127
        assert (mine & other).sum() / (mine | other).sum() > 0.98
        both = mine & other
        difference = np.abs(rgba[both][:, :3].astype(int) - layer.rgba[both][:, :3])
        assert difference.mean() < 1.5
        assert np.percentile(difference, 95) <= 4  # strands of hair may blend in another order


def test_distances_are_those_of_the_depth_buffer(pairs):
    for layer, _, distance in pairs:
        drawn, other = distance < FAR * 0.99, layer.surface < FAR * 0.99
        assert (drawn & other).sum() / (drawn | other).sum() > 0.98
        difference = np.abs(distance - layer.surface)[drawn & other]
        assert np.median(difference) < 1e-3 and np.percentile(difference, 99) < 0.05  # dm


def test_visibility_agrees_with_opengl(pairs):
    flags = []
    for layer, _, distance in pairs:
        arrays = (layer.keypoints, layer.distance.astype(np.float32), distance, layer.frame)
        points, depth, surface, frame = (torch.from_numpy(array)[None] for array in arrays)
        mine = seen(points, depth, surface, SIZE, frame)[0].numpy()
        expected = visibility(layer.keypoints, layer.distance, distance, SIZE, layer.frame)
        np.testing.assert_array_equal(mine, expected)  # the same rule on the same picture
        flags.append(mine == layer.visible)
    assert np.mean(flags) > 0.98


def test_the_first_view_is_the_person_that_opengl_draws(pairs, assets, textures):
    from training.synthetic.layer_pool import draw_people
    from training.synthetic.subjects import SubjectGenerator

    maker = SubjectGenerator(assets, SIZE, views=2)
    renderer = TorchRenderer(SIZE, textures, "cpu")
    compared = 0
    for number in range(PEOPLE):
        subject = maker.subject(3, number)
        layer = pairs[number][0]
        if not np.allclose(subject.keypoints[0], layer.keypoints, atol=0.02):
            continue  # OpenGL's generator needed a second attempt
        compared += 1
        layers = draw_people(renderer, [subject])
        assert 1 <= len(layers) <= 2
        # In world space, turned on the device, against view space in numpy: the same but for rounding at edges.
        difference = np.abs(layers.rgba[0].numpy().astype(int) - pairs[number][1])
        assert (difference > 3).mean() < 0.01
        assert (layers.visible[0].numpy() == layer.visible).mean() > 0.98
        x0, y0, x1, y1 = layers.box[0].int().tolist()
        inside = layers.rgba[0, :, :, 3] > 60
        assert inside[y0 : y1 + 1, x0 : x1 + 1].sum() == inside.sum()
        assert inside[y0].any() and inside[y1].any() and inside[:, x0].any() and inside[:, x1].any()
    assert compared >= 3


def triangle(corners: list[tuple[float, float, float]], material: Material = Material()) -> Item:  # noqa: B008
    points = np.array(corners)
    return Item(points, np.tile((0.0, 0.0, 1.0), (3, 1)), np.zeros((3, 2)), np.array(((0, 1, 2),)), material)


def projection() -> np.ndarray:
    return Camera(np.eye(3), np.zeros(3), (-0.3, 0.3, -0.4, 0.4)).projection()


def test_window_is_the_inverse_of_the_projection():
    window = (-0.2, 0.35, -0.1, 0.6)
    np.testing.assert_allclose(window_of(Camera(np.eye(3), np.zeros(3), window).projection()), window)


def test_nearer_wins_in_any_order():
    near = triangle([(-9, -9, -5), (9, -9, -5), (0, 9, -5)], Material(plain=(1.0, 0.0, 0.0)))
    far = triangle([(-9, -9, -8), (9, -9, -8), (0, 9, -8)], Material(plain=(0.0, 0.0, 1.0)))
    renderer = TorchRenderer(SIZE, [], "cpu")
    one, distance = renderer.render([near, far], projection(), LIGHT)
    two, _ = renderer.render([far, near], projection(), LIGHT)
    np.testing.assert_array_equal(one, two)
    red, _, blue, alpha = one[SIZE[1] // 2, SIZE[0] // 2]
    assert red > blue and alpha == 255
    assert distance[SIZE[1], SIZE[0]] == pytest.approx(5.0, rel=1e-5)


def test_hems_are_cut_and_veils_let_through():
    back = triangle([(-9, -9, -8), (9, -9, -8), (0, 9, -8)])
    front = triangle([(-9, -9, -5), (9, -9, -5), (0, 9, -5)])
    renderer = TorchRenderer(SIZE, [], "cpu")
    cut = Item(front.positions, front.normals, front.uv, front.index, front.material, np.array((-1.0, -1.0, -1.0)))
    _, distance = renderer.render([back, cut], projection(), LIGHT)
    assert distance[SIZE[1], SIZE[0]] == pytest.approx(8.0, rel=1e-5)
    half = Item(front.positions, front.normals, front.uv, front.index, front.material, np.array((1.0, -1.0, 0.0)))
    _, distance = renderer.render([half], projection(), LIGHT)
    drawn = distance < FAR * 0.99
    assert 0.4 < drawn.mean() < 0.6 and drawn[-1, 0] and not drawn[-1, -1]  # the half beside corner 0 is inside


@pytest.mark.parametrize(("opacity", "hem", "cover"), [(1.0, 1.0, 1.0), (0.5, 1.0, 0.5), (0.8, 1 / 36, 0.4)])
def test_veils_cover_by_opacity_and_hem(opacity, hem, cover):
    """Alone a veil is as opaque as it covers; before something it mixes both colours by that share."""
    red = Material(plain=(0.9, 0.0, 0.0), translucent=True, opacity=opacity)
    veil = triangle([(-9, -9, -5), (9, -9, -5), (0, 9, -5)], red)
    veil = Item(veil.positions, veil.normals, veil.uv, veil.index, red, np.full(3, hem))
    back = triangle([(-9, -9, -8), (9, -9, -8), (0, 9, -8)], Material(plain=(0.0, 0.0, 0.9)))
    renderer, middle = TorchRenderer(SIZE, [], "cpu"), (SIZE[1] // 2, SIZE[0] // 2)
    alone, behind, both = (
        renderer.render(items, projection(), LIGHT)[0][middle] for items in ([veil], [back], [back, veil])
    )
    assert alone[3] == pytest.approx(255 * cover, abs=1) and both[3] == 255
    expected = cover * alone[:3].astype(float) + (1 - cover) * behind[:3]
    np.testing.assert_allclose(both[:3], expected, atol=2)


def test_slanted_surfaces_are_interpolated_in_space():
    """A plane that recedes: the distance at every pixel is that of the ray's intersection with it."""
    corners = [(-40.0, -30.0, -10.0), (40.0, -30.0, -10.0), (0.0, 60.0, -60.0)]
    _, distance = TorchRenderer(SIZE, [], "cpu").render([triangle(corners)], projection(), LIGHT)
    y, x = np.nonzero(distance < FAR * 0.99)
    assert len(x) > 1000
    right = -0.3 + 0.6 * (x + 0.5) / (2 * SIZE[0])
    up = 0.4 - 0.8 * (y + 0.5) / (2 * SIZE[1])
    a, b, c = map(np.array, corners)
    normal = np.cross(b - a, c - a)
    rays = np.stack((right, up, -np.ones_like(right)), axis=1)
    np.testing.assert_allclose(distance[y, x], (a @ normal) / (rays @ normal), rtol=1e-4)


@pytest.mark.parametrize("chunk", [1 << 23, 50, 7])
def test_chunks_do_not_change_the_picture(chunk):
    """Every pixel centre of a square made of two triangles is covered once, whatever is handled at a time."""
    xy = torch.tensor(((2.2, 3.1), (17.8, 3.1), (17.8, 12.9), (2.2, 12.9), (0.0, 0.0), (19.0, 0.0), (0.0, 9.0)))
    corner = torch.tensor(((0, 1, 2), (0, 2, 3), (4, 5, 6)))
    depth = torch.tensor((5.0, 5.0, 5.0, 5.0, 9.0, 9.0, 9.0))
    triangles = set_up(xy, depth, corner, torch.zeros(3, dtype=torch.long), (20, 16))

    def everything(found: Fragments) -> torch.Tensor:
        return torch.ones(len(found.pixel), dtype=torch.bool)

    solid, *veils = rasterize(triangles, 1, (20, 16), torch.zeros(3, dtype=torch.bool), everything, chunk)
    assert not any(len(veil.pixel) for veil in veils)
    nearest = torch.full((16, 20), -1)
    nearest.view(-1)[solid.pixel] = triangles.number[solid.triangle]
    inside = torch.zeros(16, 20, dtype=torch.bool)
    inside[3:13, 2:18] = True  # centres at i + 0.5
    assert ((nearest == 0) | (nearest == 1))[inside].all()
    assert not ((nearest == 0) | (nearest == 1))[~inside].any()
    assert (nearest == 2).sum() > 20


def test_seen_table():
    """As labels.visibility: on the surface, far behind it, left of the layer, beyond the photograph."""
    surface = torch.full((4, 8, 8), 5.0)
    points = torch.tensor(((1.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (3.0, 1.0)))[:, None].expand(4, 133, 2)
    depth = torch.tensor((5.0, 9.0, 5.0, 5.0))[:, None].expand(4, 133)
    frame = torch.tensor((-9.0, -9.0, 2.5, 9.0)).expand(4, 4)
    flags = seen(points, depth, surface, (4, 4), frame)
    assert flags[:, 0].tolist() == [VISIBLE, 1, 0, 0] and (flags == flags[:, :1]).all()
    assert SEEN_WITHIN.max() < 4


def test_what_rendering_lacks_is_named(tmp_path, monkeypatch):
    from training.synthetic.objects import generate_objects
    from training.synthetic.render import Renderer

    def refuse(**_):
        raise Exception("(standalone) XOpenDisplay: cannot open display")

    monkeypatch.setitem(sys.modules, "moderngl", SimpleNamespace(create_context=refuse))
    with pytest.raises(RuntimeError, match=r"no OpenGL through EGL .*cannot open display.*libgl1-mesa-dri"):
        Renderer((8, 8))
    assert command.run(lambda: Renderer((8, 8)).size) == 2, "a line for commands, not a traceback"
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.raises(ImportError, match=r"dwpose-torch\[synthetic\]"):
        Renderer((8, 8))
    with pytest.raises(ImportError, match="moderngl"):  # here, before workers fail unheard
        generate_objects(tmp_path, tmp_path / "out", 1, 1, 1)
    assert not (tmp_path / "out").exists()
