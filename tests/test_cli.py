"""The `dwpose` command as a user types it: files in, files out, exit codes, messages."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dwpose_core import commands, images
from dwpose_core.cli import build_parser, main
from dwpose_core.formats import from_openpose, save_npz
from dwpose_core.models import create_model
from dwpose_core.models.weights import save_safetensors
from dwpose_core.people import People


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny pose network that "sees" every point somewhere."""
    torch.manual_seed(0)
    net = create_model("debug")
    # Untrained BatchNorms shrink the features to 1e-10; the head takes them back to the size of trained ones.
    for layer, std in ((net.head.final_layer, 1e9), (net.head.mlp[1], 1), (net.head.cls_x, 1), (net.head.cls_y, 1)):
        torch.nn.init.normal_(layer.weight, std=std)
    path = tmp_path_factory.mktemp("weights") / "debug.safetensors"
    save_safetensors(net, path)
    return str(path)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (60, 80)), ("b.jpg", (90, 50)), ("deep/c.webp", (64, 64))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def run(*args):
    return main([str(arg) for arg in args])


def test_one_photograph(tmp_path, photos, weights, capsys):
    out = tmp_path / "maps" / "pose.png"
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu", "--json", "--overlay")
    assert run("image", photos / "a.png", "-o", out, *flags) == 0
    assert Image.open(out).size == (80, 60)
    (frame,) = json.loads(out.with_suffix(".json").read_text())
    assert len(frame["people"]) == 1
    assert (frame["canvas_width"], frame["canvas_height"]) == (80, 60)
    assert Image.open(out.with_name("pose.overlay.png")).size == (80, 60)
    text = capsys.readouterr().out
    assert text.startswith("1 of 1 image, 1 person; ") and "debug on cpu (torch, float32)" in text


@pytest.mark.parametrize(("layout", "body"), [("openpose", 18), ("body25", 25)])
def test_json_as_the_openpose_program_names_and_writes_it(tmp_path, photos, weights, layout, body):
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu")
    assert run("image", photos / "a.png", "-o", tmp_path / "maps/", *flags, "--json") == 0
    assert run("image", photos / "a.png", "-o", tmp_path / "maps/", *flags, "--json-layout", layout) == 0
    file = json.loads((tmp_path / "maps" / "a_keypoints.json").read_text())
    assert file["version"] == 1.3
    (person,) = file["people"]
    assert person["person_id"] == [-1]
    assert len(person["pose_keypoints_2d"]) == 3 * body
    (ours,) = from_openpose((tmp_path / "maps" / "a.json").read_bytes())
    (theirs,) = from_openpose(json.dumps(file))
    np.testing.assert_array_equal(theirs.xy, ours.xy)
    np.testing.assert_array_equal(theirs.score, ours.score)


@pytest.mark.parametrize("out", ["maps/", "maps"])
def test_one_photograph_into_a_new_folder(tmp_path, photos, weights, out):
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu", "--json")
    assert run("image", photos / "a.png", "-o", f"{tmp_path}/{out}", *flags) == 0
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["a.json", "a.png"]
    assert run("render", tmp_path / "maps" / "a.json", "-o", f"{tmp_path}/again/{out}") == 0
    assert (tmp_path / "again" / "maps" / "a.png").is_file()


@pytest.mark.parametrize("name", ["pose.xyz", "pose.psd"])  # Pillow reads the second kind, but does not write it
def test_a_name_no_picture_can_have_is_refused_before_anything_is_loaded(tmp_path, photos, capsys, name):
    assert run("image", photos / "a.png", "-o", tmp_path / name, "--pose", "nowhere.onnx") != 0
    assert "has no suffix of a picture" in capsys.readouterr().err


@pytest.mark.parametrize("inputs, out", [(["a.png"], "a.png"), (["a.png"], ""), (["."], ""), (["a.png", "b.jpg"], "")])
def test_a_photograph_is_never_replaced_by_its_map(photos, weights, capsys, inputs, out):
    before = (photos / "a.png").read_bytes()
    assert run("image", *(photos / name for name in inputs), "-o", photos / out, "--pose", weights) != 0
    assert "would replace the photograph" in capsys.readouterr().err
    assert (photos / "a.png").read_bytes() == before and not (photos / "b.png").exists()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["pose.overlay.png"], "would replace the photograph"),  # the overlay of pose.png
        (["x.png", "x.overlay.png"], "would both be written"),  # map of the one, overlay of the other
    ],
)
def test_what_is_written_beside_the_map_replaces_nothing(photos, weights, capsys, inputs, message):
    for name in inputs:
        Image.open(photos / "a.png").save(photos / name)
    before = [(photos / name).read_bytes() for name in inputs]
    out = photos / "pose.png" if len(inputs) == 1 else photos / "maps"
    assert run("image", *(photos / name for name in inputs), "-o", out, "--overlay", "--pose", weights) == 2
    assert message in capsys.readouterr().err
    assert [(photos / name).read_bytes() for name in inputs] == before


def test_a_map_too_large_for_the_memory_costs_only_itself(tmp_path, photos, weights, capsys, monkeypatch):
    def full(path, image):
        raise MemoryError

    monkeypatch.setattr(commands, "write_image", full)
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu")
    assert run("image", photos / "a.png", "-o", tmp_path / "a.png", *flags) == 1
    assert "not enough memory" in capsys.readouterr().err


def test_folder_keeps_going_past_a_broken_file(tmp_path, photos, weights, capsys):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not really")
    out = tmp_path / "maps"
    assert run("image", photos, "-o", out, "--pose", weights, "--detector", "none", "--device", "cpu") == 1
    assert sorted(p.name for p in out.rglob("*.png")) == ["a.png", "b.png", "c.png"]
    text = capsys.readouterr()
    assert "broken.jpg" in text.err
    assert "3 of 4 images" in text.out


@pytest.mark.parametrize(("text", "size"), [("128", (171, 128)), ("96x64", (96, 64))])
def test_draw_size(tmp_path, photos, weights, text, size):
    out = tmp_path / "pose.png"
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu", "--draw-size", text)
    assert run("image", photos / "a.png", "-o", out, *flags) == 0
    assert Image.open(out).size == size


def test_own_boxes_and_render_of_the_json(tmp_path, photos, weights):
    out = tmp_path / "pose.png"
    flags = ("--pose", weights, "--device", "cpu", "--json", "--box", "5,5,70,55", "--box", "0,0,40,60")
    assert run("image", photos / "a.png", "-o", out, *flags) == 0
    (frame,) = json.loads(out.with_suffix(".json").read_text())
    assert len(frame["people"]) == 2
    again = tmp_path / "again.png"
    assert run("render", out.with_suffix(".json"), "-o", again) == 0
    # Scores above the threshold become 1 in the JSON, so the same points are drawn.
    np.testing.assert_array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(out)))


def test_folders_stay_folders_and_a_second_run_takes_the_same_photographs(tmp_path, photos, weights, capsys):
    """Two photographs of one name in two folders; maps inside the folder that is searched."""
    Image.open(photos / "a.png").save(photos / "deep" / "a.png")
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu")
    for _ in range(2):
        assert run("image", photos, "-o", photos / "poses", *flags) == 0
        assert "4 of 4 images" in capsys.readouterr().out
    maps = [path.relative_to(photos / "poses").as_posix() for path in sorted((photos / "poses").rglob("*.png"))]
    assert maps == ["a.png", "b.png", "deep/a.png", "deep/c.png"]


def test_scores_in_the_json_can_be_thresholded_later(tmp_path, photos, weights, capsys):
    out = tmp_path / "poses"
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu", "--json", "--scores", "--threshold", "0.01")
    run("image", photos, "-o", out, *flags)
    (frame,) = json.loads((out / "a.json").read_text())
    scores = np.array(frame["people"][0]["pose_keypoints_2d"][2::3])
    assert len(np.unique(scores)) > 5
    (out / "broken.json").write_text("{")
    assert run("render", out, "-o", tmp_path / "again", "--threshold", 1e9) == 1
    assert "broken.json: not JSON" in capsys.readouterr().err
    assert not np.asarray(Image.open(tmp_path / "again" / "a.png")).any()
    assert np.asarray(Image.open(out / "a.png")).any()


@pytest.mark.parametrize("failing", ["b.png", "b.overlay.png"])
def test_write_failures_are_listed(tmp_path, photos, weights, capsys, monkeypatch, failing):
    """By the file that is not there."""
    real = Image.Image.save

    def full(self, target, *args, **kwargs):
        if target.name.startswith(f".{failing.removesuffix('.png')}."):
            raise OSError(28, "No space left on device")
        return real(self, target, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", full)
    out = tmp_path / "maps"
    flags = ("--overlay", "--pose", weights, "--detector", "none", "--device", "cpu")
    assert run("image", photos, "-o", out, *flags) == 1
    there = {p.name for p in out.rglob("*.png")}
    assert there >= {"a.png", "a.overlay.png", "c.png", "c.overlay.png"} and failing not in there
    assert f"{failing} cannot be written: No space left on device" in capsys.readouterr().err


def test_read_only_output(tmp_path, photos, weights, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images.Path, "mkdir", refuse)
    out = tmp_path / "locked" / "pose.png"
    assert run("image", photos / "a.png", "-o", out, "--pose", weights, "--detector", "none", "--device", "cpu") == 1
    assert "Permission denied" in capsys.readouterr().err


def test_interrupt_leaves_whole_files(tmp_path, photos, weights, monkeypatch, capsys):
    real = images.os.replace
    written = []

    def replace(source, target):
        if written:
            raise KeyboardInterrupt
        written.append(target)
        real(source, target)

    monkeypatch.setattr(images.os, "replace", replace)
    out = tmp_path / "maps"
    assert run("image", photos, "-o", out, "--pose", weights, "--detector", "none", "--device", "cpu") == 130
    assert [p.name for p in out.iterdir()] == [written[0].name]
    assert "interrupted" in capsys.readouterr().err


def test_an_interrupt_while_torch_is_loaded_is_no_traceback(monkeypatch, capsys):
    class Interrupted:
        def find_spec(self, name, *_):
            if name == "dwpose_core.commands":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "dwpose_core.commands")
    monkeypatch.delattr("dwpose_core.commands")
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert run("models") == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["image", "absent.jpg", "-o", "x.png"], "no file, folder or pattern matches"),
        (["image", "", "-o", "x"], "no file, folder or pattern matches ''"),
        (["image", "PHOTOS", "-o", "x.png"], "-o is a folder"),
        (["image", "PHOTOS/a.png", "-o", "x.png", "--pose", "dwpose-xxl"], "dwpose-xxl"),
        (["image", "PHOTOS/a.png", "-o", "x.png", "--pose", "absent.safetensors"], "absent.safetensors"),
        (["image", "PHOTOS/a.png", "-o", "x.png", "--style", "cubist"], "openpose, dwpose, xinsir"),
        (["image", "PHOTOS/a.png", "-o", "x.png", "--draw-size", "big"], "WIDTHxHEIGHT"),
        (["image", "PHOTOS/a.png", "-o", "x.png", "--box", "1,2,3"], "four numbers"),
        (["image", "PHOTOS/a.png", "-o", "x.png", "--box", "1,2", "--box", "30,40"], "four numbers"),
        (["image", "PHOTOS/a.png", "-o", "x.png", "--device", "cuda:99"], "cuda:99"),
        (["image", "PHOTOS/a.png", "-o", "x.png", "--detector-size", "500"], "multiple of 32"),
        (["image", "PHOTOS/a.png", "PHOTOS/a2/a.png", "-o", "x"], "would both be written"),
        (["render", "absent.json", "-o", "x.png"], "no keypoint file"),
        (["render", "PHOTOS/bare.json", "-o", "x.png"], "bare.json: frame 0: has no canvas_height"),
        (["render", "PHOTOS/bare.json", "-o", "x.png"], "--image-size WIDTHxHEIGHT"),
        (["render", "PHOTOS/bare.json", "-o", "x.png", "--image-size", "512"], "WIDTHxHEIGHT"),
        (["render", "PHOTOS/none.json", "-o", "x.png"], "no frames"),
        (["render", "PHOTOS", "-o", "x.png"], "-o must be a folder"),
        (["convert", "absent.pth", "x.safetensors"], "absent.pth"),
    ],
)
def test_usage_errors(photos, args, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (photos / "a2").mkdir()
    Image.open(photos / "a.png").save(photos / "a2" / "a.png")
    (photos / "bare.json").write_text('{"people": []}')
    (photos / "none.json").write_text("[]")
    assert run(*(arg.replace("PHOTOS", str(photos)) for arg in args)) == 2
    assert message in capsys.readouterr().err


def test_models_and_doctor(capsys, tmp_path):
    assert run("models", "--cache-dir", tmp_path) == 0
    text = capsys.readouterr().out
    for word in ("dwpose-l-384", "dwpose-s-synthetic", "yolox-l", "Apache-2.0", "COCO-WholeBody"):
        assert word in text
    assert run("doctor", "--cache-dir", tmp_path) in (0, 1)
    text = capsys.readouterr().out
    for word in ("torch", "opencv", "device", "cache"):
        assert word in text
    assert "dwpose-l-384 and yolox-l will be downloaded at first use" in text
    (tmp_path / "file").touch()
    assert run("doctor", "--cache-dir", tmp_path / "file") == 1
    assert f"! {tmp_path / 'file'} is a file, not a folder" in capsys.readouterr().out


def test_convert_and_export(tmp_path, weights, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    onnx = tmp_path / "debug.onnx"
    back = tmp_path / "back.safetensors"
    assert run("export", weights, onnx) == 0
    assert run("convert", onnx, back) == 0
    text = capsys.readouterr().out
    assert "differs from PyTorch by" in text
    assert "largest difference from" in text


def test_program_starts_and_helps():
    done = subprocess.run([sys.executable, "-m", "dwpose_core.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "examples:" in done.stdout
    done = subprocess.run([sys.executable, "-m", "dwpose_core.cli", "image"], capture_output=True, text=True)
    assert done.returncode == 2


def test_every_subcommand_has_examples():
    parser = build_parser()
    (commands,) = (action for action in parser._actions if hasattr(action, "choices") and action.choices)
    for name, sub in commands.choices.items():
        assert f"dwpose {name}" in sub.format_help(), name


def test_importing_the_package_loads_nothing():
    code = "import sys, dwpose_core; print([m for m in ('torch', 'cv2', 'PIL', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_with_a_frame_in_each_file_is_a_film(tmp_path, photos, weights, capsys):
    av = pytest.importorskip("av")
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu", "--json", "--draw-size", "64x64")
    for number in (2, 10, 9):
        assert run("image", photos / "a.png", "-o", tmp_path / "seq" / f"f_{number}.png", *flags) == 0
    film = tmp_path / "film.mp4"
    assert run("render", tmp_path / "seq", "-o", film, "--fps", "24") == 0
    with av.open(str(film)) as container:
        assert container.streams.video[0].average_rate == 24
        assert sum(1 for _ in container.decode(video=0)) == 3
    assert run("render", tmp_path / "seq", "-o", tmp_path / "maps", "--fps", "24") == 2
    assert "--fps is for films" in capsys.readouterr().err
    (tmp_path / "seq" / "f_9.npz").write_bytes(b"")
    assert run("render", tmp_path / "seq", "-o", tmp_path / "maps") == 2
    assert "holds f_9 as .json and as .npz" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["maps.v2", "maps.v2/"])
def test_a_folder_with_a_dot_in_its_name(tmp_path, out):
    """One that is there, or ends in a slash; and suffixes in capitals, as cameras and Windows write them."""
    if not out.endswith("/"):
        (tmp_path / out).mkdir()
    save_npz(tmp_path / "clip.npz", [People.empty((48, 64))] * 2)
    (tmp_path / "clip.npz").rename(tmp_path / "CLIP.NPZ")
    assert run("render", tmp_path / "CLIP.NPZ", "-o", f"{tmp_path}/{out}") == 0
    assert sorted(p.name for p in (tmp_path / "maps.v2").iterdir()) == ["000000.png", "000001.png"]


def test_scores_write_the_json_they_are_for(tmp_path, photos, weights):
    flags = ("--pose", weights, "--detector", "none", "--device", "cpu")
    assert run("image", photos / "a.png", "-o", tmp_path / "a.png", *flags, "--scores") == 0
    assert (tmp_path / "a.json").is_file()


@pytest.mark.parametrize(
    ("name", "data", "args", "message"),
    [
        ("k.jsonl.gz", gzip.compress(b"{}" * 99)[:-9], (), "k.jsonl.gz: the file is cut short or damaged"),
        ("k.jsonl", b"", ("-o", "film.mp4"), "-o must be a folder for the keypoints of an extraction"),
        ("k.jsonl", b"", ("--fps", "24"), "is not the folder of an extraction of videos"),
        ("k.json", b"[]", ("--feet", "--no-body"), "--feet are drawn with the body"),
    ],
)
def test_what_render_cannot_do_is_said(tmp_path, capsys, name, data, args, message):
    (tmp_path / name).write_bytes(data)
    out = () if "-o" in args else ("-o", tmp_path / "out")
    assert run("render", tmp_path / name, *out, *args) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
