"""Reader, augmentation and sampling: against the original where it leaves a number, against themselves elsewhere."""

from __future__ import annotations

import itertools
import json
import zlib

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from dwpose_core.skeleton import FLIP_INDICES
from training.data import augment as aug
from training.data import check
from training.data.samplers import StepBatches, epoch_order
from training.data.wholebody import DataSource, WholeBodyDataset, read_annotations, read_image


def person(points: np.ndarray, box, image_id=1, person_id=1, **extra) -> dict:
    """A COCO-WholeBody annotation from (133, 3) values."""
    cuts = np.split(points, [17, 23, 91, 112])
    names = ("keypoints", "foot_kpts", "face_kpts", "lefthand_kpts", "righthand_kpts")
    lists = {name: part.ravel().tolist() for name, part in zip(names, cuts, strict=True)}
    return {
        "id": person_id,
        "image_id": image_id,
        "bbox": list(box),
        "iscrowd": 0,
        "num_keypoints": 17,
        **lists,
        **extra,
    }


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Three smooth 320 x 240 JPEGs with two people each."""
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, 4):
        picture = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3), dtype=np.uint8), (0, 0), 6)
        cv2.imwrite(str(folder / f"{i}.jpg"), cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX))
        images.append({"id": i, "file_name": f"{i}.jpg", "width": 320, "height": 240})
        for j in range(2):
            points = np.column_stack((rng.random((133, 2)) * (150, 200) + (20 + 130 * j, 20), np.full(133, 2)))
            annotations.append(person(points, (20 + 130 * j, 20, 150, 200), i, 2 * i + j))
    path = folder / "toy.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return DataSource(str(path), str(folder))


def test_people_of_the_original_reader(shared):
    golden = np.load(shared / "golden" / "dataset_augment.npz")
    table = read_annotations(shared / "data" / "test_coco_wholebody.json")
    np.testing.assert_array_equal(table.person_id, golden["ann_id"])
    np.testing.assert_array_equal(table.image_id[table.image], golden["img_id"])
    np.testing.assert_array_equal(table.box, golden["bbox"])
    np.testing.assert_array_equal(table.keypoints, golden["keypoints"])
    np.testing.assert_array_equal(table.visible, golden["visible"])
    assert {reason: n for reason, n in table.dropped.items() if n} == {"no body keypoint": 2}


def strip(annotation: dict) -> dict:
    return {name: value for name, value in annotation.items() if value is not None}


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"iscrowd": 1}, "crowd"),
        ({"iscrowd": 1, "foot_kpts": None}, "crowd"),  # a region needs no points
        ({"category_id": 18, "foot_kpts": None}, "no person"),
        ({"num_keypoints": 0}, "no body keypoint"),
        ({"bbox": [50, 60, 0, 10]}, "empty box"),
        ({"bbox": [400, 10, 50, 50]}, "empty box"),  # outside the image: nothing is left after clipping
        ({"keypoints": [0] * 51, "zero": True}, "no coordinate"),
    ],
)
def test_people_left_out(tmp_path, change, reason):
    good = person(np.full((133, 3), 2.0), (10, 10, 50, 50), person_id=1)
    bad = person(np.full((133, 3), 0.0 if change.pop("zero", False) else 2.0), (10, 10, 50, 50), person_id=2)
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 320, "height": 240}]}
    (tmp_path / "a.json").write_text(json.dumps({**content, "annotations": [good, strip({**bad, **change})]}))
    table = read_annotations(tmp_path / "a.json")
    assert table.person_id.tolist() == [1] and table.dropped[reason] == 1


def test_any_positive_label_is_visible_and_interval_selects_images(tmp_path):
    points = np.column_stack((np.ones((133, 2)), np.zeros(133)))
    points[[0, 100, 132], 2] = 2, 0.01, 0.9  # hands and faces carry confidences
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in (5, 10, 20)]
    people = [person(points, (0, 0, 9, 9), image_id=i, person_id=i) for i in (5, 10, 20)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": people}))
    table = read_annotations(tmp_path / "a.json", sample_interval=10)
    assert table.person_id.tolist() == [10, 20]
    assert np.flatnonzero(table.visible[0]).tolist() == [0, 100, 132]


@pytest.mark.parametrize(
    "content, match",
    [
        ([], "not a COCO annotation file"),
        ({"images": [{"id": 1, "width": 9, "height": 9, "file_name": "a"}], "annotations": []}, "nobody in it"),
        (
            {
                "images": [{"id": 1, "width": 9, "height": 9, "file_name": "a"}],
                "annotations": [{"id": 7, "image_id": 1, "bbox": [0, 0, 5, 5], "keypoints": [1] * 51}],
            },
            "annotation 7 has no foot_kpts",
        ),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path, content, match):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=match):
        read_annotations(tmp_path / "a.json")


@pytest.mark.parametrize(
    "text, match",
    [
        ("half a li", "a.json is not a JSON file"),
        ('{"images": [{"id": 1}], "annotations": []}', "entry 1 of 'images' has no file_name"),
        ('{"images": [], "annotations": [{"id": 3, "image_id": 1}]}', "entry 3 of 'annotations' has no bbox"),
        ('{"images": [{"id": 1, "file_name": "a"}], "annotations": []}', "image 1 has no width and height"),
    ],
)
def test_damaged_files_are_named(tmp_path, text, match):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=match):
        read_annotations(tmp_path / "a.json")


def test_a_missing_image_folder_is_told_at_the_start(toy, tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*nowhere: the images of .*toy\.json"):
        WholeBodyDataset((DataSource(toy.annotations, str(tmp_path / "nowhere")),), (64, 48), aug.NO_AUGMENT)


@pytest.mark.parametrize("name", ["missing.jpg", "broken.jpg", "empty.jpg"])
def test_bad_images_name_the_file(tmp_path, name):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not a photograph")
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=name):
        read_image(tmp_path / name)


def test_flip_is_the_original_one(shared):
    golden = np.load(shared / "golden" / "dataset_augment.npz")
    image = read_image(shared / "data" / "000000000785.jpg")
    height, width = image.shape[:2]
    box = read_annotations(shared / "data" / "test_coco_wholebody.json").box[0]
    keypoints, visible = golden["flip_keypoints_in"][0], golden["flip_visible_in"][0].astype(np.float32)
    config = aug.AugmentConfig(**{**vars(aug.NO_AUGMENT), "flip": 1.0})
    # A box whose padded, flipped self is the whole image: the plan's points must then be the flipped points themselves.
    # Its centre is w / 2 - 1, because the original flips centres about (w - 1) / 2.
    whole = np.array([width * 0.1 - 1, height * 0.1, width * 0.9 - 1, height * 0.9])
    crop = aug.plan(whole, keypoints, visible, (height, width), (height, width), config, np.random.default_rng(0))
    # Forced flip of the original: same points after the swap. Points at (0, 0) are unlabelled and flipped as well.
    np.testing.assert_allclose(crop.keypoints, golden["flip_keypoints_out"][0], atol=1e-3)
    np.testing.assert_array_equal(crop.visible, golden["flip_visible_out"][0])
    pixels, *_ = aug.augment(image, 1, crop, config, np.random.default_rng(0))
    flipped = image[:, ::-1, ::-1]  # the checksum is of the BGR image
    assert zlib.crc32(np.ascontiguousarray(flipped).tobytes()) == int(golden["flip_image_crc32"])
    np.testing.assert_array_equal(pixels, image[:, ::-1])
    np.testing.assert_allclose(golden["flip_center_out"][0, 0], width - 1 - (box[0] + box[2]) / 2, atol=1e-3)


@pytest.mark.parametrize("half", ["upper", "lower"])
def test_half_body_boxes(shared, half):
    golden = np.load(shared / "golden" / "dataset_augment.npz")
    center, scale = aug.half_body_box(golden["keypoints"][0].astype(np.float64), golden[f"half_{half}_ids"])
    np.testing.assert_allclose(center, golden[f"half_{half}_center"], rtol=1e-6)
    np.testing.assert_allclose(scale, golden[f"half_{half}_scale"], rtol=1e-6)


@pytest.mark.parametrize(
    "shown, expected",
    [
        (range(8), None),  # eight visible keypoints are too few
        (range(11), "upper"),
        ([*range(91, 100), 11, 12, 13], "lower"),
        ([*range(91, 100), 0, 11, 12], None),  # one upper, two lower
    ],
)
def test_choice_of_the_half(shown, expected):
    visible = np.zeros(133)
    visible[list(shown)] = 1
    chosen = aug.choose_half(visible, np.random.default_rng(0))
    assert {None: chosen is None, "upper": chosen is not None and max(chosen) < 11}.get(
        expected, chosen is not None and min(chosen) >= 11
    )


def test_upper_half_is_preferred_seven_times_in_ten():
    rng = np.random.default_rng(0)
    chosen = [aug.choose_half(np.ones(133), rng).max() < 11 for _ in range(2000)]
    assert np.mean(chosen) == pytest.approx(0.7, abs=0.03)


def test_random_box_statistics(shared):
    golden = np.load(shared / "golden" / "dataset_augment.npz")
    rng, draws = np.random.default_rng(0), 20000
    scale = np.array([200.0, 100.0])
    boxes = [aug.random_box(np.zeros(2), scale, aug.AugmentConfig(), rng) for _ in range(draws)]
    offset, factor, rotation = (np.array(values) for values in zip(*boxes, strict=True))
    offset, factor = offset / scale, factor[:, 0] / scale[0]
    moved, turned = offset[:, 0] != 0, rotation != 0
    assert moved.mean() == pytest.approx(float(golden["bbox_offset_frac_nonzero"]), rel=0.05)
    np.testing.assert_allclose(offset[moved].std(0), golden["bbox_offset_std_when_moved"], rtol=0.05)
    assert factor.mean() == pytest.approx(float(golden["bbox_scale_mean"]), rel=0.05)
    assert factor.std() == pytest.approx(float(golden["bbox_scale_std"]), rel=0.05)
    np.testing.assert_allclose([factor.min(), factor.max()], golden["bbox_scale_minmax"], rtol=0.05)
    assert turned.mean() == pytest.approx(float(golden["bbox_rot_frac_nonzero"]), rel=0.05)
    assert rotation[turned].std() == pytest.approx(float(golden["bbox_rot_std_when_rotated"]), rel=0.05)
    np.testing.assert_allclose([rotation.min(), rotation.max()], golden["bbox_rot_minmax"], rtol=0.05)


@pytest.mark.parametrize("case", range(4))
def test_hsv_jitter(shared, case):
    golden = np.load(shared / "golden" / "dataset_augment.npz")
    ours = aug.hsv_jitter(golden["hsv_in"][..., ::-1].copy(), golden[f"hsv_{case}_gains"])
    np.testing.assert_array_equal(ours[..., ::-1], golden[f"hsv_{case}_out"])


def test_hole():
    rng = np.random.default_rng(0)
    for _ in range(200):
        image = np.full((256, 192, 3), 255, np.uint8)
        aug.cut_hole(image, (0.2, 0.4), rng)
        rows, columns = (np.flatnonzero((image[..., 0] == 0).any(axis)) for axis in (1, 0))
        assert 51 <= len(rows) <= 102 and 38 <= len(columns) <= 76
        assert (image == 0).sum() == 3 * len(rows) * len(columns)  # one full rectangle


def test_keypoints_stick_to_the_pixels(toy):
    """Under every geometric draw at once: the crop's pixel at a keypoint is the image's pixel at that keypoint."""
    table = read_annotations(toy.annotations)
    image = read_image(f"{toy.images}/{table.file_names[0]}")
    config = aug.AugmentConfig(**{**vars(aug.NO_AUGMENT), "flip": 0.5, "half_body": 0.5, "scale": (0.6, 1.4)})
    config = aug.AugmentConfig(**{**vars(config), "shift_probability": 0.5, "rotation_probability": 0.8})
    worst = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        crop = aug.plan(table.box[0], table.keypoints[0], table.visible[0], image.shape[:2], (256, 192), config, rng)
        pixels, keypoints, _ = aug.augment(image, 1, crop, config, rng)
        flipped = np.linalg.det(crop.matrix[:, :2]) < 0
        original = table.keypoints[0][FLIP_INDICES] if flipped else table.keypoints[0]
        inside = ((keypoints > 1) & (keypoints < (190, 254))).all(1) & ((original > 1) & (original < (318, 238))).all(1)
        sample = [
            cv2.remap(source, *np.split(points[inside][None].astype(np.float32), 2, axis=-1), cv2.INTER_LINEAR)
            for source, points in ((pixels, keypoints), (image, original))
        ]
        worst.append(np.abs(sample[0].astype(int) - sample[1]).max())
    assert max(worst) <= 6


def test_reduced_decode_moves_nothing(toy):
    """A large person decoded at half size: the same crop up to the smoothing, and exactly the same keypoints."""
    full, reduced = (WholeBodyDataset((toy,), (64, 48), aug.NO_AUGMENT, reduced_decode=flag) for flag in (False, True))
    for index in range(len(full)):
        a, b = full[0, index], reduced[0, index]
        np.testing.assert_array_equal(a["keypoints"], b["keypoints"])
        assert not np.array_equal(a["image"], b["image"])  # otherwise nothing was reduced
        inner = (slice(8, -8), slice(8, -8))
        difference = a["image"][inner].astype(float) - b["image"][inner]
        assert np.abs(difference).mean() < 4
        for shift in (1, -1):  # one crop pixel off would fit visibly worse
            moved = np.roll(b["image"], shift, axis=1)[inner]
            assert np.abs(a["image"][inner] - moved.astype(float)).mean() > 1.5 * np.abs(difference).mean()


@pytest.mark.parametrize("reduce", [2, 4])
def test_a_dot_stays_where_it_is_whatever_size_it_is_decoded_at(tmp_path, reduce):
    dot = cv2.circle(np.zeros((240, 320, 3), np.uint8), (150, 110), 30, (255, 255, 255), -1)
    cv2.imwrite(str(tmp_path / "dot.jpg"), dot)
    box, points, rng = np.array([60, 20, 240, 220]), np.zeros((133, 2)), np.random.default_rng(0)
    crop = aug.plan(box, points, np.ones(133), dot.shape[:2], (256 // reduce, 192 // reduce), aug.NO_AUGMENT, rng)
    places = []
    for factor in (1, reduce):
        pixels, _, _ = aug.augment(read_image(tmp_path / "dot.jpg", factor), factor, crop, aug.NO_AUGMENT, rng)
        places.append(np.average(np.indices(pixels.shape[:2]).reshape(2, -1), 1, pixels[..., 0].ravel()))
    np.testing.assert_allclose(*places, atol=0.1)


def test_samples_do_not_depend_on_the_number_of_workers(toy):
    data = WholeBodyDataset((toy,), (64, 48), aug.AugmentConfig(), seed=3)

    def first(workers):
        batches = StepBatches(data.lengths, data.weights, 3, seed=3)
        loader = DataLoader(data, batch_sampler=batches, num_workers=workers)
        return list(itertools.islice(loader, 4))

    for a, b in zip(first(0), first(2), strict=True):
        for key in a:
            assert (a[key] == b[key]).all()


def test_late_pipeline_starts_at_its_epoch(toy):
    black = aug.AugmentConfig(**{**vars(aug.NO_AUGMENT), "cutout": 1.0, "cutout_size": (1.0, 1.0)})
    data = WholeBodyDataset((toy,), (64, 48), aug.NO_AUGMENT, black, switch_epoch=2)
    assert data[1, 0]["image"].any() and not data[2, 0]["image"].any()


def test_epoch_order_weighs_sources():
    order = epoch_order([10, 20], [1.5, 0.5], seed=0, epoch=0)
    counts = np.bincount(order, minlength=30)
    assert counts[:10].sum() == 15 and set(counts[:10]) == {1, 2}
    assert counts[10:].sum() == 10 and counts[10:].max() == 1
    assert not np.array_equal(order, epoch_order([10, 20], [1.5, 0.5], seed=0, epoch=1))


@pytest.mark.parametrize("world, accumulate", [(2, 1), (1, 2), (2, 3)])
def test_processes_and_accumulation_see_the_joint_batch(world, accumulate):
    per_step = 12
    joint = StepBatches([50], [1.0], per_step, seed=1)
    ranks = [
        StepBatches([50], [1.0], per_step // (world * accumulate), 1, accumulate, rank, world) for rank in range(world)
    ]
    streams = [iter(batches) for batches in ranks]
    for expected in itertools.islice(joint, 9):  # more than two epochs of four steps
        seen = [key for _ in range(accumulate) for stream in streams for key in next(stream)]
        assert seen == expected


def test_batches_resume_at_any_step():
    whole = list(itertools.islice(StepBatches([23], [1.0], 4, seed=5), 14))
    for start in (0, 3, 5, 12):
        resumed = StepBatches([23], [1.0], 4, seed=5, start_step=start)
        assert list(itertools.islice(resumed, 14 - start)) == whole[start:]


def test_too_large_a_batch_is_refused():
    with pytest.raises(ValueError, match="lower --batch-size"):
        StepBatches([10], [1.0], 4, seed=0, world=4)


@pytest.mark.parametrize("text", ["a.json", "a,b,c,d,e"])
def test_data_source_spelling(text):
    with pytest.raises(ValueError, match="data source"):
        DataSource.parse(text)
    assert DataSource.parse("a.json,images,0.5,10") == DataSource("a.json", "images", 0.5, 10)


def test_a_source_with_nobody_in_it_is_left_out_beside_others(toy, tmp_path):
    (tmp_path / "empty.json").write_text(json.dumps({"images": [], "annotations": []}))
    empty = DataSource(str(tmp_path / "empty.json"), str(tmp_path))
    with pytest.warns(UserWarning, match=r"empty\.json has nobody in it; it is left out"):
        both = WholeBodyDataset((empty, toy), (64, 48), aug.NO_AUGMENT)
    alone = WholeBodyDataset((toy,), (64, 48), aug.NO_AUGMENT)
    assert len(both) == len(alone) and both.weights == alone.weights
    np.testing.assert_array_equal(both[0, 3]["image"], alone[0, 3]["image"])
    with pytest.raises(ValueError, match="nobody in it"):
        WholeBodyDataset((empty, empty), (64, 48), aug.NO_AUGMENT)
    assert check.main([str(tmp_path / "empty.json") + f",{tmp_path}", f"{toy.annotations},{toy.images}"]) == 0
