"""The nodes that read, write and convert, and the older pack's node, against a stub of ComfyUI."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import types
import weakref

import cv2
import numpy as np
import pytest
import torch

from tests.comfy_stub import Interrupted, clip, figure, run, xs


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


def test_the_size_can_be_part_of_the_file_name(comfy):
    path = run(comfy, "DWPoseSaveJSON", keypoints=clip([figure(100)]), filename_prefix="of_%width%x%height%")[0]
    assert path.endswith("of_400x300_00001.json")


@pytest.mark.parametrize("layout", ["one per frame", "OpenPose folder", "one file"])
def test_a_dot_in_the_name_is_no_suffix(comfy, layout):
    long, short = clip([figure(100)], [], []), clip([figure(200)])
    paths = [
        run(comfy, "DWPoseSaveJSON", keypoints=keypoints, filename_prefix=f"dot/{layout} v1.5", layout=layout)
        for keypoints in (long, short)
    ]
    assert paths[0][0] != paths[1][0]
    assert [len(run(comfy, "DWPoseLoadJSON", path=path[0])[0]) for path in paths] == [3, 1]
    assert comfy.texts[-1][1].startswith("Frames written: 1, to dot")


@pytest.mark.parametrize("layout", ["one per frame", "OpenPose folder", "one file"])
def test_an_empty_prefix_hides_no_files(comfy, layout):
    keypoints = clip([figure(100)], [])
    path = run(comfy, "DWPoseSaveJSON", keypoints=keypoints, filename_prefix=".", layout=layout)[0]  # as ComfyUI has it
    assert xs(run(comfy, "DWPoseLoadJSON", path=path)[0]) == [[100], []]


def test_files_are_read_in_the_order_people_count(comfy):
    folder = comfy.home / "input" / "seq"
    folder.mkdir()
    for number in (1, 2, 10):
        (folder / f"f_{number}.json").write_text(json.dumps(clip([figure(100 * number)])))
        cv2.imwrite(str(folder / f"f_{number}.png"), np.zeros((8, 8 * number, 3), np.uint8))
    for suffix in ("json", "png"):
        (folder / f"._f_1.{suffix}").write_bytes(b"\0\5\x16\7")  # macOS puts it beside every file on foreign disks
    assert xs(run(comfy, "DWPoseLoadJSON", path="seq")[0]) == [[100], [200], [1000]]
    assert [image.shape[2] for image in run(comfy, "DWPoseLoadFolder", folder="seq")[0]] == [8, 16, 80]


def test_links_in_the_input_folder_may_lead_elsewhere(comfy, tmp_path):
    (tmp_path / "f.json").write_text(json.dumps(clip([figure(100)])))
    cv2.imwrite(str(tmp_path / "f.png"), np.zeros((8, 8, 3), np.uint8))
    try:
        (comfy.home / "input" / "link").symlink_to(tmp_path)
    except OSError:
        pytest.skip("no symbolic links here")
    for path in ("link", "link/f.json"):
        assert xs(run(comfy, "DWPoseLoadJSON", path=path)[0]) == [[100]]
    assert len(run(comfy, "DWPoseLoadFolder", folder="link")[0]) == 1
    assert "not inside" in comfy.nodes["DWPoseLoadJSON"].validate_inputs(path="link/../../secret.json")


def test_linked_inputs_have_a_fingerprint(comfy):
    """ComfyUI passes None for what is not known yet; an error there means that the node is never cached."""
    for node in ("DWPoseLoadJSON", "DWPoseLoadFolder"):
        look = comfy.nodes[node].fingerprint_inputs
        assert look(**{"path" if "JSON" in node else "folder": None, "text": ""}) == look()


def test_fingerprints_tell_no_folders_and_do_not_grow(comfy):
    """ComfyUI writes them into the metadata of every picture it saves."""
    folder = comfy.home / "input" / "many"
    folder.mkdir()
    looks = {
        "DWPoseLoadFolder": {"folder": "many"},
        "DWPoseLoadJSON": {"path": "many"},
        "DWPoseLoader": {"pose": "dw-debug.safetensors", "detector": "auto"},
        "DWPosePreprocessorCompat": {},
    }
    before = {}
    for number in range(20):
        (folder / f"{number}.json").write_text("[]")
        (folder / f"{number}.png").write_bytes(b"")
        for node, inputs in looks.items():
            text = json.dumps(comfy.nodes[node].fingerprint_inputs(**inputs))
            assert comfy.home.name not in text and len(text) < 100
            assert (before.get(node) == text) == (bool(number) and "Load" not in node.removesuffix("Loader"))
            before[node] = text


def test_long_folders_show_their_progress_and_can_be_interrupted(comfy):
    folder = comfy.home / "input" / "long"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.json").write_text(json.dumps(clip([figure(100)])))
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    for node, inputs in (("DWPoseLoadFolder", {"folder": "long"}), ("DWPoseLoadJSON", {"path": "long"})):
        comfy.progress.clear()
        comfy.interrupt = False
        run(comfy, node, **inputs)
        assert [step[0] for step in comfy.progress] == [1, 2, 3]
        comfy.interrupt = True
        with pytest.raises(Interrupted):
            run(comfy, node, **inputs)


def test_load_json_reads_text_and_stays_in_its_folders(comfy):
    keypoints = clip([figure(100)])
    assert xs(run(comfy, "DWPoseLoadJSON", text=json.dumps(keypoints))[0]) == [[100]]
    check = comfy.nodes["DWPoseLoadJSON"].validate_inputs
    assert "not inside" in check(path="../../etc")
    assert "no JSON file" in check(path="missing.json")
    (comfy.home / "input" / "here.json").write_text(json.dumps(keypoints))
    for copied in (f'"{comfy.home / "input" / "here.json"}"', ' "here.json" '):  # as Windows copies a path
        assert xs(run(comfy, "DWPoseLoadJSON", path=copied)[0]) == [[100]]
    assert check(path="") is True
    assert "JSON text goes into text" in check(path=json.dumps(keypoints))  # longer than any file name may be
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
    for wrong in ("nothing", "../..", "long" * 100):
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


def test_convert_reads_its_own_coco(comfy):
    keypoints = clip([figure(100), figure(200)], [], [figure(150)], [])
    text = run(comfy, "DWPoseConvert", pose=keypoints, json_layout="COCO-WholeBody")[3]
    images = torch.zeros(4, 300, 400, 3)
    back = run(comfy, "DWPoseConvert", pose=text, image=images)[0]
    assert xs(back) == [[100, 200], [], [150], []] and back[0]["canvas_width"] == 400
    for key in ("pose_keypoints_2d", "hand_left_keypoints_2d", "foot_keypoints_2d"):
        assert np.allclose(back[0]["people"][1][key], keypoints[0]["people"][1][key], atol=1e-3)
    assert xs(run(comfy, "DWPoseConvert", pose=text, image=images[:1])[0]) == [[100, 200], [], [150]]
    for wrong, image in (("no size", None), ("number of a frame", images[:2])):
        with pytest.raises(ValueError, match=wrong):
            run(comfy, "DWPoseConvert", pose=text, image=image)


def test_a_clip_without_anybody_keeps_its_frames(comfy):
    """Its COCO-WholeBody, a list of people, is empty: the images tell how many frames there are."""
    text = run(comfy, "DWPoseConvert", pose=clip([], [], []), json_layout="COCO-WholeBody")[3]
    assert json.loads(text) == []
    back = run(comfy, "DWPoseConvert", pose=text, image=torch.zeros(3, 300, 400, 3))[0]
    assert [(frame["people"], frame["canvas_height"], frame["canvas_width"]) for frame in back] == [([], 300, 400)] * 3
    with pytest.raises(ValueError, match="connect the images"):
        run(comfy, "DWPoseConvert", pose=text)


def test_no_frames_are_told_where_they_are_read_or_written(comfy):
    (comfy.home / "input" / "nothing.json").write_text("[]")
    for inputs, where in (({"text": "[]"}, "this text"), ({"path": "nothing.json"}, r"nothing\.json")):
        with pytest.raises(ValueError, match=f"no frames in {where}"):
            run(comfy, "DWPoseLoadJSON", **inputs)
    with pytest.raises(ValueError, match="no frames"):
        run(comfy, "DWPoseSaveJSON", keypoints=[], layout="one per frame")


def test_convert_binary(comfy):
    weak = figure(100)
    weak["pose_keypoints_2d"][2::3] = [0.5] * 18
    result = run(comfy, "DWPoseConvert", pose=clip([weak]), confidence="binary", threshold=0.4)[0]
    assert set(result[0]["people"][0]["pose_keypoints_2d"][2::3]) == {1.0}


def test_compat_is_the_older_node(comfy, monkeypatch):
    models = sys.modules[f"{comfy.package.__name__}.nodes.models"]
    files = {"pose": comfy.pose_file, "detector": comfy.detector_file}
    monkeypatch.setattr(models, "candidates", lambda kind, name: iter([(files[kind], [])]))
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
    with pytest.raises(ValueError, match="no images"):
        node.execute(image=image[:0], bbox_detector="None")
    assert node.validate_inputs(bbox_detector="any.onnx", pose_estimator="older.pt") is True
    assert comfy.texts[0] == ("7", "2 frames, 1 person in each; not drawn, as no point scores 0.3")
    # without a node of ComfyUI's nothing keeps the networks; with one they are loaded once
    loads = []
    load = models.load
    monkeypatch.setattr(models, "load", lambda *names: loads.append(names) or load(*names))
    instance = node()
    for _ in range(2):
        node.execute(image=image, bbox_detector="None")
    assert len(loads) == 1
    # a file that comes into the folders is taken at once, by this node and by ComfyUI's cache
    before = node.fingerprint_inputs(image=None, bbox_detector="None")
    added = comfy.home / "models" / "dwpose" / "dw-added.safetensors"
    shutil.copy(comfy.pose_file, added)
    assert node.fingerprint_inputs(image=None, bbox_detector="None") != before
    node.execute(image=image, bbox_detector="None")
    assert len(loads) == 2
    added.unlink()
    node.execute(image=image, bbox_detector="None")
    assert len(loads) == 3
    kept = weakref.ref(instance.networks[1])
    del instance
    gc.collect()
    assert kept() is None
    node.execute(image=image, bbox_detector="None")
    assert len(loads) == 4


def test_the_older_node_takes_the_small_network_its_pack_has_downloaded(comfy):
    compat = sys.modules[f"{comfy.package.__name__}.nodes.compat"]
    theirs = comfy.home / "custom_nodes/comfyui_controlnet_aux/ckpts/hr16/UnJIT-DWPose/dw-ll_ucoco.onnx"
    assert compat._choices("yolox_l.onnx", theirs.name) == ("dwpose-l", "auto")
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"network")
    try:
        assert compat._choices("yolox_l.onnx", theirs.name) == ("dw-ll_ucoco.onnx", "auto")
        assert compat.files.find_file("dw-ll_ucoco.onnx", "pose") == theirs
        assert compat._choices("None", "dw-ll_ucoco_384.onnx") == ("auto", "none")
    finally:
        theirs.unlink()


def test_the_older_nodes_face_has_eyes_without_a_body(comfy, monkeypatch):
    compat = sys.modules[f"{comfy.package.__name__}.nodes.compat"]
    seen = sys.modules[f"{comfy.package.__name__}.nodes.sockets"].to_people(clip([figure(100)]))
    monkeypatch.setattr(compat, "_networks", lambda *names: types.SimpleNamespace(note=""))
    monkeypatch.setattr(compat, "estimate", lambda *_: iter([seen]))
    node, image = comfy.nodes["DWPosePreprocessorCompat"], torch.zeros(1, 300, 400, 3)
    off, on = (node.execute(image=image, detect_body=body)[1][0]["people"][0] for body in ("disable", "enable"))
    assert not any(off["pose_keypoints_2d"]) and not any(off["foot_keypoints_2d"])
    assert off["face_keypoints_2d"] == on["face_keypoints_2d"] and on["face_keypoints_2d"][-1] == 1
    assert off["hand_left_keypoints_2d"] == on["hand_left_keypoints_2d"]


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
