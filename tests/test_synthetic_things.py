"""Animals, vehicles and tableware among the things of generated pictures."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="rotations need scipy")

from training.synthetic import objects, poses
from training.synthetic import scenes as scenes_module
from training.synthetic.animals import animal, bent, coat
from training.synthetic.items import Item, Material
from training.synthetic.objects import assemble, materials_of, tableware
from training.synthetic.props import PropMaker, lowest, solid_items
from training.synthetic.scenes import RIDING, SceneGenerator
from training.synthetic.solids import Solid, ball, box, slab, torus, tube
from training.synthetic.staging import swallows
from training.synthetic.vehicles import vehicle

SEEDS = range(40)


def test_a_folder_of_objects_is_of_its_last_run(tmp_path, monkeypatch):
    """A second run that was stopped left the first one's mark, and a smaller one the first one's surplus."""

    class Stopped:
        def __init__(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(objects, "check_opengl", lambda: None)
    monkeypatch.setattr(objects, "check_assets", lambda _: None)
    monkeypatch.setattr(objects, "Workers", Stopped)
    for name in ("done", "000007.webp", "mine.webp"):
        (tmp_path / name).touch()
    with pytest.raises(KeyboardInterrupt):
        objects.generate_objects(tmp_path, tmp_path, 1, 1, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.webp"]


def cloud(parts) -> np.ndarray:
    """Points (n, 3) of parts, dm."""
    items = solid_items(parts, [Material()])
    assert all(np.isfinite(item.positions).all() and np.isfinite(item.normals).all() for item in items)
    return np.concatenate([item.positions for item in items])


@pytest.mark.parametrize(
    ("make", "longest"),
    [
        (animal, (1.5, 45.0)),  # a doll, a horse with its tail
        (vehicle, (14.0, 60.0)),  # a bicycle, a lorry
    ],
)
def test_they_stand_on_the_ground_and_have_a_likely_size(make, longest):
    for seed in SEEDS:
        points = cloud(make(np.random.default_rng(seed)))
        size = np.ptp(points, axis=0)
        assert longest[0] < size.max() < longest[1]
        assert abs(points[:, 1].min()) < 0.06 * size.max()
        assert abs(points[:, 2].mean()) < 0.2 * size.max()  # the two sides


def test_the_same_numbers_make_the_same_thing():
    for kind in ("animal", "vehicle", "table"):
        first, again, other = (cloud(assemble(kind, np.random.default_rng(seed))) for seed in (5, 5, 6))
        assert np.array_equal(first, again) and not (first.shape == other.shape and np.array_equal(first, other))


def test_half_of_the_tables_are_laid_with_what_stands_on_them():
    laid = 0
    for seed in range(60):
        parts = list(assemble("table", np.random.default_rng(seed)))
        solids, _, place, _ = parts[0]
        top = max(solid.points[:, 1].max() for solid in solids) + place[1]
        on_it = (part for part in parts if part[3] >= 2)
        above = [np.concatenate([s.points for s in solids]) + shift for solids, _, shift, _ in on_it]
        laid += bool(above)
        assert all(points[:, 1].min() > top - 0.4 for points in above)  # a bite may reach through its plate
    assert 20 < laid < 40
    kinds = {len(list(tableware(np.random.default_rng(seed)))) for seed in SEEDS}
    assert len(kinds) > 2


def outward(solid: Solid, middle: np.ndarray) -> float:
    """Share of the vertices with a normal whose side of the surface is away from `middle`; a surface that is turned
    inside out has 0, and so has its winding, which the renderer goes by."""
    sides = ((solid.points - middle) * solid.normals).sum(1)
    sides = sides[np.linalg.norm(solid.normals, axis=1) > 0.5]
    return float((sides > 0).mean())


def test_every_side_of_a_slab_has_the_same_turn():
    square = np.array(((-2, -1), (2, -1), (2, 1), (-2, 1)), float)
    turns = []
    for solid in slab(square, 3.0):
        a, b, c = (solid.points[solid.index[:, k]] for k in range(3))
        winding = np.cross(b - a, c - a)
        winding = winding[np.linalg.norm(winding, axis=1) > 1e-9]
        assert ((winding * solid.normals[0]).sum(1) > 0).all()  # triangles and normals agree
        turns.append(outward(solid, np.zeros(3)))
    assert turns == [1.0] * 6
    assert np.ptp(np.concatenate([solid.points for solid in slab(square, 3.0)]), axis=0).tolist() == [4, 2, 3]


def test_rods_taper_and_paths_pass_their_middle():
    path = bent(np.array(((0.0, 0, 0), (1, 2, 0), (4, 0, 0))), 9)
    np.testing.assert_allclose(path[[0, 4, 8]], ((0, 0, 0), (1, 2, 0), (4, 0, 0)), atol=1e-9)
    rod = tube(np.array(((0.0, 0, 0), (0, 1, 0), (0, 2, 0))), np.array((1.0, 0.5, 0.0)))
    rings = rod.points.reshape(3, -1, 3)
    np.testing.assert_allclose(np.linalg.norm(rings[..., [0, 2]], axis=-1).mean(1), (1.0, 0.5, 0.0), atol=1e-9)
    across = np.ptp(torus(3.0, 0.5).points, axis=0)
    np.testing.assert_allclose(across, (7.0, 7.0, 1.0), atol=1e-9)
    assert np.ptp(ball(2.0, (1, 0.5, 1)).points, axis=0)[1] == pytest.approx(2.0)


def test_coats_are_mostly_of_natural_colours():
    blue = Material(plain=(0, 0, 1))
    coats = [coat(blue, np.random.default_rng(seed)).plain for seed in range(200)]
    assert 0.7 < np.mean([red >= green >= blue for red, green, blue in coats]) < 0.9
    assert materials_of("vehicle", [blue], np.random.default_rng(0)) == [blue]
    assert len(materials_of("animal", [blue] * 3, np.random.default_rng(0))) == 3


def test_nobody_stands_in_a_car():
    def thing(size: tuple[float, float, float]) -> list[Item]:
        return solid_items([(box(np.array(size)), np.eye(3), np.zeros(3), 0)], [Material()])

    inside, beside = np.array(((5.0, 1, 2),)), np.array(((5.0, 1, 12),))
    assert swallows(thing((40, 15, 17)), [beside, inside])
    assert not swallows(thing((40, 15, 17)), [beside])
    assert not swallows(thing((12, 15, 12)), [inside])  # a table may be stood at


def test_what_is_ridden_stands_on_the_ground_and_looks_ahead(assets):
    maker = PropMaker(assets)
    for seed in SEEDS:
        items, saddle = maker.mount(bool(seed % 2), np.random.default_rng(seed))
        points = np.concatenate([item.positions for item in items])
        assert abs(lowest(items)) < 1e-9
        assert 5 < saddle[1] < 20  # dm
        assert abs(saddle[0]) < 1.1 and np.ptp(points[:, 2]) > 1.3 * np.ptp(points[:, 0])


@pytest.mark.parametrize("style", RIDING)
def test_riders_sit_on_what_they_ride(assets, egl, monkeypatch, style):
    monkeypatch.setattr(poses, "LEG_STYLES", {style: poses.LEG_STYLES[style]})
    monkeypatch.setattr(poses, "FILE_SHARE", 0.0)
    monkeypatch.setattr(scenes_module, "ON_BOARDS", 0.0)
    scenes = SceneGenerator(assets, longest=64)
    monkeypatch.setattr(scenes.props, "held", lambda rng: [])
    riders = [scenes._actor(7, number, 0) for number in range(12)]
    mounted = [rider for rider in riders if rider.props]  # not who tumbles or lies
    assert len(mounted) > 6 and all(rider.style == style for rider in riders)
    for rider in mounted:
        assert abs(lowest(rider.props)) < 1e-6
        hips = rider.points[11:13].mean(0)
        cloud = np.concatenate([item.positions for item in rider.props])
        below = cloud[np.hypot(cloud[:, 0] - hips[0], cloud[:, 2] - hips[2]) < 1.5]
        assert 0 < hips[1] - below[:, 1].max() < 2.5  # from the hip joints down to the seat, dm
        assert rider.skin[:, 1].min() > -1.5  # feet of tall people may reach the ground
        far = np.linalg.norm(rider.covered - (cloud * (1, 0, 1))[:, None], axis=2).min(1)
        assert far.max() < 2.3 and np.ptp(rider.covered, axis=0).max() > 9  # nobody else stands where the mount is
