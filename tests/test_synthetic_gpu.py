"""Compositing and training on the device, tested on the CPU: labels, agreement with composite.py, devices, runs."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from dwpose_core.models.rtmcc import create_model
from dwpose_core.models.weights import load_pose
from dwpose_core.skeleton import FLIP_INDICES
from training import synthetic_run, synthetic_stage
from training.synthetic import composite as reference
from training.synthetic import torch_composite as batched
from training.synthetic.composite import MILD, QUIET, STRONG, Disturbance
from training.synthetic.labels import HIDDEN, OUTSIDE, VISIBLE
from training.synthetic.layer_pool import LayerPool, Layers, Surroundings, boxes_of, usable
from training.synthetic.meshes import Mesh, View, light_row
from training.synthetic.pool import CropPool
from training.synthetic.render import Item, Light, Material
from training.synthetic.torch_photometric import CHROMINANCE, LUMINANCE, Dice, blur, jpeg, photometric
from training.synthetic.torch_render import TorchRenderer, seen
from training.synthetic_stage import OutOfTime, Stage, as_batch, build_objective, phase_at, train_stage

LAYER, CROP = (96, 128), (72, 96)  # (W, H)
RED = torch.tensor((250, 20, 20))
PEOPLE = 24


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def layers() -> Layers:
    """Red ellipses with all keypoints well inside them; every third is cut by its photograph's lower border."""
    rng = np.random.default_rng(0)
    rgba = np.zeros((PEOPLE, LAYER[1], LAYER[0], 4), np.uint8)
    points = np.zeros((PEOPLE, 133, 2), np.float32)
    frame = np.tile(np.float32((-1e5, -1e5, 1e5, 1e5)), (PEOPLE, 1))
    for k in range(PEOPLE):
        centre, axes = np.array((48, 64)) + rng.normal(0, 2, 2), np.array((20, 40)) * rng.uniform(0.8, 1.1, 2)
        box = (tuple(centre.tolist()), tuple((2 * axes).tolist()), 0.0)
        cv2.ellipse(rgba[k], box, (*RED.tolist(), 255), -1)
        direction = rng.uniform(0, 2 * np.pi, 133)
        radius = np.sqrt(rng.uniform(0, 0.6, 133))[:, None]
        points[k] = centre + radius * axes * np.stack((np.cos(direction), np.sin(direction)), axis=1)
        if k % 3 == 0:
            frame[k, 3] = centre[1] + 10
    visible = rng.choice((HIDDEN, VISIBLE), (PEOPLE, 133), p=(0.3, 0.7)).astype(np.uint8)
    visible[points[..., 1] > frame[:, 3:]] = OUTSIDE
    pictures = torch.from_numpy(rgba)
    arrays = (torch.from_numpy(array) for array in (points, visible, frame))
    return Layers(pictures, *arrays, boxes_of(pictures, 60))


@pytest.fixture(scope="module")
def around() -> Surroundings:
    """Blue backgrounds, blue textures, green boxes."""
    backgrounds = torch.zeros((5, CROP[1], CROP[0], 3), dtype=torch.uint8)
    backgrounds[..., 2] = 200
    things = torch.zeros((4, 40, 40, 4), dtype=torch.uint8)
    things[:, 5:35, 10:30] = torch.tensor((0, 220, 0, 255), dtype=torch.uint8)
    return Surroundings(backgrounds, backgrounds[:, ::2, ::2].clone(), things, boxes_of(things, 0))


def crops(layers: Layers, around: Surroundings, count: int, seed: int, disturb: Disturbance | None) -> batched.Crops:
    index = torch.arange(count) % len(layers)
    return batched.composite_batch(layers, index, around, CROP, generator(seed), disturb)


class Store:
    """The layers as composite.composite takes them."""

    def __init__(self, layers: Layers):
        self.layers = layers
        self.keypoints, self.visible, self.frame = (x.numpy() for x in (layers.keypoints, layers.visible, layers.frame))

    def __len__(self) -> int:
        return len(self.layers)

    def rgba(self, index: int) -> np.ndarray:
        return self.layers.rgba[index].numpy()


class Blue:
    def sample(self, size, rng):
        return np.full((size[1], size[0], 3), (0, 0, 200), np.uint8)

    texture = sample


def test_boxes_hold_what_is_drawn(layers):
    for rgba, box in zip(layers.rgba, layers.box, strict=True):
        rows, columns = np.nonzero(rgba[..., 3].numpy() > 60)
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]


def test_a_full_pool_replaces_the_oldest(layers):
    pool = LayerPool(10, LAYER, "cpu")
    pool.add(layers[:6])
    assert len(pool.layers) == 6
    pool.add(layers[6:13])
    assert len(pool.layers) == 10
    torch.testing.assert_close(pool.layers.keypoints[:3], layers.keypoints[10:13])
    torch.testing.assert_close(pool.layers.keypoints[3:], layers.keypoints[3:10])


@pytest.mark.parametrize(
    ("framing", "body", "hand", "share", "expected"),
    [
        ("full", 4, 0, 0.1, True),
        ("full", 3, 21, 0.1, False),  # too little of the body
        ("full", 17, 21, 0.01, False),  # too small
        ("hand", 0, 9, 0.1, True),  # a close-up needs its part only
        ("hand", 17, 8, 0.1, False),
    ],
)
def test_usable_table(framing, body, hand, share, expected):
    visible = np.zeros(133, np.uint8)
    visible[:body], visible[91 : 91 + hand] = HIDDEN, VISIBLE
    assert usable(framing, visible, share) is expected


@pytest.mark.parametrize("scale", [1.3, 0.9, 0.45, 0.25])
def test_lay_over_is_the_opencv_one(layers, scale):
    matrix = reference.similarity(0.4, scale, np.array((47.5, 63.5)), np.array((30.0, 50.0)))
    expected, alpha = reference.lay_over(np.full((96, 72, 3), 90, np.float32), layers.rgba[1].numpy(), matrix)
    image = torch.full((1, 3, 96, 72), 90.0)
    placed = torch.tensor(matrix, dtype=torch.float32)[None]
    mine = batched.lay_over(image, torch.tensor([0]), layers.rgba[1:2], placed)
    assert np.abs(mine[0].numpy() - alpha).mean() < 0.004  # area filters differ at the rim of what shrinks
    assert np.abs(image[0].permute(1, 2, 0).numpy() - expected).mean() < 0.6
    beyond = batched.beyond(placed, layers.frame[:1], CROP)[0].numpy()
    difference = beyond ^ reference._beyond(matrix, layers.frame[0].numpy(), CROP)
    assert difference.mean() < 1e-3


def test_undisturbed_crops_are_those_of_composite(layers, around):
    mine = crops(layers, around, PEOPLE, 0, None)
    for k in range(PEOPLE):
        rng = np.random.default_rng(0)
        expected = reference.composite(Store(layers), k, Blue(), [], CROP, rng, None)
        np.testing.assert_allclose(mine.keypoints[k].numpy(), expected.keypoints, atol=1e-3)
        np.testing.assert_array_equal(mine.visible[k].numpy(), expected.visible)
        assert np.abs(mine.image[k].numpy().astype(int) - expected.image).mean() < 0.5


@pytest.mark.parametrize("disturb", [STRONG, QUIET])
def test_labels_come_in_the_shares_of_composite(layers, around, disturb):
    """The same rules and the same dice: as many outside, hidden and seen points, equally far from the middle."""
    mine = crops(layers, around, 600, 1, disturb)
    things = [thing[5:35, 10:30].numpy() for thing in around.things]
    rng = np.random.default_rng(1)
    theirs = [reference.composite(Store(layers), k % PEOPLE, Blue(), things, CROP, rng, disturb) for k in range(600)]
    for kind in (OUTSIDE, HIDDEN, VISIBLE):
        share = np.mean([crop.visible == kind for crop in theirs])
        assert float((mine.visible == kind).float().mean()) == pytest.approx(share, abs=0.045)
    empty = np.mean([(crop.visible == OUTSIDE).all() for crop in theirs])
    assert float((mine.visible == OUTSIDE).all(1).float().mean()) == pytest.approx(empty, abs=0.05)
    spread = np.std([crop.keypoints.mean(0) for crop in theirs], axis=0)
    np.testing.assert_allclose(mine.keypoints.mean(1).std(0).numpy(), spread, rtol=0.15)


def test_seen_points_lie_on_the_person(layers, around):
    """Nobody else and unspoilt colours: every seen point is on red, points below the photograph are on black."""
    alone = replace(STRONG, people=False, light=False, camera=False, jpeg=False)
    made = crops(layers, around, 200, 2, alone)
    x, y = made.keypoints.round().long().unbind(2)
    on = made.image[torch.arange(200)[:, None], y.clamp(0, CROP[1] - 1), x.clamp(0, CROP[0] - 1)].int()
    seen = made.visible == VISIBLE
    assert seen.sum() > 5000
    assert (on[seen][:, 0] > 100).float().mean() > 0.995 and (on[seen][:, 2] < 90).float().mean() > 0.995
    inside = (x >= 0) & (x < CROP[0]) & (y >= 0) & (y < CROP[1])
    assert (made.visible[~inside] == OUTSIDE).all()
    # The ellipses are never behind a thing unless it hides them.
    hidden = (made.visible == HIDDEN) & (on[..., 1] > 150)
    assert hidden.sum() > 20


def test_relabel_table():
    points = torch.tensor([[[2.0, 3.0], [-1.0, 3.0], [2.4, 0.6], [5.0, 5.0], [1.0, 1.0]]])
    visible = torch.tensor([[VISIBLE, VISIBLE, VISIBLE, VISIBLE, HIDDEN]], dtype=torch.uint8)
    outside, over = torch.zeros(1, 8, 8, dtype=torch.bool), torch.zeros(1, 8, 8)
    outside[0, 5, 5] = True
    over[0, 1, 2] = 0.9
    expected = [VISIBLE, OUTSIDE, HIDDEN, OUTSIDE, HIDDEN]
    assert batched.relabel(points, visible, outside, over)[0].tolist() == expected


def test_mirrored_crops_swap_sides(layers, around):
    """Upright and unspoilt, a crop's points are the layer's, or their mirror image with left and right exchanged."""
    upright = Disturbance(
        loose=0, empty=0, rotated=0, in_front=0, people=False, things=False, light=False, camera=False, jpeg=False
    )
    made = crops(layers, around, PEOPLE, 3, upright)
    kinds = set()
    for k in range(PEOPLE):
        layer, points = layers.keypoints[k], made.keypoints[k]
        straight = points - points.mean(0), layer - layer.mean(0)
        mirrored = straight[0][FLIP_INDICES] * torch.tensor((-1, 1)), straight[1]
        errors = []
        for mine, theirs in (straight, mirrored):
            scale = (mine * theirs).sum() / theirs.square().sum()
            errors.append(float((mine - scale * theirs).abs().max()))
        assert min(errors) < 1e-3 < max(errors)
        kinds.add(errors.index(min(errors)))
    assert kinds == {0, 1}


def test_the_generator_decides_everything(layers, around):
    one, two, other = (crops(layers, around, 16, seed, STRONG) for seed in (4, 4, 5))
    for name in ("image", "keypoints", "visible"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert not torch.equal(one.image, other.image)


@pytest.mark.parametrize("seed", range(12))
def test_batches_of_one(layers, around, seed):
    """Steps that apply to none of the pictures do nothing."""
    made = crops(layers, around, 1, seed, STRONG)
    assert made.image.shape == (1, CROP[1], CROP[0], 3) and torch.isfinite(made.keypoints).all()


@pytest.mark.parametrize("sigma", [0.4, 1.3, 2.9])
def test_blur_is_gaussian(sigma):
    image = torch.rand((2, 3, 40, 48), generator=generator(0)) * 255
    mine = blur(image, torch.tensor((sigma, 1.0)), 3.0)
    for picture, spread, out in zip(image, (sigma, 1.0), mine, strict=True):
        planes = picture.permute(1, 2, 0).numpy()
        expected = cv2.GaussianBlur(planes, (19, 19), spread, borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(out.permute(1, 2, 0).numpy(), expected, atol=0.05)


@pytest.mark.parametrize("quality", [20, 50, 84])
def test_jpeg_loses_what_jpeg_loses(quality):
    """The decoded picture is that of a real encoder to within rounding, on smooth and on noisy content."""
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.uniform(0, 255, (64, 48, 3)), (0, 0), 3).astype(np.float32)
    picture = np.clip((picture - 128) * 6 + 128 + rng.normal(0, 6, picture.shape), 0, 255).round().astype(np.uint8)
    code = cv2.imencode(".jpg", picture[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1]
    expected = cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1].astype(float)
    mine = jpeg(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), torch.tensor((float(quality),)))
    difference = np.abs(mine[0].permute(1, 2, 0).numpy() - expected)
    assert difference.mean() < 0.25 * np.abs(picture - expected).mean()
    assert len(LUMINANCE) == len(CHROMINANCE) == 64


@pytest.mark.parametrize("lever", ["light", "camera", "jpeg"])
def test_levers_leave_their_step_out(lever):
    image = torch.rand((24, 3, 48, 48), generator=generator(0)) * 255
    everything = {"light": False, "camera": False, "jpeg": False}
    still = photometric(image.clone(), replace(STRONG, **everything), Dice(generator(1)))
    assert torch.equal(still, image)
    changed = photometric(image.clone(), replace(STRONG, **{**everything, lever: True}), Dice(generator(1)))
    assert 0.1 < ((changed - image).abs().flatten(1).amax(1) > 1).float().mean() <= 1


class NamesItsDevice(TorchFunctionMode):
    """Fails where a tensor is made on the default device: on a GPU it would meet the others and stop the run."""

    MAKERS = frozenset(
        {
            "arange",
            "as_tensor",
            "empty",
            "eye",
            "full",
            "linspace",
            "ones",
            "rand",
            "randint",
            "randn",
            "tensor",
            "zeros",
        }
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.MAKERS and kwargs.get("device") is None:
            raise AssertionError(f"torch.{func.__name__} without a device")
        return func(*args, **kwargs)


def test_the_device_check_finds_what_it_should():
    with pytest.raises(AssertionError, match="arange"), NamesItsDevice():
        torch.arange(3)
    with NamesItsDevice(), torch.device("cpu"):
        torch.arange(3)


@pytest.mark.parametrize("kind", ["labels", "stage1", "stage2"])
def test_every_tensor_names_its_device(layers, around, kind):
    torch.manual_seed(0)
    teacher = None if kind == "labels" else create_model("debug")
    objective = build_objective(kind, create_model("debug"), teacher)
    index = torch.arange(12)
    with NamesItsDevice():
        made = batched.composite_batch(layers, index, around, (64, 64), generator(0), MILD)
        loss = objective(as_batch(made))["loss"]
        loss.backward()
    assert torch.isfinite(loss)


def test_the_rasteriser_names_its_device():
    """One person-like job: folds, a pattern, a veil, a hem; drawn twice to two views."""
    points = np.array([(-9, -9, 0), (9, -9, 0), (0, 9, 0)], float)
    cloth = Material(folds=(0.1, 10.0), weave=4)
    veil = Material(translucent=True, opacity=0.5)
    items = [
        Item(
            points + np.array((0, 0, z)),
            np.tile((0.0, 0.0, 1.0), (3, 1)),
            points[:, :2],
            np.array(((0, 1, 2),)),
            m,
            inside,
        )
        for z, m, inside in ((0, cloth, None), (1, veil, None), (2, cloth, np.array((1.0, -1.0, -1.0))))
    ]
    light = light_row(Light(np.ones((9, 3)) * 0.1, np.array((0.0, 0.0, 1.0)), np.ones(3)))
    views = [View(np.eye(3), np.array((0.0, 0.0, -z)), (-0.3, 0.3, -0.4, 0.4), light) for z in (20.0, 30.0)]
    renderer = TorchRenderer((24, 32), [], "cpu")
    labels = torch.zeros(2, 133, 2), torch.ones(2, 133), torch.zeros(2, 4)
    with NamesItsDevice():
        drawn = renderer.draw([(Mesh.of(items, {}), views)])
        flags = seen(labels[0], labels[1], drawn.distance, (24, 32), labels[2])
    assert drawn.rgba.shape == (2, 32, 24, 4) and flags.shape == (2, 133)
    near, far = (int((picture[..., 3] > 128).sum()) for picture in drawn.rgba)
    assert near > far > 50


def test_phases_and_levers():
    args = synthetic_run.parse(["--assets", "a", "--out", "b", "--minutes", "10", "--without", "people", "jpeg"])
    assert [phase_at(p)[0] for p in (0.0, 0.7, 0.95, 1.0)] == [STRONG, MILD, QUIET, QUIET]
    stage = Stage("teacher", "labels", "debug", 1.0, 4)
    assert synthetic_run.levers_of(stage, args) == {"people", "jpeg"}
    assert synthetic_run.levers_of(replace(stage, name="without-clothing"), args) == {"people", "jpeg", "clothing"}
    assert synthetic_run.disturbance(0.0, {"people", "jpeg"}) == replace(STRONG, people=False, jpeg=False)
    assert synthetic_run.disturbance(0.0, {"clothing", "backgrounds"}) == STRONG


@pytest.mark.parametrize("extra", [[], ["--ablation"], ["--students", "dwpose-t"]])
def test_stages_fit_into_the_minutes(extra):
    args = synthetic_run.parse(["--assets", "a", "--out", "b", "--minutes", "25", *extra])
    stages = synthetic_run.plan(args)
    planned = sum(stage.seconds for stage in stages) / 60
    assert planned + 25 * synthetic_run.PEOPLE_SHARE < 25 * 0.95
    assert len({stage.name for stage in stages}) == len(stages)


def test_a_stopped_stage_goes_on(layers, around, tmp_path, monkeypatch):
    """Out of time the state is saved; the next process starts where it was, and ends with the figures of both."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: next(ticks) * 0.1)  # a step looks at it four or five times
    monkeypatch.setattr(synthetic_stage, "time", clock)
    stage = Stage("teacher", "labels", "debug", 8.0, 8)
    tests = {"strong": synthetic_run.test_pool(layers, around, (64, 64), STRONG, 0)}

    def attempt(deadline: float):
        torch.manual_seed(0)
        objective = build_objective("labels", create_model("debug"), None)
        dice = generator(9)

        def draw(progress: float) -> batched.Crops:
            index = torch.randint(len(layers), (8,), generator=dice)
            return batched.composite_batch(layers, index, around, (64, 64), dice, phase_at(progress)[0])

        def report(_, rows: list[dict]) -> None:
            reported.append(len(rows))

        return train_stage(stage, objective, draw, tests, dice, tmp_path / "teacher.pt", deadline, report)

    reported: list[int] = []
    with pytest.raises(OutOfTime, match="teacher at"):
        attempt(0.0)
    before = torch.load(tmp_path / "teacher.pt", weights_only=True)
    assert 0 < before["spent"] < 0.5 and before["pictures"] == 8
    net, rows = attempt(float("inf"))
    assert reported == list(range(1, len(rows) + 1))
    assert [row["pictures"] for row in rows] == sorted(row["pictures"] for row in rows)
    assert len(rows) == synthetic_stage.EVALUATIONS and 100 < rows[-1]["pictures"] < 200
    assert 7.5 < rows[-1]["seconds"] < 8.5
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert not (tmp_path / "teacher.pt").exists()
    assert not torch.equal(net.head.cls_x.weight, before["average"]["head.cls_x.weight"])


@pytest.mark.slow
def test_assets_to_weights(shared, tmp_path):
    """The whole command with seconds instead of minutes: people, teacher, both stages, files that load by path."""
    pytest.importorskip("scipy", reason="the body model needs scipy")
    assets = shared / "assets" / "synth"
    if not (assets / "base.npz").is_file():
        pytest.skip("no packed body assets in the reference folder")
    small = "--layers 6 --pictures 6 --things 4 --held-out 4 --workers 1 --at-once 1 --batch 4 --no-refresh".split()
    names = ["--teacher", "debug", "--students", "debug", "--device", "cpu"]
    command = ["--assets", str(assets), "--out", str(tmp_path), "--minutes", "0.15", *names, *small]
    assert not synthetic_run.run(synthetic_run.parse([*command, "--stop-after", "1e-6"]))  # after its first step
    assert (tmp_path / "state" / "teacher.pt").is_file()
    synthetic_run.main(command)
    net = load_pose(tmp_path / "debug.safetensors")
    assert net.name == "debug" and all(torch.isfinite(p).all() for p in net.parameters())
    record = json.loads((tmp_path / "curves.json").read_text())
    assert {row["stage"] for row in record["rows"]} == {"teacher", "debug-stage1", "debug-stage2"}
    assert all(row["pictures"] > 0 and row["pictures_per_second"] > 0 for row in record["rows"])
    people = Layers(
        **{k: v for k, v in torch.load(next((tmp_path / "state/people").glob("*.pt"))).items() if k != "drawn"}
    )
    assert (people.rgba[..., 3] > 128).flatten(1).float().mean(1).min() > 0.02


@pytest.mark.parametrize("strength", [0.01, 0.5])  # of the weights: scores next to 0, and ordinary ones
@pytest.mark.parametrize(
    ("kind", "score", "ablation", "file"),
    [
        ("labels", 0.9, False, None),  # the teacher stays in the state folder
        ("stage1", 0.1, False, "debug"),
        ("stage2", 0.4, False, None),  # below the first stage
        ("stage2", 0.6, False, "debug"),
        ("labels", 0.1, True, "some-name"),
    ],
)
def test_what_is_kept(layers, around, tmp_path, kind, score, ablation, file, strength):
    job = object.__new__(synthetic_run.Run)
    flags = ["--ablation"] if ablation else []
    job.args = synthetic_run.parse(["--assets", "a", "--out", str(tmp_path), "--minutes", "1", *flags])
    job.device, job.held_out, job.around = torch.device("cpu"), layers, around
    job.curves = [{"stage": "debug-stage1", "strong": {"body_pck": 0.5}}] if kind == "stage2" else []
    net = create_model("debug").eval()
    for part in (net.head.final_layer, net.head.mlp[1], net.head.gau.o, net.head.cls_x, net.head.cls_y):
        torch.nn.init.normal_(part.weight, std=strength)
    before = net.head.cls_x.weight.clone()
    row = {"strong": {"body_pck": score}}
    job.keep(Stage("some-name", kind, "debug", 1.0, 4), net, row)
    assert torch.equal(net.head.cls_x.weight, before)  # the network that goes on training is not scaled
    assert [path.stem for path in tmp_path.iterdir()] == ([file] if file else [])
    if file:
        kept = load_pose(tmp_path / f"{file}.safetensors").head.cls_x.weight
        assert (row["score_factor"] > synthetic_run.LARGEST_FACTOR) is (strength < 0.1)
        expected = before if strength < 0.1 else before * row["score_factor"]
        torch.testing.assert_close(kept, expected, rtol=2e-3, atol=1e-3)


def test_test_pools_are_fixed(layers, around):
    one, two = (synthetic_run.test_pool(layers, around, CROP, STRONG, 3) for _ in range(2))
    assert isinstance(one, CropPool) and len(one) == PEOPLE
    np.testing.assert_array_equal(one.images, two.images)


def test_missing_assets_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"base\.npz"):
        synthetic_run.main(["--assets", str(tmp_path), "--out", str(tmp_path), "--minutes", "1"])
