"""Random draws that must not hang together, and pictures that must not give away where people are."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from training import checkpoint
from training.detection import evaluate
from training.detection.start import DetectorConfig
from training.synthetic import backgrounds, generate, pool, scene_set, sheet
from training.synthetic.backgrounds import Backgrounds
from training.synthetic.body import assets_digest
from training.synthetic.camera import Camera, draw_yaw, frame_photo, random_camera
from training.synthetic.composite import _loose, similarity, warp
from training.synthetic.light import LightSampler
from training.synthetic.pieces import Pieces
from training.synthetic.scenes import SCENE_STREAM
from training.synthetic.staging import Plan, draw_plan, place_camera


def test_a_third_of_the_people_are_turned_away():
    """18 to 20 % were, and 28 % of those in photographs of COCO; two fifths look at the camera."""
    rng = np.random.default_rng(0)
    yaw = np.array([draw_yaw(rng) for _ in range(4000)])
    assert 0.3 < (np.cos(yaw) < 0).mean() < 0.36
    assert 0.35 < (np.cos(yaw) > 0.8).mean() < 0.6


def test_the_camera_does_not_hang_on_the_plan():
    """Drawn from one stream, 4:3 was always 20 to 30 degrees wide and close groups were seen from above."""
    tangent, shape, pitch, group = [], [], [], []
    for number in range(600):
        plan = draw_plan(np.random.default_rng((7, number)), 400)
        rng = np.random.default_rng((7, number, SCENE_STREAM))
        person = np.array(((-2.0, 0.0, 0.0), (2.0, 17.0, 0.0)))
        camera, _ = place_camera(Plan(1, plan.size, "full", False), person, np.zeros((133, 3)), rng)
        left, right, bottom, top = camera.window
        tangent.append(max(right - left, top - bottom))
        shape.append(plan.size[0] / plan.size[1])
        pitch.append(np.arcsin(camera.rotation[2, 1]))
        group.append(plan.people)
    for a, b in ((tangent, shape), (pitch, group)):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.15  # of 600 independent pairs: below 0.04 in two cases of three


def test_sizes_of_batches_do_not_hang_on_their_pictures():
    config = DetectorConfig(steps=1000, seed=3)
    sides = np.array([config.side_at(step) for step in range(400, 800)])
    first = np.array([np.random.default_rng((3, step, 0)).random() for step in range(400, 800)])
    assert abs(np.corrcoef(sides, first)[0, 1]) < 0.15


@pytest.mark.parametrize("framing", ["hand", "face"])
def test_a_close_up_ends_where_its_body_goes_on(framing):
    """A body that fills the layer to an edge has the photograph's border there, and none where it ends before."""
    rng = np.random.default_rng(0)
    points = np.zeros((133, 3))
    points[:, 1] = 10.0
    part = slice(91, 112) if framing == "hand" else slice(23, 91)
    points[part] += rng.uniform(-0.5, 0.5, (part.stop - part.start, 3))
    skin = np.concatenate((points[part], np.array([(0.0, y, 0.0) for y in np.linspace(-5, 10, 40)])))  # a forearm
    camera, border = frame_photo(random_camera(skin, points, framing, rng), skin, points, framing, 0.75, rng)
    outline = camera.project(skin)[0]
    left, right, bottom, top = camera.window
    beyond = np.array((outline[:, 0].min() < left, outline[:, 1].min() < bottom,
                       outline[:, 0].max() > right, outline[:, 1].max() > top))  # fmt: skip
    assert beyond.any()
    np.testing.assert_array_equal(np.abs(border) < 1e5, beyond)
    np.testing.assert_allclose(border[beyond], np.array((left, bottom, right, top))[beyond])


def test_who_is_cut_on_opposite_sides_spans_the_photograph():
    alpha = np.full((256, 192), 255, np.uint8)
    frame = np.array((-0.5, -1e5, 191.5, 1e5))
    for seed in range(20):
        matrix, photo = _loose(alpha, frame, (144, 192), np.random.default_rng(seed))
        edges = np.array(((0, 128, 1), (191, 128, 1))) @ matrix.T
        across = edges[1] - edges[0]
        assert np.hypot(*across) >= (photo[2] - photo[0]) * 0.99


def photograph(tmp_path: Path) -> Backgrounds:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (30, 40, 3), np.uint8)
    (tmp_path / "backgrounds").mkdir()
    cv2.imwrite(str(tmp_path / "backgrounds" / "a.jpg"), cv2.resize(small, (800, 600), interpolation=cv2.INTER_CUBIC))
    cv2.imwrite(str(tmp_path / "backgrounds" / "pano_a.jpg"), small)
    return Backgrounds(tmp_path)


def test_enlarged_backgrounds_have_no_blocks(tmp_path):
    """Enlarged by areas, three of four neighbouring pixels are equal, as nowhere in a photograph."""
    scenery = photograph(tmp_path)
    for seed in range(10):
        picture = scenery._photo((1600, 1200), np.random.default_rng(seed)).astype(int)
        assert (np.abs(np.diff(picture, axis=1)).sum(2) == 0).mean() < 0.2


def test_backgrounds_are_not_enlarged_without_end(tmp_path, monkeypatch):
    scenery, seen, resize = photograph(tmp_path), [], cv2.resize

    def noted(crop, size, **how):
        seen.append(size[0] / crop.shape[1])
        return resize(crop, size, **how)

    monkeypatch.setattr(backgrounds.cv2, "resize", noted)
    for seed in range(40):
        scenery._photo((400, 300), np.random.default_rng(seed))
    assert max(seen) <= backgrounds.LARGEST_ZOOM * 1.02 and min(seen) < 1


def test_some_of_what_is_enlarged_or_painted_is_as_fine_as_photographs(tmp_path):
    """A panorama is enlarged 2 to 11 times: before a blurred wall a sharp outline alone said person."""
    scenery, camera = photograph(tmp_path), Camera(np.eye(3), np.zeros(3), (-0.3, 0.3, -0.225, 0.225))
    hills = cv2.resize(np.random.default_rng(1).integers(0, 256, (16, 32, 3), np.uint8), (1024, 512))
    scenery.panoramas = {"hills": hills}
    scenery.photos = [np.random.default_rng(2).integers(0, 256, (600, 800, 3), np.uint8)]
    views = [scenery.around("hills", camera, (320, 240), np.random.default_rng(seed)) for seed in range(40)]
    fine = np.array([np.abs(backgrounds._fine(view, backgrounds.FINE_BLUR)).mean() for view in views])
    assert 0.15 < (fine > 1).mean() < 0.5, "0.1 in the panorama, and all of them would be embossed"
    assert 4 < np.median(fine[fine > 1]) < 10, "5 to 12 in photographs"
    sharp = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    np.testing.assert_array_equal(scenery._finer(sharp, np.random.default_rng(0)), sharp)


def test_pasted_patches_have_no_dark_seam(tmp_path, monkeypatch):
    """White patches, shaded to 0.6 at most, on what is as dark."""
    scenery = photograph(tmp_path)
    monkeypatch.setattr(scenery, "texture", lambda size, rng: np.full((size[1], size[0], 3), 255, np.uint8))
    picture = np.full((96, 128, 3), 153, np.uint8)
    scenery._patches(picture, 30, 0.4, np.random.default_rng(0))
    assert picture.min() >= 150 and picture.max() > 200


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pieces_of_photographs_end_where_the_photograph_changes(dtype):
    """A red square and a blue ground: pieces are of one colour or the other, along the square's border."""
    photo = np.full((300, 400, 3), (0, 0, 200), np.uint8)
    photo[100:200, 150:250] = (200, 0, 0)
    cut, mixed, pasted = Pieces([photo]), 0, 0
    for seed in range(60):
        picture = np.full((200, 160, 3), 77, dtype)
        alpha = cut.lay(picture, np.random.default_rng(seed))
        assert (picture[alpha == 0] == 77).all() and alpha.min() >= 0 and alpha.max() <= 1
        whole = picture[alpha == 1].astype(float)
        pasted += len(whole)
        mixed += ((whole[:, 0] > 20) & (whole[:, 2] > 20)).sum()
        assert (whole.max(1, initial=255) > 100).all(), "the colours are the photograph's, up to a third darker"
    assert pasted > 20_000 and mixed < 0.05 * pasted


def test_pieces_do_not_depend_on_what_was_cut_before():
    photos = [np.random.default_rng(k).integers(0, 256, (30, 40, 3), np.uint8) for k in range(3)]
    photos = [cv2.resize(photo, (400, 300)) for photo in photos]
    fresh, used = Pieces(photos), Pieces(photos)
    for seed in range(9):
        used.lay(np.zeros((90, 120, 3), np.uint8), np.random.default_rng(seed))
    one, other = np.zeros((2, 90, 120, 3), np.uint8)
    alpha = fresh.lay(one, np.random.default_rng(20))
    np.testing.assert_array_equal(alpha, used.lay(other, np.random.default_rng(20)))
    np.testing.assert_array_equal(one, other)
    assert alpha.any()


@pytest.mark.parametrize("scale", [0.31, 0.47, 0.59])
def test_shrinking_keeps_what_is_drawn_at_its_point(scale):
    """A dot 90 % across, where a rounded size was off by more than a pixel."""
    picture = np.zeros((255, 193), np.float32)
    picture[226:231, 171:176] = 255
    small = warp(picture, similarity(0.0, scale, np.zeros(2), np.zeros(2)), (193, 255))
    rows, columns = np.indices(small.shape)
    found = np.array(((small * columns).sum(), (small * rows).sum())) / small.sum()
    np.testing.assert_allclose(found, np.array((173, 228)) * scale, atol=0.15)


def test_a_folder_is_continued_as_it_was_begun(tmp_path):
    file = tmp_path / "settings.json"
    checkpoint.same_settings(file, {"seed": "1", "close_ups": "0.5"})
    checkpoint.same_settings(file, {"seed": "1", "close_ups": "0.5"})
    with pytest.raises(ValueError, match=r"begun with --close-ups 0\.5; choose another --out"):
        checkpoint.same_settings(file, {"seed": "1", "close_ups": "0.6"})


@pytest.mark.parametrize(
    ("main", "argv", "message"),
    [
        (generate.main, "--assets x --out y --people 0", "at least 1"),
        (generate.main, "--assets x --out y --captured 2", "from 0 to 1"),
        (generate.main, "--assets x --out y --layers --size 0 0", "at least 16"),
        (generate.main, "--assets x --out y --size 96 128", "--size is of layers"),
        (generate.main, "--assets x --out y --layers --longest 320", "--longest is of photographs"),
        (generate.main, "--assets x --out y --captured nan", "from 0 to 1"),
        (generate.main, "--assets x --out y --workers 0", "at least 1"),
        (generate.main, "--assets x --out y --seed -1", "not be negative"),
        (pool.main, "--layers x --objects y --assets z --out w --count 0", "at least 1"),
        (sheet.main, "--data x --out y --columns 0", "at least 1"),
        (sheet.main, "--data x --out y.png --scenes 3", "--scenes is for photographs; x holds no annotations.json"),
        (sheet.main, "--data x --out y.png --show both", "--show is for photographs"),
        (sheet.main, "--data x --out y.png --size 96 128", "--size is of crops"),
        (evaluate.main, "yolox-cspnext-s", "--pool, --labels"),
        (evaluate.main, "yolox-cspnext-s --labels x --detector-size 500", "multiple of 32"),
    ],
)
def test_commands_that_would_do_nothing_are_refused(monkeypatch, capsys, main, argv, message):
    monkeypatch.setattr(sys, "argv", ["command", *argv.split()])
    with pytest.raises(SystemExit):
        main()
    assert message in capsys.readouterr().err


def test_sheets_of_photographs_take_no_options_of_layers(tmp_path, monkeypatch, capsys):
    (tmp_path / "annotations.json").write_text(json.dumps({"images": [], "annotations": []}))
    command = ["sheet", "--data", str(tmp_path), "--out", str(tmp_path / "new" / "sheet.png")]
    monkeypatch.setattr(sys, "argv", [*command, "--assets", "x", "--objects", "y"])
    with pytest.raises(SystemExit):
        sheet.main()
    assert "--assets is for layers" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(ValueError, match="lists no pictures"):
        sheet.main()
    monkeypatch.setattr(sys, "argv", [*command[:-1], str(tmp_path / "sheet")])
    with pytest.raises(ValueError, match="no suffix of a picture"):
        sheet.main()


def test_pictures_that_assets_lack_are_named(tmp_path):
    """NumPy said "high <= 0", in a worker, where there was nothing to choose from."""
    photograph(tmp_path)
    folder = tmp_path / "backgrounds"
    (folder / "pano_a.jpg").rename(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"no panoramas .*--hdri"):
        Backgrounds(tmp_path)
    (tmp_path / "a.jpg").rename(folder / "pano_a.jpg")
    (folder / "a.jpg").unlink()
    with pytest.raises(ValueError, match=r"no photographs .*--backgrounds"):
        Backgrounds(tmp_path)
    (folder / "a.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(ValueError, match=r"a\.jpg is not a readable picture"):
        Backgrounds(tmp_path)
    with pytest.raises(ValueError, match=r"hdri holds no \.hdr panoramas .*--hdri"):
        LightSampler(tmp_path / "hdri")
    (tmp_path / "night.hdr").write_bytes(b"dark")
    with pytest.raises(ValueError, match=r"night\.hdr is not a readable panorama"):
        LightSampler(tmp_path)


@pytest.fixture
def failing(tmp_path, monkeypatch) -> Path:
    """A folder of assets with which every worker fails."""

    def refuse(*_):
        raise ValueError("nothing to draw with")

    for module in (scene_set, generate):
        monkeypatch.setattr(module, "check_opengl", lambda: None)
        monkeypatch.setattr(module, "Workers", refuse)
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "base.npz").touch()
    return tmp_path / "assets"


def test_what_failed_before_its_first_scene_binds_nobody(failing, tmp_path):
    out = tmp_path / "out"
    for seed in (1, 2):
        with pytest.raises(ValueError, match="nothing to draw with"):
            scene_set.generate_scenes(failing, out, 1, seed, 1)
    half, foreign = out / "images" / "0002_0000000.jpg.7.part", out / "film.part"
    for path in (half, foreign, out / "labels" / "0002_0000000.json"):
        path.touch()
    with pytest.raises(ValueError, match="choose another folder"):
        scene_set.generate_scenes(failing, out, 1, 3, 1)
    assert half.exists(), "it is of a run that is not this one, and may go on"
    with pytest.raises(ValueError, match="nothing to draw with"):
        scene_set.generate_scenes(failing, out, 40, 2, 1)
    assert not half.exists() and foreign.exists(), "only what this command writes is its own to remove"


def test_captured_poses_that_assets_lack_cost_no_layers(failing, tmp_path):
    labels = tmp_path / "labels_0001.npz"
    labels.touch()
    for make in (generate.generate, scene_set.generate_scenes):
        size = (48, 64) if make is generate.generate else 64
        with pytest.raises(ValueError, match=r"poses_cmu\.npz"):
            make(failing, tmp_path, 1, 1, 1, size, 0.5)
    assert labels.exists() and not (tmp_path / "settings.json").exists()


def test_asset_folders_are_told_apart(tmp_path):
    (tmp_path / "backgrounds").mkdir()
    (tmp_path / "backgrounds" / "a.jpg").write_bytes(b"1")
    one = assets_digest(tmp_path)
    assert assets_digest(tmp_path) == one
    (tmp_path / "backgrounds" / "b.jpg").write_bytes(b"2")
    assert assets_digest(tmp_path) != one
