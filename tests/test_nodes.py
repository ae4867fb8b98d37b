"""Every node against a stub of ComfyUI, and the shipped graphs, locales and pages against the nodes' schemas."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import weakref

import cv2
import numpy as np
import pytest
import torch

from tests import comfy_stub as stub

LANGUAGES = ("en", "zh", "ja", "ko", "fr", "de", "es", "ru")
STEMS = sorted(path.stem for path in (stub.ROOT / "workflows").glob("*.json"))
STUBBED = ("comfy", "comfy_api", "folder_paths", "server", "nodes", "custom_nodes_x_some-folder name")


@pytest.fixture(scope="module")
def comfy(tmp_path_factory):
    """The pack in a stub of ComfyUI, with tiny random networks in models/dwpose and models/detection."""
    before = set(sys.modules)
    shadowed = {name: module for name, module in sys.modules.items() if name.split(".")[0] in STUBBED}
    for name in shadowed:
        del sys.modules[name]
    home = tmp_path_factory.mktemp("comfy")
    seen = stub.install(home)
    seen.home = home
    extension = asyncio.run(seen.package.comfy_entrypoint())
    asyncio.run(extension.on_load())
    seen.nodes = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
    core = f"{seen.package.__name__}.dwpose_core"
    models, weights = (
        sys.modules[core + name] if core + name in sys.modules else __import__(core + name, fromlist="x")
        for name in (".models", ".models.weights")
    )
    torch.manual_seed(0)
    seen.pose_file = home / "models" / "dwpose" / "dw-debug.safetensors"
    seen.detector_file = home / "models" / "detection" / "yolox_nano.safetensors"
    weights.save_safetensors(models.create_model("debug"), seen.pose_file)
    weights.save_safetensors(models.create_detector("yolox-nano"), seen.detector_file)
    yield seen
    for name in set(sys.modules) - before:
        if name.split(".")[0] in STUBBED:
            del sys.modules[name]
    sys.modules.update(shadowed)


@pytest.fixture(autouse=True)
def quiet(request):
    if "comfy" in request.fixturenames:
        seen = request.getfixturevalue("comfy")
        seen.texts.clear(), seen.progress.clear(), seen.loaded.clear()
        seen.interrupt = False


def run(comfy, node_id: str, **inputs):
    """Execute a node with its defaults and `inputs`."""
    node = comfy.nodes[node_id]
    return node.execute(**{**stub.widgets(node.define_schema()), **inputs})


def figure(x: float = 100.0, scale: float = 1.0, face: bool = True) -> dict:
    """A standing person of a POSE_KEYPOINT, shoulders at x, 80."""
    body = np.array(
        [[0, -30], [0, 0], [-20, 0], [-25, 40], [-28, 75], [20, 0], [25, 40], [28, 75], [-12, 70], [-13, 120],
         [-14, 170], [12, 70], [13, 120], [14, 170], [-5, -35], [5, -35], [-10, -32], [10, -32]], float
    )  # fmt: skip
    angle = np.linspace(0, 2 * np.pi, 70)
    circle = np.stack([12 * np.cos(angle), 15 * np.sin(angle) - 30], axis=1)
    hand = np.stack([np.linspace(0, 8, 21), np.linspace(75, 95, 21)], axis=1)

    def flat(points: np.ndarray, seen: float = 1.0) -> list[float]:
        points = points * scale + (x, 80)
        return np.concatenate([points, np.full((len(points), 1), seen)], axis=1).ravel().tolist()

    return {
        "pose_keypoints_2d": flat(body),
        "face_keypoints_2d": flat(circle) if face else [0.0] * 210,
        "hand_left_keypoints_2d": flat(hand + np.array([28, 0])),
        "hand_right_keypoints_2d": flat(hand * (-1, 1) - np.array([28, 0])),
        "foot_keypoints_2d": flat(
            np.array([[20, 178], [24, 177], [12, 176], [-20, 178], [-24, 177], [-12, 176]], float)
        ),
    }


def clip(*people_of_frames: list[dict], size: tuple[int, int] = (300, 400)) -> list[dict]:
    height, width = size
    return [{"people": people, "canvas_height": height, "canvas_width": width} for people in people_of_frames]


def xs(keypoints: list[dict]) -> list[list[float]]:
    """x of everyone's neck, frame by frame."""
    return [[person["pose_keypoints_2d"][3] for person in frame["people"]] for frame in keypoints]


# --- the pack


def test_importing_the_pack_outside_comfyui_does_nothing():
    before = set(sys.modules)
    pack = stub.import_pack("a_pack_outside_comfyui")
    assert set(sys.modules) - before == {"a_pack_outside_comfyui"}
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS")  # it would switch comfy_entrypoint off
    assert (stub.ROOT / pack.WEB_DIRECTORY).is_dir()


def test_schemas_are_complete(comfy):
    for node_id, node in comfy.nodes.items():
        schema = node.define_schema()
        assert node_id.startswith("DWPose") and schema.category == "DWPose" and schema.description
        assert schema.search_aliases
        names = [item.id for item in (*schema.inputs, *schema.outputs)]
        assert len(names) == len(set(names)), "an id twice"  # ComfyUI refuses such a node
        for item in (*schema.inputs, *schema.outputs):
            assert item.options.get("tooltip"), f"{node_id}.{item.id} has no tooltip"
        for item in schema.inputs:
            if item.io_type == "COMBO":
                assert item.options["default"] in item.options["options"]
    assert "DWPreprocessor" not in comfy.nodes


def test_styles_of_the_core_are_all_offered(comfy):
    sockets = sys.modules[f"{comfy.package.__name__}.nodes.sockets"]
    from dwpose_core.render import STYLES

    assert set(STYLES) < set(sockets.STYLES)
    for style in sockets.STYLES:
        assert sockets.style_of(style, joint=9).joint == 9


# --- loader and estimator


def test_loader_finds_files_and_names_what_is_missing(comfy):
    options = {item.id: item.options.get("options") for item in comfy.nodes["DWPoseLoader"].define_schema().inputs}
    assert {"auto", "dwpose-l-384", "dw-debug.safetensors"} <= set(options["pose"])
    assert {"auto", "none", "yolox-l", "yolox_nano.safetensors"} <= set(options["detector"])
    check = comfy.nodes["DWPoseLoader"].validate_inputs
    assert check(pose="dw-debug.safetensors", detector="none") is True
    assert "models/dwpose" in check(pose="other.pth", detector="auto")
    with pytest.raises(ValueError, match=r"needs an \.onnx file"):
        run(comfy, "DWPoseLoader", pose="dw-debug.safetensors", detector="none", backend="onnxruntime")


def test_auto_takes_what_is_there_and_says_so(comfy, monkeypatch):
    models = sys.modules[f"{comfy.package.__name__}.nodes.models"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path, note = models.resolve("pose", "auto")
    assert path == comfy.pose_file and "dwpose-l-384 is not available" in note
    named = comfy.home / "models" / "dwpose" / "dw-ll_ucoco_384.onnx"
    named.write_bytes(b"something else")
    try:
        path, note = models.resolve("pose", "auto")
        assert path == named and "not the published file" in note
    finally:
        named.unlink()
    comfy.pose_file.rename(comfy.home / "away")
    try:
        path, note = models.resolve("pose", "auto")
        assert path.name == "dwpose-nano.safetensors" and "starter model" in note
    finally:
        (comfy.home / "away").rename(comfy.pose_file)
    assert models.resolve("detector", "none") == (None, "")


def test_downloads_end_up_as_plain_files(comfy, monkeypatch):
    models = sys.modules[f"{comfy.package.__name__}.nodes.models"]
    download = sys.modules[f"{comfy.package.__name__}.dwpose_core.models.download"]
    home = comfy.home / "models" / "detection"

    def fetch(entry, cache_dir):
        """What the hub's cache looks like: a blob, and a link to it."""
        blob = cache_dir / "models--yzd-v--DWPose" / "blobs" / "abc"
        link = cache_dir / "models--yzd-v--DWPose" / "snapshots" / "1" / entry.filename
        for path in (blob, link):
            path.parent.mkdir(parents=True)
        blob.write_bytes(b"weights")
        link.symlink_to(blob)
        return link

    monkeypatch.setattr(download, "fetch", fetch)
    path, note = models.resolve("detector", "yolox-l")
    try:
        assert path == home / "yolox_l.onnx" and path.read_bytes() == b"weights" and not path.is_symlink()
        assert not (home / "models--yzd-v--DWPose").exists() and not note
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def model(comfy):
    return run(comfy, "DWPoseLoader", pose="dw-debug.safetensors", detector="yolox_nano.safetensors")[0]


def estimated(comfy, model, frames: int = 3, **inputs):
    images = torch.rand(frames, 96, 128, 3, generator=torch.Generator().manual_seed(0))
    boxes = {"x": 10, "y": 5, "width": 60, "height": 80}
    return run(comfy, "DWPoseEstimate", **{"model": model, "image": images, "boxes": boxes, **inputs})


def test_estimate(comfy, model):
    result = estimated(comfy, model, keypoint_threshold=0.0, size="width x height", width=64, height=32)
    assert result[0].shape == (3, 32, 64, 3) and result[0].dtype == torch.float32
    assert [len(frame["people"]) for frame in result[1]] == [1, 1, 1]
    assert (result[1][0]["canvas_height"], result[1][0]["canvas_width"]) == (96, 128)
    box = result[2][2][0]
    assert (box["x"], box["y"], box["width"], box["height"]) == (10, 5, 60, 80)
    assert json.loads(result.ui["openpose_json"][0]) == result[1]
    assert comfy.progress[-1][:2] == (3, 3) and comfy.progress[-1][2][0] == "JPEG"
    (models, options) = comfy.loaded[0]
    assert [patcher.model for patcher in models] == [model.pose.runner.net, model.detector.runner.net]
    assert options["memory_required"] > 0 and not comfy.texts


def test_estimate_does_what_the_library_does(comfy, model):
    from dwpose_core import Options
    from dwpose_core.backends import TorchRunner
    from dwpose_core.models.weights import load_pose
    from dwpose_core.openpose import to_openpose
    from dwpose_core.pipeline import estimate_people

    result = estimated(comfy, model, frames=1, keypoint_threshold=0.0, feet=True)
    image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(0))
    runner = TorchRunner(load_pose(comfy.home / "models" / "dwpose" / "dw-debug.safetensors"), "cpu")
    pixels = (image[0] * 255).round().to(torch.uint8).numpy()
    people = estimate_people([pixels], runner, None, [np.float32([[10, 5, 70, 85]])], Options(keypoint_threshold=0.0))
    assert result[1] == to_openpose(people, threshold=0.0)


def test_toggles_apply_to_the_data(comfy, model):
    result = estimated(comfy, model, frames=1, keypoint_threshold=0.0, hands=False)
    person = result[1][0]["people"][0]
    assert not any(person["hand_left_keypoints_2d"]) and not any(person["foot_keypoints_2d"])
    assert any(person["pose_keypoints_2d"])


def test_nobody_found_is_said(comfy, model):
    mask = torch.zeros(3, 96, 128)
    mask[1, 20:60, 30:70] = 1
    result = estimated(comfy, model, boxes=None, mask=mask)
    assert result.ui["text"] == ("Nobody found in 2 of 3 frames: 0, 2",)
    assert comfy.texts == [("7", result.ui["text"][0])]
    assert [len(boxes) for boxes in result[2]] == [0, 1, 0]
    assert result[2][1][0]["x"] == 30 and result[2][1][0]["height"] == 40


def test_whole_image_needs_no_detector(comfy, model):
    result = estimated(comfy, model, frames=1, boxes=None, search="whole image", keypoint_threshold=0.0)
    assert len(result[1][0]["people"]) == 1


def test_interrupt_works_inside_a_forward(comfy, model):
    comfy.interrupt = True
    with pytest.raises(stub.Interrupted):
        model.pose.runner.net(torch.zeros(1, 3, *model.pose.runner.input_size))
    with pytest.raises(stub.Interrupted):
        estimated(comfy, model)


@pytest.mark.parametrize("room", [4, 1, 0])
def test_out_of_memory_halves_the_batch(comfy, model, monkeypatch, room):
    """A device with room for so many people per forward: the result is the same, or the error comes through."""
    whole = estimated(comfy, model, frames=5)
    runner = type(model.pose.runner)
    forward, sizes = runner.__call__, []

    def small(self, batch):
        sizes.append(len(batch))
        if len(batch) > room:
            raise stub.OutOfMemory
        return forward(self, batch)

    monkeypatch.setattr(runner, "__call__", small)
    boxes = [[{"x": 10, "y": 5, "width": 60, "height": 80}] * 4] * 5
    if room == 0:
        with pytest.raises(stub.OutOfMemory):
            estimated(comfy, model, frames=5, boxes=boxes)
        assert min(sizes) == 1
        return
    result = estimated(comfy, model, frames=5, boxes=boxes)
    assert max(sizes) > room >= min(sizes)
    assert [frame["people"][3] for frame in result[1]] == [frame["people"][0] for frame in whole[1]]


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ({"x": 1, "y": 2, "width": 3, "height": 4}, [[[1, 2, 4, 6]], [[1, 2, 4, 6]], [[1, 2, 4, 6]]]),  # one
        ([{"x": 1, "y": 2, "width": 3, "height": 4}] * 2, [[[1, 2, 4, 6]] * 2] * 3),  # flat list: the same in all
        ([[{"x": 1, "y": 2, "width": 3, "height": 4}], []], [[[1, 2, 4, 6]], [], []]),  # per frame, last one repeats
        ((5, 6, 7, 8), [[[5, 6, 7, 8]]] * 3),  # one BBOX
        ([(5, 6, 7, 8), (6, 7, 8, 9)], [[[5, 6, 7, 8]], [[6, 7, 8, 9]], [[6, 7, 8, 9]]]),  # one BBOX per frame
        (np.float32([[5, 6, 7, 8]]), [[[5, 6, 7, 8]]] * 3),
        ([[(-5, -6, 70, 8), (90, 90, 99, 99)]], [[[0, 0, 20, 8]]] * 3),  # cut to the image; one misses it
        ([[]], [[], [], []]),
    ],
)  # fmt: skip
def test_read_boxes(comfy, boxes, expected):
    sockets = sys.modules[f"{comfy.package.__name__}.nodes.sockets"]
    found = sockets.read_boxes(boxes, 3, (10, 20))
    assert [frame.tolist() for frame in found] == expected


def test_read_boxes_refuses_nonsense(comfy):
    sockets = sys.modules[f"{comfy.package.__name__}.nodes.sockets"]
    for nonsense in ("boxes", [["a"]], [(1, 2, 3)], [(1, 2, float("nan"), 4)]):
        with pytest.raises(ValueError, match="box"):
            sockets.read_boxes(nonsense, 1, (10, 20))


# --- drawing and editing


def test_render_draws_every_frame_at_any_size(comfy):
    keypoints = clip([figure(100)], [], [figure(300)])
    result = run(comfy, "DWPoseRender", keypoints=keypoints, size="width x height", width=200, height=150)
    assert result[0].shape == (3, 150, 200, 3)
    found = [np.argwhere(frame.numpy().any(axis=2)).mean(axis=0) for frame in (result[0][0], result[0][2])]
    assert abs(found[0][1] - 50) < 5 and abs(found[1][1] - 150) < 5 and not result[0][1].any()
    latent = {"samples": torch.zeros(1, 4, 20, 30)}
    assert run(comfy, "DWPoseRender", keypoints=keypoints, size_from=latent)[0].shape == (3, 160, 240, 3)
    assert run(comfy, "DWPoseRender", keypoints=keypoints)[0].shape == (3, 512, 704, 3)  # short side, multiples of 64


def test_render_options(comfy):
    keypoints = clip([figure(200)])
    plain = run(comfy, "DWPoseRender", keypoints=keypoints, size="source")[0]
    no_head = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", head=False, face=False)[0]
    assert plain[0, 20:70].any() and not no_head[0, :60].any()
    red = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", background="#ff0000")[0]
    assert red[0, 0, 0].tolist() == [1, 0, 0]
    thick = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", stick_width=20)[0]
    assert thick.any(-1).sum() > 1.5 * plain.any(-1).sum()
    photo = torch.full((1, 300, 400, 3), 0.5)
    over = run(comfy, "DWPoseRender", keypoints=keypoints, size="source", image=photo)[0]
    assert torch.allclose(over[0, 0, 0], torch.tensor(128 / 255)) and not torch.equal(over, plain)


def test_select_follows_people_who_change_places(comfy):
    """Two people walk past each other; the left one at the start is the left one, all the way."""
    frames = [[figure(80 + 12 * i), figure(320 - 12 * i, 0.8)] for i in range(21)]
    keypoints = clip(*[people[:: 1 if i % 2 else -1] for i, people in enumerate(frames)])  # order flips, too
    smooth = run(comfy, "DWPoseSmooth", keypoints=keypoints, smooth=False)[0]
    assert all(frame["people"][0]["person_id"] in (0, 1) for frame in smooth)
    chosen = run(comfy, "DWPoseSelect", keypoints=smooth, by="largest")
    assert np.allclose(np.ravel(xs(chosen[0])), [80 + 12 * i for i in range(21)], atol=1)
    per_frame = run(comfy, "DWPoseSelect", keypoints=smooth, by="left", whole_clip=False)[0]
    assert np.ravel(xs(per_frame)).max() <= 201
    by_id = run(comfy, "DWPoseSelect", keypoints=smooth, by="id", ids="1")[0]
    assert {person["person_id"] for frame in by_id for person in frame["people"]} == {1}


@pytest.mark.parametrize(
    ("by", "expected"),
    [("largest", 300), ("centre", 210), ("left", 60), ("index", 300), ("mask", 60)],
)
def test_select_one_of_a_picture(comfy, by, expected):
    keypoints = clip([figure(300, 1.2), figure(210, 0.7), figure(60, 0.8)])
    mask = torch.zeros(1, 150, 200)
    mask[:, :, :50] = 1
    result = run(comfy, "DWPoseSelect", keypoints=keypoints, by=by, mask=mask)
    assert xs(result[0]) == [[expected]] and len(result[1][0]) == 1


def test_smooth_fills_gaps_and_removes_jitter(comfy):
    noise = np.random.default_rng(0).normal(0, 1.5, 40)
    people = [[figure(200 + n)] for n in noise]
    people[20] = []
    result = run(comfy, "DWPoseSmooth", keypoints=clip(*people))[0]
    assert [len(frame["people"]) for frame in result] == [1] * 40
    assert np.std(np.diff(np.ravel(xs(result)))) < 0.5 * np.std(np.diff(noise))


def test_transform(comfy):
    keypoints = clip([figure(100)])
    moved = run(comfy, "DWPoseTransform", keypoints=keypoints, move_x=30.0, scale=0.5)[0]
    assert xs(moved) == [[(100 - 200) * 0.5 + 200 + 30]]
    mirrored = run(comfy, "DWPoseTransform", keypoints=keypoints, mirror=True)[0][0]["people"][0]
    assert mirrored["pose_keypoints_2d"][3] == 399 - 100
    # the right wrist of the mirrored person is the left one's mirror image
    original = keypoints[0]["people"][0]["pose_keypoints_2d"]
    assert mirrored["pose_keypoints_2d"][12] == pytest.approx(399 - original[21])
    twice = run(comfy, "DWPoseTransform", keypoints=clip([mirrored]), mirror=True)[0][0]["people"][0]
    for key, values in keypoints[0]["people"][0].items():
        if key != "face_keypoints_2d":  # its two eye points come from the body
            assert np.allclose(twice[key], values, atol=1e-3), key
    with pytest.raises(ValueError, match="reference"):
        run(comfy, "DWPoseTransform", keypoints=keypoints, fit="align")


def test_retarget_gives_the_limb_lengths_of_the_reference(comfy):
    """A dancer with arms of double length against a reference with normal ones, of double size elsewhere."""

    def points(person):
        return np.array(person["pose_keypoints_2d"]).reshape(-1, 3)[:, :2]

    def arm(person):
        xy = points(person)
        return np.linalg.norm(xy[3] - xy[2]) / np.linalg.norm(xy[1] - (xy[8] + xy[11]) / 2)

    dancer = figure(100)
    body = np.array(dancer["pose_keypoints_2d"]).reshape(-1, 3)
    for shoulder, elbow, wrist in ((2, 3, 4), (5, 6, 7)):
        step = body[elbow, :2] - body[shoulder, :2]
        body[elbow, :2] += step
        body[wrist, :2] += step
    dancer["pose_keypoints_2d"] = body.ravel().tolist()
    reference = clip([figure(300, 1.4)], size=(600, 700))
    result = run(
        comfy, "DWPoseTransform", keypoints=clip([dancer], [dancer]), reference=reference, fit="retarget and align"
    )[0]
    person, goal = result[1]["people"][0], reference[0]["people"][0]
    assert (result[0]["canvas_height"], result[0]["canvas_width"]) == (600, 700)
    assert arm(dancer) == pytest.approx(2 * arm(goal), rel=0.01)
    assert arm(person) == pytest.approx(arm(goal), rel=0.01)
    assert np.allclose(points(person), points(goal), atol=1.5)


def test_face_crops_are_square_steady_and_of_one_size(comfy):
    noise = np.random.default_rng(0).normal(0, 3, 24)
    people = [[figure(150 + 2 * i + n)] for i, n in enumerate(noise)]
    people[10] = [figure(170, face=False)]
    images = torch.rand(24, 300, 400, 3)
    result = run(comfy, "DWPoseFaceHandCrop", image=images, keypoints=clip(*people), crop_size=64)
    assert result[0].shape == (24, 64, 64, 3)
    boxes = np.array(result[2])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (sides == sides[0, 0]).all()
    centers = boxes[:, [0, 2]].mean(axis=1)
    assert np.std(np.diff(centers)) < 0.4 * np.std(np.diff(noise))
    assert result[1][3][0]["width"] == sides[0, 0]
    assert "1 of 24 frames" in comfy.texts[0][1]
    with pytest.raises(ValueError, match="No face of person 2"):
        run(comfy, "DWPoseFaceHandCrop", image=images, keypoints=clip(*people), person=2)


def test_mask(comfy):
    keypoints = clip([figure(200)], [])
    face, hands, body = (
        run(comfy, "DWPoseToMask", keypoints=keypoints, **{"face": False, name: True})[0]
        for name in ("face", "hands", "body")
    )
    assert face.shape == (2, 300, 400) and not face[1].any() and set(face.unique().tolist()) == {0.0, 1.0}
    assert face[0, 50, 200] and not face[0, 150, 200]
    assert body[0, 120, 200] and body[0, 220, 213] and body.sum() > 5 * face.sum()
    assert hands[0, 165, 232] and not hands[0, 50, 200]


# --- files and formats


@pytest.mark.parametrize(("layout", "files"), [("one file", 1), ("one per frame", 2), ("OpenPose folder", 2)])
def test_json_files_round_trip_and_never_overwrite(comfy, layout, files):
    keypoints = clip([figure(100)], [figure(150), figure(250)])
    paths = [
        run(comfy, "DWPoseSaveJSON", keypoints=keypoints, filename_prefix=f"sub/{files}{layout}", layout=layout)[0]
        for _ in range(2)
    ]
    assert paths[0] != paths[1]
    names = [paths[0]] if layout == "one file" else sorted((comfy.home / "output" / "sub").glob(f"*{layout}_00001/*"))
    assert len(names) == files
    relative = str(paths[0]).removeprefix(str(comfy.home / "output") + "/")
    loaded = run(comfy, "DWPoseLoadJSON", path=relative)[0]
    assert xs(loaded) == [[100], [150, 250]]
    assert comfy.nodes["DWPoseLoadJSON"].fingerprint_inputs(path=relative, text="")


def test_load_json_reads_text_and_stays_in_its_folders(comfy):
    keypoints = clip([figure(100)])
    assert xs(run(comfy, "DWPoseLoadJSON", text=json.dumps(keypoints))[0]) == [[100]]
    check = comfy.nodes["DWPoseLoadJSON"].validate_inputs
    assert "not inside" in check(path="../../etc")
    assert "no JSON file" in check(path="missing.json")
    assert check(path="") is True
    with pytest.raises(ValueError, match="path"):
        run(comfy, "DWPoseLoadJSON")


def test_load_folder(comfy):
    folder = comfy.home / "input" / "pictures"
    folder.mkdir()
    for name, size in (("b", (20, 30)), ("a", (10, 40))):
        cv2.imwrite(str(folder / f"{name}.png"), np.full((*size, 3), (255, 0, 0), np.uint8))  # blue
    result = run(comfy, "DWPoseLoadFolder", folder="pictures", prefix="out")
    assert [tuple(image.shape) for image in result[0]] == [(1, 10, 40, 3), (1, 20, 30, 3)]
    assert result[1] == ["out/a", "out/b"] and result[0][0][0, 0, 0].tolist() == [0, 0, 1]
    assert run(comfy, "DWPoseLoadFolder", folder="pictures", first=1)[1] == ["dwpose/b"]
    for wrong in ("nothing", "../.."):
        with pytest.raises(ValueError, match="no folder"):
            run(comfy, "DWPoseLoadFolder", folder=wrong)


def test_convert_round_trips(comfy):
    keypoints = clip([figure(100)], [])
    image = torch.zeros(1, 300, 400, 3)
    result = run(comfy, "DWPoseConvert", pose=keypoints)
    body = np.array(keypoints[0]["people"][0]["pose_keypoints_2d"])
    for value, inputs in ((result[1], {}), (result[2], {"image": image}), (result[3], {})):
        back = run(comfy, "DWPoseConvert", pose=value, **inputs)[0]
        assert [len(frame["people"]) for frame in back] == [1, 0]
        assert np.allclose(back[0]["people"][0]["pose_keypoints_2d"], body, atol=1e-2)
    meta = result[1]["pose_metas"][0]
    assert meta.kps_body.shape == (20, 2) and meta.kps_face.shape == (69, 2) and meta.width == 400
    original = result[1]["pose_metas_original"][0]
    assert np.allclose(original["keypoints_body"][1], [0.25, 80 / 300, 1])
    pose = result[2]["poses"][0]
    assert pose["bodies"]["candidate"].shape == (1, 18, 2) and pose["hands"].shape == (2, 21, 2)


@pytest.mark.parametrize(
    ("layout", "length"), [("OpenPose 18", 54), ("BODY_25", 75), ("nested", 18), ("COCO-WholeBody", 51)]
)
def test_convert_json_layouts_read_back(comfy, layout, length):
    result = run(comfy, "DWPoseConvert", pose=clip([figure(100)]), json_layout=layout, coordinates="fractions")
    data = json.loads(result[3])[0]
    body = data["keypoints"] if layout == "COCO-WholeBody" else data["people"][0]["pose_keypoints_2d"]
    assert len(body) == length
    if layout != "COCO-WholeBody":
        assert np.allclose(xs(run(comfy, "DWPoseConvert", pose=result[3])[0]), [[100]], atol=1e-3)


def test_convert_binary(comfy):
    weak = figure(100)
    weak["pose_keypoints_2d"][2::3] = [0.5] * 18
    result = run(comfy, "DWPoseConvert", pose=clip([weak]), confidence="binary", threshold=0.4)[0]
    assert set(result[0]["people"][0]["pose_keypoints_2d"][2::3]) == {1.0}


# --- the older pack's node


def test_compat_is_the_older_node(comfy, monkeypatch):
    models = sys.modules[f"{comfy.package.__name__}.nodes.models"]
    files = {"pose": comfy.pose_file, "detector": comfy.detector_file}
    monkeypatch.setattr(models, "resolve", lambda kind, name: (None if name == "none" else files[kind], ""))
    node = comfy.nodes["DWPosePreprocessorCompat"]
    schema = node.define_schema()
    assert [item.id for item in schema.inputs if not item.optional] == ["image"]
    assert [item.io_type for item in schema.outputs] == ["IMAGE", "POSE_KEYPOINT"]
    image = torch.rand(2, 96, 150, 3)
    result = node.execute(image=image, bbox_detector="None", resolution=128)
    assert result[0].shape == (2, 128, 200, 3)  # the short side; not rounded to multiples of 64
    assert json.loads(result.ui["openpose_json"][0]) == result[1]
    person = result[1][0]["people"][0]
    lengths = [len(person[f"{part}_keypoints_2d"]) for part in ("pose", "face", "hand_left", "hand_right")]
    assert lengths == [54, 210, 63, 63] and result[1][0]["canvas_width"] == 150
    called = node.estimate_pose(image, "disable", "enable", "disable", resolution=64, bbox_detector="None")
    assert called["result"][0].shape == (2, 64, 100, 3) and "openpose_json" in called["ui"]
    assert not any(called["result"][1][0]["people"][0]["hand_left_keypoints_2d"])
    assert node.validate_inputs(bbox_detector="any.onnx", pose_estimator="older.pt") is True
    # without a node of ComfyUI's nothing keeps the networks; with one they are loaded once
    loads = []
    load = models.load
    monkeypatch.setattr(models, "load", lambda *names: loads.append(names) or load(*names))
    instance = node()
    for _ in range(2):
        node.execute(image=image, bbox_detector="None")
    assert len(loads) == 1
    kept = weakref.ref(instance.networks[1])
    del instance
    gc.collect()
    assert kept() is None
    node.execute(image=image, bbox_detector="None")
    assert len(loads) == 2


def test_replacement_is_registered_with_everything_the_browser_needs(comfy):
    (entry,) = comfy.replacements
    schema = comfy.nodes[entry["new_node_id"]].define_schema()
    assert entry["old_node_id"] == "DWPreprocessor"
    assert [item["new_id"] for item in entry["input_mapping"]] == [item.id for item in schema.inputs]
    assert entry["old_widget_ids"] == [item.id for item in schema.inputs][1:]
    assert [(item["old_idx"], item["new_idx"]) for item in entry["output_mapping"]] == [(0, 0), (1, 1)]


def test_prompt_hook_completes_old_prompts(comfy, monkeypatch):
    (hook,) = comfy.hooks
    prompt = {"5": {"class_type": "DWPreprocessor", "inputs": {"image": ["1", 0], "resolution": 768}}, "6": {}}
    done = hook({"prompt": json.loads(json.dumps(prompt))})["prompt"]["5"]
    assert done["inputs"]["resolution"] == 768 and done["inputs"]["detect_hand"] == "enable" and done["_meta"]
    assert done["class_type"] == "DWPreprocessor"  # ComfyUI renames it
    monkeypatch.delattr(sys.modules["comfy_api.v0_0_2"].io, "NodeReplace")
    assert hook({"prompt": json.loads(json.dumps(prompt))})["prompt"]["5"]["class_type"] == "DWPosePreprocessorCompat"
    sys.modules["nodes"].NODE_CLASS_MAPPINGS["DWPreprocessor"] = object
    try:
        assert hook({"prompt": json.loads(json.dumps(prompt))})["prompt"] == prompt
    finally:
        del sys.modules["nodes"].NODE_CLASS_MAPPINGS["DWPreprocessor"]


# --- what ships beside the code


@pytest.fixture(scope="module")
def core_nodes():
    return json.loads((stub.ROOT / "tests" / "comfy_core_nodes.json").read_text())


@pytest.mark.parametrize("stem", STEMS)
def test_shipped_graphs_fit_the_schemas(comfy, core_nodes, stem):
    graph = json.loads((stub.ROOT / "workflows" / f"{stem}.json").read_text())
    prompt = json.loads((stub.ROOT / "workflows" / "api" / f"{stem}.json").read_text())
    assert (stub.ROOT / "workflows" / f"{stem}.jpg").stat().st_size < 100_000
    by_id = {node["id"]: node for node in graph["nodes"]}
    for link_id, source, slot, target, socket, kind in graph["links"]:
        assert link_id in by_id[source]["outputs"][slot]["links"]
        assert by_id[target]["inputs"][socket]["link"] == link_id
        assert by_id[source]["outputs"][slot]["type"] in kind.split(",")
    for key, node in prompt.items():
        shown = by_id[int(key)]
        assert shown["type"] == node["class_type"]
        if node["class_type"] in comfy.nodes:
            schema = comfy.nodes[node["class_type"]].define_schema()
            names = [item.id for item in schema.inputs]
            required = [item.id for item in schema.inputs if not item.optional]
            values = [node["inputs"][item.id] for item in schema.inputs if "default" in item.options]
            assert shown["widgets_values"] == [
                value if not isinstance(value, list) else stub.widgets(schema)[name]
                for name, value in zip(stub.widgets(schema), values, strict=True)
            ]
            for item in schema.inputs:
                if item.io_type == "COMBO":
                    assert node["inputs"][item.id] in item.options["options"]
        else:
            names = core_nodes[node["class_type"]]["inputs"]
            required = core_nodes[node["class_type"]]["required"]
        assert set(node["inputs"]) <= set(names) and set(required) <= set(node["inputs"])


def test_there_are_nine_graphs_and_nothing_else_to_list():
    assert [stem.split(" - ")[0] for stem in STEMS] == [f"DWPose {number}" for number in range(1, 10)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_locales_name_every_node_and_input(comfy, language):
    texts = json.loads((stub.ROOT / "locales" / language / "nodeDefs.json").read_text())
    assert set(texts) == set(comfy.nodes)
    for node_id, node in comfy.nodes.items():
        schema, text = node.define_schema(), texts[node_id]
        assert text["display_name"] and text["description"]
        assert set(text["inputs"]) == {item.id for item in schema.inputs}
        assert all(entry["name"] and entry["tooltip"] for entry in text["inputs"].values())
        assert list(text["outputs"]) == [str(number) for number in range(len(schema.outputs))]
        if language == "en":
            assert text["display_name"] == schema.display_name and text["description"] == schema.description
            assert {i.id: i.options["tooltip"] for i in schema.inputs} == {
                name: entry["tooltip"] for name, entry in text["inputs"].items()
            }


def test_every_node_has_a_page_and_its_pictures_exist(comfy):
    docs = stub.ROOT / "nodes" / "web" / "docs"
    assert {page.stem for page in docs.glob("*.md")} == set(comfy.nodes)
    for page in docs.glob("*.md"):
        text = page.read_text()
        for item in comfy.nodes[page.stem].define_schema().inputs:
            assert f"`{item.id}`" in text, f"{page.name} does not explain {item.id}"
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
            assert (docs / picture).is_file(), f"{page.name}: {picture}"


def test_registry_metadata():
    tomllib = pytest.importorskip("tomllib")
    data = tomllib.loads((stub.ROOT / "pyproject.toml").read_text())
    comfy = data["tool"]["comfy"]
    assert comfy["PublisherId"] and comfy["DisplayName"] == "DWPose" and comfy["requires-comfyui"] == ">=0.3.48"
    assert "web" not in comfy  # WEB_DIRECTORY serves it; with both, the node pages are not found
    for key in ("Icon", "Banner"):
        name = comfy[key].rsplit("/", 1)[1]
        assert (stub.ROOT / "docs" / "images" / "comfyui" / name).is_file()
    assert re.fullmatch(r"\d+\.\d+\.\d+", data["project"]["version"])
    needs = {
        line.split(">")[0].strip() for line in (stub.ROOT / "requirements.txt").read_text().splitlines() if line.strip()
    }
    assert needs == {"opencv-python-headless"}
