"""Rendered people: geometry of labels, mirroring, visibility, determinism, compositing. Needs assets and EGL."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dwpose_core.skeleton import FLIP_INDICES, KEYPOINT_NAMES
from training.synthetic import camera as cam
from training.synthetic.composite import Crop, composite
from training.synthetic.labels import HIDDEN, OUTSIDE, SEEN_WITHIN, VISIBLE, visibility
from training.synthetic.layer_store import LayerStore
from training.synthetic.rotations import euler_degrees, frame, turn, two_bone

PEOPLE = 8
SIZE = (120, 160)
OBJECTS = [np.full((20, 30, 4), 255, np.uint8)]


@pytest.fixture(scope="module")
def generator(assets, egl):
    from training.synthetic.generate import PersonGenerator

    return PersonGenerator(assets, SIZE, supersample=1)


@pytest.fixture(scope="module")
def people(generator):
    return [generator.person(seed=3, number=i, framing="full") for i in range(PEOPLE)]


@pytest.fixture(scope="module")
def layer_folder(assets, tmp_path_factory):
    pytest.importorskip("moderngl", reason="rendering needs moderngl")
    from training.synthetic.generate import generate

    folder = tmp_path_factory.mktemp("layers")
    try:
        generate(assets, folder, people=6, seed=5, workers=1, size=SIZE)
    except Exception as error:
        if "EGL" in str(error) or "context" in str(error):
            pytest.skip(f"no EGL to render with: {error}")
        raise
    return folder


def test_two_bone_reaches_its_target():
    rng = np.random.default_rng(0)
    for _ in range(50):
        target = rng.normal(size=3) * 1.2
        upper, fore = two_bone(np.zeros(3), target, (2.0, 1.5), np.array((0.0, 0.0, -1.0)))
        end = 2.0 * upper + 1.5 * fore
        reach = np.clip(np.linalg.norm(target), 0.5 * 1.05 + 0.05, 3.5 * 0.999)
        np.testing.assert_allclose(end, target / np.linalg.norm(target) * reach, atol=1e-9)


@pytest.mark.parametrize(
    "matrix",
    [
        turn(np.array((1.0, 2.0, 3.0)), 0.7),
        frame(np.array((1.0, 0.2, 0.0)), np.array((0.0, 1.0, 1.0))),
        euler_degrees("XYZ", np.array((10.0, -40.0, 120.0))),
    ],
)
def test_rotations_are_rotations(matrix):
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1.0)


def test_a_turn_about_y_takes_z_to_x():
    np.testing.assert_allclose(turn(np.array((0, 1, 0)), np.pi / 2) @ (0, 0, 1), (1, 0, 0), atol=1e-12)


def test_rest_pose_moves_nothing(body_model):
    shape = body_model.random_shape(np.random.default_rng(1))
    posed = body_model.pose(shape, {}, {})
    np.testing.assert_allclose(posed.vertices, shape.vertices, atol=1e-9)


def test_bodies_have_human_sizes(body_model):
    heights = []
    for seed in range(12):
        shape = body_model.random_shape(np.random.default_rng(seed))
        extent = np.ptp(shape.vertices[body_model.skin_vertices], axis=0)
        heights.append(extent[1])
        assert extent[2] < extent[1] / 2
    assert 8 < min(heights) and max(heights) < 23  # dm: children to very tall adults


def test_bones_keep_their_length(body_model, assets):
    from training.synthetic.poses import PoseSampler

    sampler = PoseSampler(body_model, assets)
    rng = np.random.default_rng(2)
    shape = body_model.random_shape(rng)
    for _ in range(10):
        local, world, _ = sampler.sample(shape, rng)
        rotations, positions = body_model.forward_kinematics(shape, local, world)
        np.testing.assert_allclose(np.linalg.det(rotations), 1.0, atol=1e-9)
        for name, parent in zip(body_model.bones, body_model.parents, strict=True):
            if parent >= 0:
                i = body_model.bone[name]
                rest = np.linalg.norm(shape.heads[i] - shape.heads[parent])
                assert np.linalg.norm(positions[i] - positions[parent]) == pytest.approx(rest, abs=1e-9)


def test_who_reclines_leans_on_both_hands(body_model, assets, monkeypatch):
    """Both wrists and the head are behind the hips."""
    from training.synthetic import poses

    monkeypatch.setattr(poses, "LEG_STYLES", {"recline": poses.LEG_STYLES["recline"]})
    monkeypatch.setattr(poses, "PROPPED", {"recline": 1.0})
    monkeypatch.setattr(poses, "FILE_SHARE", 0.0)
    monkeypatch.setattr(poses.PoseSampler, "_attitude", lambda self, acrobatic, rng: np.eye(3))
    sampler, rng = poses.PoseSampler(body_model, assets), np.random.default_rng(4)
    shape = body_model.random_shape(rng)
    for _ in range(8):
        local, world, style = sampler.sample(shape, rng)
        _, positions = body_model.forward_kinematics(shape, local, world)
        ahead = {name: positions[body_model.bone[name], 2] for name in ("wrist.L", "wrist.R", "head", "upperleg01.L")}
        hips = ahead.pop("upperleg01.L")
        assert style == "recline" and max(ahead.values()) < hips


def test_left_points_are_on_the_left(body_model, assets):
    """At rest the person looks to +Z, so its left is +X, and mirrored points lie at mirrored places."""
    from training.synthetic.labels import KeypointRules

    rules = KeypointRules(body_model)
    shape = body_model.shape_of(body_model.morph({}), 0.0)
    points = rules.locate(shape, body_model.pose(shape, {}, {}))
    left = [i for i, name in enumerate(KEYPOINT_NAMES) if name.startswith("left_")]
    assert (points[left, 0] > 0).all()
    np.testing.assert_allclose(points[FLIP_INDICES] * (-1, 1, 1), points, atol=0.06)  # dm


def test_keypoints_lie_on_the_person(people):
    """Within the picture, a keypoint that is not outside lies on the silhouette or within two pixels of it."""
    for layer in people:
        near = cv2.dilate((layer.rgba[..., 3] > 0).astype(np.uint8), np.ones((5, 5), np.uint8))
        x, y = np.round(layer.keypoints[layer.visible != OUTSIDE]).astype(int).T
        inside = (x >= 0) & (x < SIZE[0]) & (y >= 0) & (y < SIZE[1])
        assert inside.all()
        assert near[y, x].mean() > 0.99


def test_visibility_agrees_with_the_depth_buffer(people):
    """Exactly: seen points are no farther behind the surface than the tolerance, hidden ones are."""
    kinds = np.zeros(3, int)
    for layer in people:
        rows, columns = layer.surface.shape
        cell = np.floor((layer.keypoints + 0.5) * (columns / SIZE[0], rows / SIZE[1])).astype(int)
        for k in np.flatnonzero(layer.visible != OUTSIDE):
            behind = layer.distance[k] - layer.surface[cell[k, 1], cell[k, 0]]
            assert (behind < SEEN_WITHIN[k]) == (layer.visible[k] == VISIBLE)
        kinds += np.bincount(layer.visible, minlength=3)
    assert kinds[HIDDEN] > 20 and kinds[VISIBLE] > 200  # both happen


@pytest.mark.parametrize(
    ("pixel", "distance", "expected"),
    [
        ((1.0, 1.0), 5.0, VISIBLE),  # on the surface
        ((1.0, 1.0), 9.0, HIDDEN),  # far behind it
        ((-1.0, 1.0), 5.0, OUTSIDE),  # left of the layer
        ((3.0, 1.0), 5.0, OUTSIDE),  # beyond the photograph's border
    ],
)
def test_visibility_table(pixel, distance, expected):
    surface = np.full((4, 4), 5.0)
    pixels = np.tile(np.float64(pixel), (133, 1))
    flags = visibility(pixels, np.full(133, distance), surface, (4, 4), np.array((-9, -9, 2.5, 9)))
    assert (flags == expected).all()


def test_projection_matches_the_renderer(generator):
    """A small square drawn by OpenGL lands where the camera says it does."""
    from training.synthetic.items import Item, Material
    from training.synthetic.light import Light

    camera = cam.Camera(np.eye(3), np.array((0.0, 0.0, -20.0)), (-0.3, 0.3, -0.4, 0.4))
    spot = np.array((1.7, -2.9, 0.0))
    corners = spot + np.array(((-1, -1, 0), (1, -1, 0), (1, 1, 0), (-1, 1, 0))) * 0.6
    item = Item(
        camera.view(corners),
        np.tile((0.0, 0.0, 1.0), (4, 1)),
        np.zeros((4, 2)),
        np.array(((0, 1, 2), (0, 2, 3))),
        Material(),
    )
    light = Light(np.ones((9, 3)), np.array((0.0, 0.0, 1.0)), np.ones(3))
    rgba, surface = generator.renderer.render([item], camera.projection(), light)
    y, x = np.nonzero(rgba[..., 3])
    tangents, distance = camera.project(spot[None])
    np.testing.assert_allclose((x.mean(), y.mean()), camera.to_pixels(tangents, SIZE)[0], atol=0.6)
    assert surface[round(y.mean()), round(x.mean())] == pytest.approx(distance[0], rel=1e-3)


def test_a_person_depends_on_its_number_alone(generator, people):
    again = generator.person(seed=3, number=PEOPLE - 1, framing="full")
    np.testing.assert_array_equal(again.rgba, people[-1].rgba)
    np.testing.assert_array_equal(again.keypoints, people[-1].keypoints)
    assert not np.array_equal(people[0].rgba, people[1].rgba)


def test_layers_on_disk(layer_folder):
    store = LayerStore(layer_folder)
    assert len(store) == 6
    assert store.rgba(0).shape == (SIZE[1], SIZE[0], 4)
    assert store.keypoints.shape == (6, 133, 2) and store.visible.shape == (6, 133)


def test_composite_is_reproducible_and_consistent(layer_folder, assets):
    from training.synthetic.backgrounds import Backgrounds

    store, backgrounds = LayerStore(layer_folder), Backgrounds(assets)
    for seed in range(20):
        one, two = (
            composite(store, seed % 6, backgrounds, OBJECTS, (96, 128), np.random.default_rng(seed)) for _ in range(2)
        )
        np.testing.assert_array_equal(one.image, two.image)
        assert isinstance(one, Crop) and one.image.shape == (128, 96, 3) and one.image.dtype == np.uint8
        inside = ((one.keypoints > -0.51) & (one.keypoints < (95.51, 127.51))).all(1)
        assert inside[one.visible != OUTSIDE].all()


def test_plain_composite_keeps_the_layer_geometry(layer_folder, assets):
    """Without augmentation the crop is the middle of the layer, scaled: the layer's margin goes."""
    from training.synthetic.backgrounds import Backgrounds

    store = LayerStore(layer_folder)
    rng = np.random.default_rng(0)
    crop = composite(store, 0, Backgrounds(assets), OBJECTS, (96, 128), rng, disturb=None)
    scale = 128 * 1.3 / SIZE[1]
    centre = (np.array(SIZE) - 1) / 2
    expected = (store.keypoints[0] - centre) * scale + (95 / 2, 127 / 2)
    np.testing.assert_allclose(crop.keypoints, expected, atol=1e-3)


def test_missing_assets_are_named(tmp_path):
    from training.synthetic.generate import generate

    with pytest.raises(ValueError, match=r"base\.npz"):
        generate(tmp_path, tmp_path / "out", 1, 0, 1, SIZE)
    with pytest.raises(ValueError, match="generate first"):
        LayerStore(tmp_path)


@pytest.mark.parametrize("framing, kept", [("legs", (13, 14, 15, 16)), ("middle", (11, 12))])
def test_framings_that_cut_people(framing, kept):
    """Somebody upright, 17 dm high: legs come without a head mostly, a middle without feet mostly."""
    points = np.zeros((133, 3))
    points[:17, 1] = (16, 16.3, 16.3, 16.2, 16.2, 14, 14, 11.5, 11.5, 9, 9, 9, 9, 5, 5, 1, 1)
    skin = np.random.default_rng(0).uniform((-2, 0, -1), (2, 17, 1), (4000, 3))
    camera, lost = cam.Camera(np.eye(3), np.array((0.0, -9.0, -40.0))), []
    whole = cam.frame_photo(camera, skin, points, "full", 0.75, np.random.default_rng(0))[0].window
    for seed in range(60):
        framed, border = cam.frame_photo(camera, skin, points, framing, 0.75, np.random.default_rng(seed))
        height = framed.project(points)[0][:17, 1]
        seen = (height > border[1]) & (height < border[3])
        assert seen[list(kept)].all() or framing == "middle"
        lost.append((not seen[0], not seen[15], seen[list(kept)].all()))
        assert framed.window[3] - framed.window[2] < 1.01 * (whole[3] - whole[2])
    head, feet, rest = np.mean(lost, axis=0)
    assert head > 0.8 and rest > 0.6
    assert feet == 0 if framing == "legs" else feet > 0.9
