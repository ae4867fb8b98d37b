"""DWPose Loader and what it does with the files of ComfyUI's folders, against a stub of ComfyUI."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
import sys

import pytest

from tests.comfy_stub import run


def test_loader_finds_files_and_names_what_is_missing(comfy):
    options = {item.id: item.options.get("options") for item in comfy.nodes["DWPoseLoader"].define_schema().inputs}
    assert {"auto", "dwpose-l-384", "dw-debug.safetensors"} <= set(options["pose"])
    assert {"auto", "none", "yolox-l", "yolox_nano.safetensors"} <= set(options["detector"])
    check = comfy.nodes["DWPoseLoader"].validate_inputs
    assert check(pose="dw-debug.safetensors", detector="none") is True
    assert "models/dwpose" in check(pose="other.pth", detector="auto")
    with pytest.raises(ValueError, match=r"needs an \.onnx file"):
        run(comfy, "DWPoseLoader", pose="dw-debug.safetensors", detector="none", backend="onnxruntime")


def test_an_onnx_file_of_another_kind_is_told(models, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from dwpose_core.models import create_detector
    from dwpose_core.models.export import export_onnx

    path = tmp_path / "boxes.onnx"
    export_onnx(create_detector("yolox-nano"), path)
    assert models.Network(path, "detector", "onnxruntime", "auto").open().name == "boxes"
    with pytest.raises(ValueError, match=r"boxes\.onnx is no pose network of the known kind"):
        models.Network(path, "pose", "onnxruntime", "auto").open()


@pytest.fixture
def files(comfy, monkeypatch):
    """The module, with no network to download from."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return sys.modules[f"{comfy.package.__name__}.nodes.files"]


@pytest.fixture
def models(comfy, files):
    return sys.modules[f"{comfy.package.__name__}.nodes.models"]


@contextlib.contextmanager
def placed(comfy, *names: str):
    """Files of these names under the home of ComfyUI, copies of the tiny networks for as long as the block lasts; what
    is no network by its name (`foreign`, or .onnx) holds nonsense."""
    paths = [comfy.home / name for name in names]
    try:
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".onnx" or "foreign" in path.name:
                path.write_bytes(b"something else")
            else:
                shutil.copy(comfy.detector_file if "yolo" in path.name else comfy.pose_file, path)
        yield paths
    finally:
        for path in paths:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def without(path):
    away = path.with_name(f"{path.name}.away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


def first(files, kind, name="auto"):
    return next(iter(files.candidates(kind, name)))


def test_auto_takes_what_is_there_and_says_so(comfy, files):
    path, note = first(files, "pose")
    assert path == comfy.pose_file and "dwpose-l-384 is not here" in note[0]
    with placed(comfy, "models/dwpose/dw-ll_ucoco_384.onnx") as (named,):
        path, note = first(files, "pose")
        assert path == named and "not the published file" in note[0]
    with without(comfy.pose_file):
        path, note = first(files, "pose")
        assert path.name == "dwpose-s-synthetic.safetensors"
        assert note[0] == "Put dw-ll_ucoco_384.onnx into models/dwpose."  # a node shows the first words only


def test_what_to_do_comes_before_everything_else(comfy, files, models):
    with without(comfy.detector_file), without(comfy.pose_file):
        note = models.load("auto", "auto").note
    first_words = "Put dw-ll_ucoco_384.onnx into models/dwpose. Put yolox_l.onnx into models/detection. Until then"
    assert note.startswith(first_words) and note.count("Until then") == 1


def test_auto_goes_past_files_that_are_something_else(comfy, files, models):
    """models/detection is shared with packs whose YOLOs are other networks; a broken file is no reason to stop."""
    bad, good = "models/detection/a_yolox_foreign.pth", "models/detection/b_yolox.safetensors"
    with placed(comfy, bad, good):
        model = models.load("dw-debug.safetensors", "auto")
        assert model.detector.path.name == "b_yolox.safetensors"
        assert "a_yolox_foreign.pth is no detector" in model.note
    others = ("models/detection/yolov10m.onnx", "models/detection/vitpose_l.onnx")
    with without(comfy.detector_file), placed(comfy, *others):
        path, note = first(files, "detector")
        assert path.name == "yolox-cspnext-s.safetensors" and note[0] == "Put yolox_l.onnx into models/detection."
        with placed(comfy, bad):
            model = models.load("dw-debug.safetensors", "auto")
            assert model.detector.path.name == "yolox-cspnext-s.safetensors" and "a_yolox_foreign.pth" in model.note
            with pytest.raises(ValueError, match="a_yolox_foreign"):
                models.load("dw-debug.safetensors", "a_yolox_foreign.pth")  # chosen by hand: no other will do


def test_the_exact_name_wins_over_the_last_part(comfy, files):
    names = ("models/dwpose/a/dw-same.safetensors", "models/dwpose/dw-same.safetensors", "models/dwpose/z/dw-z.pth")
    with placed(comfy, *names) as (inner, outer, deep):
        assert files.find_file("dw-same.safetensors", "pose") == outer
        assert files.find_file("a/dw-same.safetensors", "pose") == inner
        assert files.find_file("dw-z.pth", "pose") == deep  # as workflows of others name it
    with placed(comfy, "models/dwpose/yolox_x.pth", "models/detection/yolox_x.pth") as (there, home):
        assert files.find_file("yolox_x.pth", "detector") == home
        assert files.find_file("yolox_x.pth", "pose") == there


def test_a_link_to_nowhere_is_no_file(comfy, files):
    link = comfy.home / "models" / "dwpose" / "dw-a.safetensors"
    try:
        link.symlink_to(comfy.home / "nothing")
    except OSError:
        pytest.skip("no symbolic links here")
    try:
        assert files.find_file(link.name, "pose") is None and first(files, "pose")[0] == comfy.pose_file
    finally:
        link.unlink()


def test_onnx_files_are_found_where_comfyui_has_the_folder_itself(comfy, files, monkeypatch):
    """Newer cores list models/detection with the suffixes of all their folders, and .onnx is none of them."""
    import folder_paths

    shared, cache = {".safetensors", ".pth", ".pt"}, {"detection": "as listed before"}
    home = str(comfy.home / "models" / "detection")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "detection", ([home], shared))
    monkeypatch.setattr(folder_paths, "filename_list_cache", cache, raising=False)
    files.register_folders()
    with placed(comfy, "models/detection/yolox_m.onnx"):
        assert "yolox_m.onnx" in files.choices("detector")
        assert comfy.nodes["DWPoseLoader"].validate_inputs(pose="auto", detector="yolox_m.onnx") is True
    assert ".onnx" not in shared and not cache


def test_which_files_are_offered(comfy, files):
    others = "custom_nodes/comfyui_controlnet_aux/ckpts/some/repo"
    with placed(
        comfy,
        "models/dwpose/my_finetune.safetensors",
        "models/dwpose/yolox_mine.safetensors",
        "models/dwpose/notes.txt",
        "models/dwpose/dw.torchscript.pt",
        "models/detection/person.safetensors",
        "models/detection/rtm_l.safetensors",
        "models/detection/vitpose_h.safetensors",
        f"{others}/dw-ll.safetensors",
        f"{others}/depth.pth",
        f"{others}/rtmpose-m_ap10k.onnx",
        f"{others}/yolox_theirs.pth",
    ):
        assert files.offered("pose") == [
            "dw-debug.safetensors",
            "my_finetune.safetensors",
            "rtm_l.safetensors",
            "some/repo/dw-ll.safetensors",
        ]
        assert files.offered("detector") == [
            "person.safetensors",
            "some/repo/yolox_theirs.pth",
            "yolox_mine.safetensors",
            "yolox_nano.safetensors",
        ]


def test_loader_runs_again_when_what_it_stands_for_changes(comfy, files):
    look = comfy.nodes["DWPoseLoader"].fingerprint_inputs
    for choice in ("auto", "dw-mine.safetensors", "dwpose-l-384"):
        before = look(pose=choice, detector="none", precision="auto", backend="torch")
        assert before == look(pose=choice, detector="none")
        name = "dw-ll_ucoco_384.onnx" if choice != "dw-mine.safetensors" else choice
        with placed(comfy, f"models/dwpose/{name}") as (path,):
            added = look(pose=choice, detector="none")
            assert added != before
            os.utime(path, (1, 1))
            assert look(pose=choice, detector="none") != added
        assert look(pose=choice, detector="none") == before
    assert look(pose=None) == look(pose=None)  # linked: not known yet
    assert comfy.nodes["DWPoseLoader"].validate_inputs(pose=None, detector="none") is True


@pytest.fixture
def entry(comfy, files, monkeypatch):
    """dwpose-l-384 of the catalogue with the digest of the tiny network, and `fetch` for its download."""
    catalogue, name = files.catalogue, f"{comfy.package.__name__}.dwpose_core.models.download"
    download = importlib.import_module(name)
    entry = dataclasses.replace(catalogue.find("dwpose-l-384"), sha256=download.digest(comfy.pose_file))
    others = [known for known in catalogue.ENTRIES if known.name != entry.name]
    monkeypatch.setattr(catalogue, "ENTRIES", (entry, *others))
    monkeypatch.setattr(files, "_missed", set())
    return entry


@pytest.mark.parametrize("choice", ["auto", "dwpose-l-384"])
def test_a_download_is_no_reason_to_run_the_graph_again(comfy, files, entry, monkeypatch, choice):
    download = sys.modules[f"{comfy.package.__name__}.dwpose_core.models.download"]
    path = comfy.home / "models" / "dwpose" / entry.filename
    monkeypatch.setattr(download, "fetch", lambda entry, cache_dir: shutil.copy(comfy.pose_file, path) and path)
    look = comfy.nodes["DWPoseLoader"].fingerprint_inputs
    before = look(pose=choice, detector="none")
    try:
        assert first(files, "pose", choice) == (path, [])
        assert look(pose=choice, detector="none") == before
        os.utime(path, (1, 1))  # the same content, copied or touched
        assert look(pose=choice, detector="none") == before
        path.write_bytes(b"another edition")
        assert look(pose=choice, detector="none") != before
    finally:
        path.unlink()


def test_a_file_put_there_after_a_failed_download_is_taken(comfy, files, entry):
    """What stood in for it is in ComfyUI's cache under the fingerprint of then."""
    look = comfy.nodes["DWPoseLoader"].fingerprint_inputs
    before = look(pose="auto", detector="none")
    assert "is not here" in first(files, "pose")[1][0]
    assert look(pose="auto", detector="none") == before  # not again, as long as nothing changes
    path = comfy.home / "models" / "dwpose" / entry.filename
    shutil.copy(comfy.pose_file, path)
    try:
        after = look(pose="auto", detector="none")
        assert after != before and first(files, "pose") == (path, [])
        assert look(pose="auto", detector="none") == after
    finally:
        path.unlink()


def test_a_published_file_is_read_once_for_its_fingerprint(comfy, files, entry, monkeypatch):
    download = sys.modules[f"{comfy.package.__name__}.dwpose_core.models.download"]
    read, digest = [], download.digest
    monkeypatch.setattr(download, "digest", lambda path: read.append(path) or digest(path))
    files._digest_of.cache_clear()
    path = comfy.home / "models" / "dwpose" / entry.filename
    shutil.copy(comfy.pose_file, path)
    try:
        for _ in range(3):
            comfy.nodes["DWPoseLoader"].fingerprint_inputs(pose="auto", detector="none")
            first(files, "pose")
        assert read == [path]
    finally:
        path.unlink()


def test_loader_says_what_it_has_loaded(comfy):
    result = run(comfy, "DWPoseLoader", pose="dw-debug.safetensors", detector="yolox_nano.safetensors")
    assert result.ui["text"] == ("dw-debug + yolox_nano",) and comfy.texts == [("7", "dw-debug + yolox_nano")]


def test_downloads_end_up_as_plain_files(comfy, files, monkeypatch):
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
    path, note = first(files, "detector", "yolox-l")
    try:
        assert path == home / "yolox_l.onnx" and path.read_bytes() == b"weights" and not path.is_symlink()
        assert not (home / "models--yzd-v--DWPose").exists() and not note
    finally:
        path.unlink()
