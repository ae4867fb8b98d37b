"""Labelled scenes: geometry, visibility against re-renders, COCO form, determinism, resuming. Needs assets and EGL."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from dwpose_core.skeleton import FLIP_INDICES, PARTS
from training.data.augment import NO_AUGMENT
from training.data.check import main as check
from training.data.wholebody import DataSource, WholeBodyDataset, read_annotations
from training.synthetic.coco import annotation
from training.synthetic.labels import HIDDEN, OCCLUDED, OUTSIDE, VISIBLE
from training.synthetic.scenes import NOBODY, Canvas, PersonLabel
from training.synthetic.shadows import looking_along
from training.synthetic.staging import CLEAR, FARTHEST, Plan, draw_plan, place_another, place_camera

SEED = 11
LONGEST = 224


@pytest.fixture(scope="module")
def assets(assets, egl) -> Path:
    """The assets of conftest.py, where they can be rendered with OpenGL."""
    return assets


@pytest.fixture(scope="module")
def generator(assets):
    from training.synthetic.scenes import SceneGenerator

    return SceneGenerator(assets, LONGEST)


@pytest.fixture(scope="module")
def crowds(generator):
    """Scenes with several people: (number, scene)."""
    numbers = [n for n in range(60) if generator.plan(SEED, n).people >= 3][:8]
    return [(n, generator.scene(SEED, n)) for n in numbers]


@pytest.fixture(scope="module")
def alone(generator, crowds):
    """(person in its scene, the same person drawn without the others), for the first of each scene."""
    pairs = []
    for number, scene in crowds:
        for person in scene.people[:2]:
            solo = generator.scene(SEED, number, alone=person.number)
            pairs.append((person, solo.people[0]))
    return pairs


@pytest.fixture(scope="module")
def folder(assets, tmp_path_factory) -> Path:
    from training.synthetic.scene_set import generate_scenes

    out = tmp_path_factory.mktemp("scenes")
    generate_scenes(assets, out, people=12, seed=SEED, workers=1, longest=160)
    return out


def test_light_is_of_the_panorama_behind_people(generator, monkeypatch):
    """By name: a pack with --photographs has panoramas that no light is of, between the others."""
    panoramas = generator.backgrounds.panoramas
    more = {"a": next(iter(panoramas.values())), **panoramas}
    monkeypatch.setattr(generator.backgrounds, "panoramas", more)
    lit, around, sample = [], generator.backgrounds.around, generator.lights.sample
    monkeypatch.setattr(generator.backgrounds, "around", lambda name, *rest: lit.append(name) or around(name, *rest))
    monkeypatch.setattr(generator.lights, "sample", lambda rng, name=None: lit.append(name) or sample(rng, name))
    plan = next(plan for plan in map(partial(generator.plan, SEED), range(60)) if plan.people == 0)
    for seed in range(60):
        camera, _ = place_camera(plan, None, None, np.random.default_rng(seed))
        lit.clear()
        generator._surroundings(plan, camera, [], np.random.default_rng(seed))
        if len(lit) == 2:
            assert lit[0] == lit[1] in generator.lights.panoramas
            break
    assert len(lit) == 2


def test_a_light_of_a_place_without_panorama_is_told(assets, tmp_path):
    from training.synthetic.scenes import SceneGenerator

    for path in assets.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "hdri").unlink()
    (tmp_path / "hdri").mkdir()
    (tmp_path / "hdri" / "moon.hdr").symlink_to(next(assets.glob("hdri/*.hdr")))
    with pytest.raises(ValueError, match=r"hdri/moon\.hdr but no backgrounds/pano_moon\.jpg"):
        SceneGenerator(tmp_path, LONGEST)


def person_at(keypoints: np.ndarray, state: np.ndarray, size: tuple[int, int]) -> PersonLabel:
    mask = np.zeros(size[::-1], bool)
    mask[10:30, 20:40] = True
    return PersonLabel(keypoints.astype(np.float32), state.astype(np.uint8), mask, np.array((15.0, 5, 60, 90)), "x", 0)


def test_keypoints_lie_on_the_person(alone):
    """What is in the picture lies on the silhouette that the person has without the others, or two pixels from it."""
    for person, solo in alone:
        near = cv2.dilate(solo.mask.astype(np.uint8), np.ones((5, 5), np.uint8))
        x, y = np.round(person.keypoints[person.state != OUTSIDE]).astype(int).T
        assert near[np.clip(y, 0, None), np.clip(x, 0, None)].mean() > 0.97


def test_seen_points_lie_on_the_seen_part(crowds):
    shares = []
    for _, scene in crowds:
        for person in scene.people:
            near = cv2.dilate(person.mask.astype(np.uint8), np.ones((5, 5), np.uint8))
            x, y = np.floor(person.keypoints[person.state == VISIBLE] + 0.5).astype(int).T
            shares += near[y, x].tolist()
    assert np.mean(shares) > 0.97


def test_occlusion_by_others_agrees_with_a_render_without_them(alone):
    """Exactly: without the others, what they hid is seen, and nothing else changes."""
    counts = np.zeros(4, int)
    for person, solo in alone:
        np.testing.assert_array_equal(solo.keypoints, person.keypoints)
        sunk = (person.state == OCCLUDED) & (solo.state == OCCLUDED)
        assert sunk.sum() <= 1  # shoes stand on the ground, a heel in them may lie a centimetre below it
        expected = np.where((person.state == OCCLUDED) & ~sunk, VISIBLE, person.state)
        np.testing.assert_array_equal(solo.state, expected)
        assert person.mask.sum() <= solo.mask.sum() + 2
        counts += np.bincount(person.state, minlength=4)
    assert (counts > 50).all()  # all four states happen


def test_people_do_not_share_pixels(crowds):
    for _, scene in crowds:
        assert np.sum([person.mask for person in scene.people], axis=0).max() <= 1


def test_a_scene_depends_on_its_number_alone(generator, crowds):
    number, scene = crowds[0]
    again = generator.scene(SEED, number)
    np.testing.assert_array_equal(again.image, scene.image)
    assert len(again.people) == len(scene.people)
    for one, two in zip(again.people, scene.people, strict=True):
        np.testing.assert_array_equal(one.keypoints, two.keypoints)
        np.testing.assert_array_equal(one.state, two.state)


def test_the_picture_shows_where_the_mask_is(generator, crowds):
    """Without the noise of photography: leaving a person out changes the picture where its mask was."""
    number, scene = next((n, s) for n, s in crowds if len(s.people) > 1 and s.people[0].mask.sum() > 500)
    person = scene.people[0]
    without = generator.scene(SEED, number, alone=scene.people[-1].number)
    assert without.image.shape == scene.image.shape
    changed = np.abs(without.image.astype(int) - scene.image).max(2) > 8
    assert changed[person.mask].mean() > 0.6


def test_shadows_fall_below_what_casts_them(generator):
    """A plate over a ground, lamp straight above: dark below it, bright beside it, and only with shadows."""
    from training.synthetic.camera import Camera
    from training.synthetic.items import Material
    from training.synthetic.light import Light
    from training.synthetic.props import moved, quad
    from training.synthetic.rotations import X, Z, turn

    rotation = turn(X, 0.6)
    camera = Camera(rotation, np.array((0.0, 0.0, -30.0)), (-0.3, 0.3, -0.3, 0.3))
    ground = quad(np.zeros(3), 50 * X, -50 * Z, Material())
    plate = quad(np.array((0.0, 4.0, 0.0)), 2 * X, -2 * Z, Material())
    items = moved([ground], camera.rotation, camera.shift)
    caster = moved([plate], camera.rotation, camera.shift)
    harmonics = np.zeros((9, 3))
    harmonics[0] = 0.2
    light = Light(harmonics, np.array((0.0, 1.0, 0.0)), np.full(3, 0.8)).seen_from(rotation)
    size = (LONGEST, LONGEST)
    shadows = generator.renderer.cast_shadows(caster, light, camera.rotation[:, 1], 0.05)
    lit, dark = (
        generator.renderer.render_samples(items, camera.projection(), light, size, s)[0] for s in (None, shadows)
    )
    spots = camera.to_pixels(camera.project(np.array(((0.0, 0, 0), (6.0, 0, 0))))[0], size)
    (x0, y0), (x1, y1) = np.round(spots * generator.renderer.supersample).astype(int)
    assert dark[y0, x0, 0] < 0.75 * lit[y0, x0, 0]
    assert abs(int(dark[y1, x1, 0]) - int(lit[y1, x1, 0])) <= 2


def test_shadow_camera_holds_all_points():
    rng = np.random.default_rng(0)
    for direction in (*rng.normal(size=(10, 3)), np.array((0.0, 1.0, 0.0))):
        points = rng.normal(0, 20, (100, 3))
        matrix, across = looking_along(direction, points)
        clip = points @ matrix[:3, :3].T + matrix[:3, 3]
        assert np.abs(clip).max() <= 1.0
        assert np.linalg.det(matrix[:3, :3]) < 0  # depth grows away from the light, as in OpenGL clip space
        order = np.argsort(points @ direction)
        assert (np.diff(clip[order, 2]) <= 1e-12).all()
        assert across == pytest.approx(2 / np.linalg.norm(matrix[0, :3]))


@pytest.mark.parametrize("framing", ["far", "full", "half", "bust", "face", "hand"])
def test_cameras_stand_above_the_ground_and_off_the_body(framing):
    rng = np.random.default_rng(1)
    for _ in range(40):
        skin = rng.uniform((-2.5, 0, -1.5), (2.5, 17, 1.5), (400, 3))
        points = rng.uniform((-2, 1, -1), (2, 16, 1), (133, 3))
        plan = Plan(4, (640, 480), framing, bool(rng.integers(2)))
        camera, distance = place_camera(plan, skin, points, rng)
        assert (-camera.rotation.T @ camera.shift)[1] > 0
        assert camera.project(skin)[1].min() >= CLEAR - 0.3
        assert distance <= FARTHEST
        places = [np.zeros(3)]
        for _ in range(3):
            places.append(place_another(plan, places, camera, distance, rng))
        assert all(place[1] == 0 for place in places)


@pytest.mark.parametrize(
    ("first", "second", "colour", "who"),
    [
        ((255, 10.0), (255, 5.0), 0.4, 1),  # opaque in front of opaque
        ((255, 5.0), (255, 10.0), 0.2, 0),  # opaque behind opaque
        ((51, 5.0), (255, 10.0), 0.2 * 0.2 + 0.8 * 0.4, 1),  # seen through a fifth of hair that came first
        ((255, 10.0), (51, 5.0), 0.2 * 0.4 + 0.8 * 0.2, 0),  # a fifth of hair in front, drawn last
    ],
)
def test_layers_merge_by_depth(first, second, colour, who):
    canvas = Canvas.empty(2, 2)
    for k, ((alpha, depth), value) in enumerate(((first, 0.2), (second, 0.4))):
        rgba = np.full((1, 1, 4), alpha, np.uint8)
        rgba[..., :3] = round(value * alpha)
        canvas.add(rgba, np.full((1, 1), depth, np.float32), (1, 0), k)
    assert canvas.rgb[0, 1, 0] == pytest.approx(colour, abs=0.01)
    assert canvas.alpha[0, 1] == pytest.approx(1.0)
    assert canvas.who[0, 1] == who and canvas.who[0, 0] == NOBODY and canvas.alpha[1, 1] == 0


def test_annotation_follows_its_conventions():
    size = (100, 80)
    keypoints = np.tile((50.0, 40.0), (133, 1)) + np.arange(133)[:, None] % 5
    state = np.full(133, VISIBLE)
    state[[1, 2]] = HIDDEN, OCCLUDED
    state[3] = OUTSIDE
    state[PARTS["left_hand"]] = OCCLUDED  # in the picture, none seen: no label
    state[PARTS["right_hand"]] = OUTSIDE
    state[112:120] = VISIBLE  # 8 of 21 in the picture: too few
    state[PARTS["face"]] = HIDDEN
    state[23:40] = VISIBLE  # a quarter seen, all in the picture: labelled
    entry = annotation(person_at(keypoints, state, size), size, image_id=7, place=2)
    assert entry["id"] == 72 and entry["image_id"] == 7
    assert entry["bbox"] == [20, 10, 20, 20] and entry["area"] == 400
    assert entry["num_keypoints"] == 16
    assert entry["keypoints"][:12] == [50, 40, 2, 51, 41, 1, 52, 42, 1, 0, 0, 0]
    assert [entry[f"{part}_valid"] for part in ("face", "lefthand", "righthand")] == [True, False, False]
    assert entry["lefthand_box"] == [0] * 4 and set(entry["lefthand_kpts"]) == {0}
    assert entry["face_box"] == pytest.approx([49.6, 39.6, 5.8, 5.8])  # 50 .. 54 as pixels, grown by 0.4
    assert entry["full_bbox"] == [15.5, 5.5, 45, 85]
    assert entry["wholebody_state"] == state.tolist() and len(entry["wholebody_xy"]) == 266


@pytest.mark.parametrize(("side", "labelled"), [(1, [1, 1, 1, 2]), (-1, [0, 0, 0, 2])])
def test_nose_and_eyes_of_a_head_seen_from_behind_have_no_label(side, labelled):
    """From the front the person's right eye is on the left of the picture, from behind on the right."""
    keypoints, state = np.tile((50.0, 40.0), (133, 1)), np.full(133, HIDDEN)
    keypoints[[23 + 36, 23 + 45, 23 + 8]] += np.array(((-3.0 * side, 0), (3 * side, 0), (0, 8)))
    state[[3, 4, 5, 6]] = VISIBLE  # ears and shoulders
    entry = annotation(person_at(keypoints, state, (100, 80)), (100, 80), image_id=1, place=0)
    assert entry["keypoints"][2:12:3] == labelled
    assert entry["wholebody_state"] == state.tolist()


def test_annotations_are_read_by_training(folder):
    annotations, images = folder / "annotations.json", folder / "images"
    table = read_annotations(annotations)
    content = json.loads(annotations.read_text())
    assert 8 <= len(content["annotations"]) <= 20
    assert len(table) == sum(p["num_keypoints"] > 0 for p in content["annotations"])
    assert check([f"{annotations},{images}"]) == 0
    for person in content["annotations"]:
        state = np.array(person["wholebody_state"])
        xy = np.array(person["wholebody_xy"]).reshape(-1, 2)
        body = np.array(person["keypoints"]).reshape(17, 3)
        away = (state[:3] != VISIBLE).all() and not body[:3, 2].any()  # nose and eyes of a head seen from behind
        np.testing.assert_array_equal(body[3 * away :, 2] > 0, state[3 * away : 17] != OUTSIDE)
        np.testing.assert_array_equal(body[:, 2] == 2, state[:17] == VISIBLE)
        np.testing.assert_allclose(body[body[:, 2] > 0, :2], xy[:17][body[:, 2] > 0])


def test_pycocotools_accepts_the_file(folder, capsys):
    coco = pytest.importorskip("pycocotools.coco", reason="needs pycocotools")
    api = coco.COCO(str(folder / "annotations.json"))
    assert api.getCatIds() == [1] and len(api.getImgIds()) == len(list((folder / "images").iterdir()))
    for person in api.loadAnns(api.getAnnIds()):
        mask = api.annToMask(person)
        assert mask.sum() == person["area"]
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
        assert person["bbox"] == box


def test_flips_swap_left_and_right(folder):
    source = (DataSource(str(folder / "annotations.json"), str(folder / "images")),)
    plain = WholeBodyDataset(source, (128, 96), NO_AUGMENT)
    flipped = WholeBodyDataset(source, (128, 96), replace(NO_AUGMENT, flip=1.0))
    for k in range(len(plain)):
        one, two = plain[0, k], flipped[0, k]
        seen = one["visible"] > 0
        np.testing.assert_array_equal(two["visible"], one["visible"][FLIP_INDICES])
        expected = one["keypoints"] * (-1, 1) + (95, 0)
        # A crop's middle is at half its width, not between its pixels: the mirrored one lies one pixel beside.
        np.testing.assert_allclose(two["keypoints"][FLIP_INDICES][seen], expected[seen] + (1, 0), atol=1e-2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_workers_change_nothing_and_lost_scenes_are_redone(assets, folder, tmp_path):
    from training.synthetic.scene_set import generate_scenes

    out = tmp_path / "two"
    generate_scenes(assets, out, people=12, seed=SEED, workers=2, longest=160)
    assert contents(out) == contents(folder)
    for path in (*sorted((out / "labels").iterdir())[::2], out / "annotations.json"):
        path.unlink()
    generate_scenes(assets, out, people=12, seed=SEED, workers=1, longest=160)
    assert contents(out) == contents(folder)


def test_a_killed_run_continues_to_the_same_result(assets, folder, tmp_path):
    out = tmp_path / "killed"
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-m", "training.synthetic.generate", "--assets", str(assets), "--out", str(out)]
    command += ["--people", "12", "--seed", str(SEED), "--workers", "1", "--longest", "160"]
    process = subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.time() + 120
    while not list((out / "labels").glob("*.json")) and time.time() < deadline:
        time.sleep(0.05)
        assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list((out / "labels").glob("*.json")))
    assert 0 < done < len(list((folder / "labels").iterdir()))
    assert not (out / "annotations.json").exists()
    (out / "images" / "half.jpg.123.part").write_bytes(b"written when it was killed")
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    assert contents(out) == contents(folder)


def test_another_seed_or_size_is_refused(assets, folder):
    from training.synthetic.scene_set import generate_scenes

    with pytest.raises(ValueError, match="choose another folder"):
        generate_scenes(assets, folder, people=1, seed=SEED + 1, workers=1, longest=160)


def test_missing_assets_are_named(tmp_path):
    from training.synthetic.scene_set import generate_scenes

    with pytest.raises(ValueError, match=r"base\.npz"):
        generate_scenes(tmp_path, tmp_path / "out", 1, 0, 1)


def test_crops_without_a_folder_are_those_of_the_folder(assets, folder):
    """Rendered and cut in one go: the same pictures and labels as from the files, but for the rounding of the json."""
    from training.synthetic.scene_crops import SceneCropper, ScenePeople, scene_crop

    people = ScenePeople(folder)
    cropper, compared = SceneCropper(assets, (48, 64), 160, each=2), 0
    for number in range(len(list((folder / "images").iterdir()))):
        images, keypoints, visible = cropper.crops(SEED, number)
        mine = [k for k, path in enumerate(people.paths) if path.stem == f"{SEED:04d}_{number:07d}"]
        assert len(images) == len(keypoints) == len(visible) == 2 * len(mine)
        rng = np.random.default_rng((SEED, number, 200))
        crops = [scene_crop(people, k, (48, 64), rng) for k in mine for _ in range(2)]
        for crop, image, points, flags in zip(crops, images, keypoints, visible, strict=True):
            assert np.abs(crop.image.astype(int) - image).mean() < 0.5
            np.testing.assert_allclose(crop.keypoints, points, atol=0.05)
            assert (crop.visible != flags).mean() < 0.02  # one at the very border
            compared += 1
    assert compared >= 6


def test_plans_cover_what_they_should():
    plans = [draw_plan(np.random.default_rng(k), 640) for k in range(400)]
    assert {plan.people for plan in plans} == set(range(7))
    assert {plan.framing for plan in plans} == {"far", "full", "half", "bust", "face", "hand"}
    assert all(max(plan.size) == 640 for plan in plans)
