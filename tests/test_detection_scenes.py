"""Pictures a person detector is trained on, and what is labelled in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.detection_toys import FAR, SIDE, toy_pool
from training.data.wholebody import DataSource
from training.detection import batches, scenes
from training.detection.batches import Picture, draw_batch, draw_picture, mirrored, numbered, stacked, to_input
from training.detection.labelled import LabelledPictures
from training.detection.pool import ScenePool
from training.detection.scenes import Cut, Material, Scene, box_of, compose, cut_layer, on_mask, placement
from training.synthetic.composite import lay_over
from training.synthetic.labels import VISIBLE
from training.synthetic.pieces import Pieces


def disc_layer() -> np.ndarray:
    """(80, 60, 4): an ellipse 41 wide and 61 high around the pixel (30, 40)."""
    y, x = np.mgrid[:80, :60]
    rgba = np.zeros((80, 60, 4), np.uint8)
    rgba[((x - 30) / 20.5) ** 2 + ((y - 40) / 30.5) ** 2 <= 1] = (200, 50, 50, 255)
    return rgba


@pytest.mark.parametrize("bottom, cut", [(1e5, False), (50.0, True), (50.7, True)])
def test_a_layer_ends_at_its_photograph(bottom, cut):
    layer = cut_layer(disc_layer(), np.array((-1e5, -1e5, 1e5, bottom)))
    assert layer.extent.tolist() == [10, 10, 51, 51 if cut else 71]
    assert layer.sides.tolist() == [False, False, False, cut]
    assert layer.rgba[51:, :, 3].any() != cut


def test_nothing_within_the_photograph():
    assert cut_layer(disc_layer(), np.array((-1e5, -1e5, 1e5, 5.0))) is None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("sides", [(), (3,), (0, 2, 3), (1,)])
def test_boxes_are_tight_around_what_is_seen(seed, sides):
    """The box of a placed layer against its extent sent through the matrix; cut sides lie on the picture's border."""
    layer = cut_layer(disc_layer(), FAR)
    layer = Cut(layer.rgba, layer.extent, np.isin(np.arange(4), sides))
    size = (160, 120)
    matrix = placement(layer, 0.5, size, np.random.default_rng(seed))
    _, alpha = lay_over(np.zeros((120, 160, 3), np.float32), layer.rgba, matrix)
    box = box_of(alpha, int((alpha > 0.4).sum()))
    if not sides:  # may be turned or partly outside: compare with the pixels themselves
        rows, columns = np.nonzero(alpha > 0.4)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        return
    corners = (layer.extent.reshape(2, 2) - 0.5) @ matrix[:, :2].T + matrix[:, 2] + 0.5
    expected = np.clip(corners, 0, size).ravel()
    np.testing.assert_allclose(box, expected, atol=1.5)
    for side in sides:
        border = 0 if side < 2 else size[side - 2]
        assert abs(box[side] - border) <= 1, "a cut side shows in the picture"


def test_too_little_left_has_no_box():
    mask = np.zeros((50, 50), np.float32)
    mask[10:20, 10:20] = 1.0
    assert box_of(mask, 100).tolist() == [10, 10, 20, 20]
    assert box_of(mask, 1000) is not None and box_of(mask, 1001) is None  # next to nothing of the person
    mask[10:20, 13:] = 0.0
    assert box_of(mask, 30) is None  # three pixels wide


class OneLayer:
    """Stands in for a LayerStore, whose pictures lie on disk."""

    def __init__(self, path: Path):
        import cv2

        cv2.imwrite(str(path), cv2.cvtColor(disc_layer(), cv2.COLOR_RGBA2BGRA))
        self.paths, self.frame, self.framing = [path], FAR[None], np.array(("full",))
        self.keypoints, self.visible = np.zeros((1, 133, 2), np.float32), np.zeros((1, 133), np.uint8)
        self.keypoints[0, 0], self.visible[0, 0] = (30, 40), VISIBLE  # a nose in the middle

    def __len__(self) -> int:
        return 1


class Grey:
    """Stands in for the backgrounds."""

    pieces = Pieces([np.full((60, 80, 3), 40, np.uint8)])

    def sample(self, size, rng):
        return np.full((size[1], size[0], 3), 90, np.uint8)

    def texture(self, size, rng):
        return np.full((size[1], size[0], 3), 40, np.uint8)


def test_close_ups_are_large_and_of_faces_and_hands_alone(tmp_path):
    store = OneLayer(tmp_path / "a.png")
    with pytest.raises(ValueError, match="close-up"):
        compose(Material(store, Grey(), [disc_layer()]), 96, np.random.default_rng(0), 1, close_up=True)
    for name in ("paths", "frame", "keypoints", "visible"):
        setattr(store, name, np.concatenate([getattr(store, name)] * 2))
    store.framing = np.array(("full", "hand"))
    material = Material(store, Grey(), [disc_layer()])
    assert material.close_ups.tolist() == [1]
    shares = []
    for k in range(20):
        scene = compose(material, 96, np.random.default_rng(k), 1, close_up=True)
        shares.append(scene.mask.any(1).mean())
    assert np.median(shares) > 0.6, "of the picture's height"


def test_people_beyond_a_share_are_whole(tmp_path, monkeypatch):
    store = OneLayer(tmp_path / "a.png")
    with pytest.raises(ValueError, match="hold no whole person"):
        store.framing = np.array(("waist",))
        compose(Material(store, Grey(), [disc_layer()]), 96, np.random.default_rng(0), 9)
    for name in ("paths", "frame", "keypoints", "visible"):
        setattr(store, name, np.concatenate([getattr(store, name)] * 2))
    store.framing, store.paths[0] = np.array(("waist", "full")), tmp_path / "missing.png"
    material = Material(store, Grey(), [disc_layer()])
    monkeypatch.setattr(scenes, "WHOLE", 1.0)
    assert compose(material, 96, np.random.default_rng(0), 9).mask.any()
    monkeypatch.setattr(scenes, "WHOLE", 0.0)
    with pytest.raises(ValueError, match=r"missing\.png"):
        compose(material, 96, np.random.default_rng(0), 9)


def test_who_is_cut_on_opposite_sides_stands_where_their_height_says(tmp_path):
    """However small they were to be, they span the picture; if that takes more than a layer has, nobody is drawn."""
    store = OneLayer(tmp_path / "a.png")
    width = disc_layer().shape[1]
    material = Material(store, Grey(), [disc_layer()])
    store.frame = np.array([(width / 2 - 10, -1e5, width / 2 + 10, 1e5)])
    chosen = scenes._choose(material, 0.1, (50, 96), np.random.default_rng(0), False, None)
    scale = np.hypot(*chosen.matrix[0, :2])
    assert scale > 2 and chosen.height > 0.3
    store.frame = np.array([(width / 2 - 3, -1e5, width / 2 + 3, 1e5)])
    assert scenes._choose(material, 0.1, (50, 96), np.random.default_rng(0), False, None) is None
    assert not compose(material, 96, np.random.default_rng(0), 3).mask.any()


def test_scenes_are_reproducible_and_hidden_people_have_smaller_boxes(tmp_path):
    material = Material(OneLayer(tmp_path / "a.png"), Grey(), [disc_layer()])
    areas, whole = [], 0
    for k in range(30):
        scene = compose(material, 96, np.random.default_rng((3, k)), people=4)
        again = compose(material, 96, np.random.default_rng((3, k)), people=4)
        assert np.array_equal(scene.image, again.image) and np.array_equal(scene.boxes, again.boxes)
        assert max(scene.image.shape[:2]) == 96 and scene.image.dtype == np.uint8
        height, width = scene.image.shape[:2]
        assert (scene.boxes >= 0).all() and (scene.boxes[:, 2:] <= (width, height)).all()
        assert ((scene.boxes[:, 2:] - scene.boxes[:, :2]) >= 4).all()
        for x, y, kind in scene.points:
            assert kind == 0 and scene.mask[int(y), int(x)] > 100
        assert len(scene.points) <= 4 and scene.mask.any()
        areas.append(len(scene.boxes))
        whole += len(scene.boxes) == 4
    assert 2 < np.mean(areas) < 4 and whole > 0  # some people are hidden by those before them
    assert len(compose(material, 96, np.random.default_rng(1), people=0).boxes) == 0


def test_place_moves_labels_with_their_pixels():
    rng = np.random.default_rng(0)
    image = np.zeros((40, 60, 3), np.uint8)
    image[10:30, 20:32] = 255
    boxes = np.array([[20, 10, 32, 30]], np.float32)
    points = np.array([[26, 20, 5], [59.5, 39.5, 6]], np.float32)
    for zoom in (0.5, 1.0, 1.5):
        for flip in (False, True):
            scene = Scene(image, boxes, image[..., 0], points)
            picture = Picture.blank(64)
            picture.place((0, 0, 64, 64), mirrored(scene) if flip else scene, zoom, rng)
            rows, columns = np.nonzero(picture.canvas[..., 0] > 200)
            seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            np.testing.assert_allclose(picture.boxes[0], seen, atol=1.0)
            middle = (picture.boxes[0, :2] + picture.boxes[0, 2:]) / 2
            np.testing.assert_allclose(picture.points[0], (*middle, 6 if flip else 5), atol=0.5)  # shoulders swap
            inside = picture.canvas[..., 3] > 128
            assert inside.any() and (picture.canvas[inside, :3] > 100).all(), (
                "the mask lies on the pixels of the person"
            )
            assert (picture.points[:, :2] < 64).all()
    corner = Picture.blank(64)
    corner.place((0, 0, 10, 64), scene, 1.0, np.random.default_rng(2))
    assert (corner.boxes[:, 2] <= 10).all() and (corner.points[:, 0] < 10).all()


def test_batches_depend_on_the_generator_alone_and_have_labels_on_their_pixels(monkeypatch):
    pool = toy_pool(8)
    drawings = [draw_batch(pool, 16, SIDE, 0.5, np.random.default_rng(4)) for _ in range(2)]
    assert all(map(torch.equal, *drawings))
    monkeypatch.setattr(batches, "DRAWN", 0.0)
    monkeypatch.setattr(batches, "RECOLOURED", 0.0)
    first = draw_batch(pool, 16, SIDE, 0.5, np.random.default_rng(4))
    second = draw_batch(pool, 16, SIDE, 0.5, np.random.default_rng(4))
    assert all(map(torch.equal, first, second)) and first.canvas.shape == (16, SIDE, SIDE, 4)
    assert first.people[..., 2].gt(0).sum() > 16 and len(first.points) > 8
    for n, (canvas, people) in enumerate(zip(first.canvas.numpy(), first.people.numpy(), strict=True)):
        bright, mask = canvas[..., :3].max(2) > 110, canvas[..., 3]
        points = first.points[first.points[:, 0] == n, 1:].numpy()
        for x1, y1, x2, y2 in people[people[:, 2] > 0].round().astype(int):
            assert bright[y1:y2, x1:x2].mean() > 0.7 and (mask[y1:y2, x1:x2] > 128).mean() > 0.7
        for x, y, kind in points:
            assert kind == 0 and bright[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2].any()


def test_another_light_leaves_the_border(monkeypatch):
    """Of a scene half as wide as the picture."""
    monkeypatch.setattr(batches, "RECOLOURED", 1.0)
    monkeypatch.setattr(batches, "DRAWN", 0.0)
    pool = toy_pool(1)
    pool.sizes[:] = SIDE // 2
    colours = []
    for seed in range(40):
        picture = draw_picture(pool, SIDE, False, np.random.default_rng(seed))
        border = picture.canvas[-1, -1]
        if border.tolist() == [114, 114, 114, 0]:  # not where the scene was enlarged beyond the picture
            colours.append(picture.canvas[: SIDE // 3, : SIDE // 3, :3].reshape(-1, 3).mean(0))
    colours = np.array(colours)
    grey = np.ptp(colours, axis=1) < 0.5
    assert len(colours) > 30 and 0 < grey.sum() < 12
    assert np.ptp(colours.mean(1)) > 30, "some are darker than others"


def test_labels_travel_as_tensors():
    boxes = [np.zeros((0, 4), np.float32), np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)]
    assert stacked(boxes).tolist() == [[[0] * 4, [0] * 4], boxes[1].tolist()]
    assert stacked(boxes[:1]).shape == (1, 1, 4)  # a row for nobody, so that there is one
    points = [np.array([[1.5, 2, 3]], np.float32), np.zeros((0, 3), np.float32), np.array([[4, 5, 6]], np.float32)]
    assert numbered(points).tolist() == [[0, 1.5, 2, 3], [2, 4, 5, 6]]
    assert numbered(points[1:2]).shape == (0, 4)


def test_points_lie_on_their_own_visible_pixels():
    points = np.array([[0.5, 0.5, 0], [2.5, 1.5, 1], [3.2, 0.1, 2], [-1, 0, 3], [4.0, 0, 4]], np.float32)
    mask = np.zeros((2, 4), bool)
    mask[0, 0] = mask[1, 2] = True
    assert on_mask(points, mask)[:, 2].tolist() == [0, 1]


def test_labelled_pictures_as_scenes(tmp_path):
    """A 40 x 20 picture at side 80: everything twice as large. Hidden points and pictures of crowds are left out."""
    import cv2

    image = np.zeros((20, 40, 3), np.uint8)
    image[4:16, 10:18] = (10, 20, 200)  # BGR on disk
    keypoints = np.zeros((17, 3), int)
    keypoints[0], keypoints[5], keypoints[6] = (13, 5, 2), (11, 8, 1), (16, 8, 2)
    foot = np.zeros((6, 3), int)
    foot[0] = (12, 15, 2)
    person = {"image_id": 1, "category_id": 1, "bbox": [10, 4, 8, 12], "area": 96, "iscrowd": 0}
    person |= {"segmentation": [[10, 4, 18, 4, 18, 16, 10, 16]], "keypoints": keypoints.ravel().tolist()}
    crowd = {"image_id": 2, "category_id": 1, "bbox": [0, 0, 9, 9], "area": 81, "iscrowd": 1, "segmentation": []}
    entries = {
        "images": [{"id": k, "file_name": f"{k}.png", "width": 40, "height": 20} for k in (1, 2, 3)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": 1, "foot_kpts": foot.ravel().tolist()} | person, {"id": 2} | crowd],
    }
    (tmp_path / "labels.json").write_text(json.dumps(entries))
    for k in (1, 2):
        cv2.imwrite(str(tmp_path / f"{k}.png"), image)
    (tmp_path / "3.png").write_bytes(b"not a picture")
    pictures = LabelledPictures((DataSource(str(tmp_path / "labels.json"), str(tmp_path)),))
    assert len(pictures) == 2  # the one with a crowd is gone, the one with nobody stays
    scene = pictures.scene(0, 80)
    assert scene.image.shape == (40, 80, 3) and scene.image[20, 28].tolist() == [200, 20, 10]
    assert scene.boxes.tolist() == [[20, 8, 36, 32]]
    assert scene.mask[20, 28] == 255 and scene.mask[4, 28] == 0 and 0.8 < (scene.mask > 128).sum() / 384 < 1.2
    assert scene.points.tolist() == [[27, 11, 0], [33, 17, 6], [25, 31, 17]]
    with pytest.raises(ValueError, match="readable"):
        pictures.scene(1, 80)
    assert len(LabelledPictures(())) == 0


def test_pools_of_older_versions_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no scenes 'test_close'"):  # the test sets have grown in number
        ScenePool.load(tmp_path, "test_close")
    np.save(tmp_path / "train.npy", np.zeros((1, 8, 8, 3), np.uint8))
    (tmp_path / "train.npz").touch()
    with pytest.raises(ValueError, match="no masks"):
        ScenePool.load(tmp_path, "train")


def test_input_is_bgr():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[..., 0] = 7  # red
    assert to_input(images)[0, :, 0, 0].tolist() == [0.0, 0.0, 7.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 5}, "has nobody of category 1"),
        ({"segmentation": []}, "annotation 7 of .* has no segmentation"),
        ({"segmentation": None}, "annotation 7 of .* has no segmentation"),
        (None, "a.png of .* is not there"),
    ],
)
def test_labelled_pictures_that_would_fail_late_are_refused(tmp_path, change, message):
    person = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": [[1, 1, 6, 1, 6, 6]]}
    entries = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [person | (change or {})]}
    entries["categories"] = [{"id": 1, "name": "person"}, {"id": 5, "name": "dog"}]
    (tmp_path / "labels.json").write_text(json.dumps(entries))
    if change is not None:
        (tmp_path / "a.png").touch()
    with pytest.raises(ValueError, match=message):
        LabelledPictures((DataSource(str(tmp_path / "labels.json"), str(tmp_path)),))
