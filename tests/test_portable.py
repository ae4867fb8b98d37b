"""Windows and Macs, as far as another system can play them."""

from __future__ import annotations

import io
import ntpath
import os
import re
import shutil
import sys
import time
import types
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import training
from dwpose_core import cli, commands, doctor, hub
from dwpose_core.clips import Rate
from dwpose_core.dataset import lists, names, storage
from dwpose_core.video import VideoReader, VideoWriter
from dwpose_core.video_cli import check_targets
from training import checkpoint, pictures
from training.data.wholebody import read_json

from .dataset_tools import extractor, make_photos, make_weights, picture

extract = pytest.fixture(extractor)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


@pytest.fixture
def no_open_file_is_deleted(monkeypatch):
    """Windows refuses to, and the folder stays."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("asks /proc")

    def remove(folder, *args, **options):
        links = (f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd"))
        opened = [os.readlink(link) for link in links if os.path.lexists(link)]
        held.extend(path for path in opened if path.startswith(f"{os.path.realpath(folder)}/"))
        rmtree(folder, *args, **options)

    held: list[str] = []
    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", remove)
    yield
    assert not held


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--overwrite",)])
def test_a_refused_plan_leaves_no_file_open(extract, photos, capsys, no_open_file_is_deleted, more):
    (photos.parent / "out" / "a").mkdir(parents=True)
    (photos.parent / "out" / "a" / "000.png").write_bytes(picture(1, "PNG"))
    assert extract(photos, *more, out=photos.parent / "out")[0] == 2
    assert "is there already and would be replaced" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["files", "webdataset", "parquet"])
def test_a_shard_that_is_given_up_leaves_no_file_open(extract, photos, no_open_file_is_deleted, capsys, layout):
    assert extract(photos, "--output-format", layout, "--max-failures", 0)[0] == 1
    assert "stopped after 1 failures" in capsys.readouterr().err
    assert extract(photos, "--output-format", layout)[0] == 1
    assert "12 of 14 " in capsys.readouterr().out


def test_what_macs_hide_beside_photographs_is_no_photograph(tmp_path, capsys):
    weights = make_weights(tmp_path / "debug.safetensors")
    for name in ("a.png", "__MACOSX/._a.png", "._a.png", ".thumbnails/a.png"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "photos" / name).write_bytes(picture(0, "PNG") if name == "a.png" else b"\0\5\x16\7")
    args = ("--pose", str(weights), "--detector", "none", "--device", "cpu")
    assert cli.main(["image", str(tmp_path / "photos"), "-o", str(tmp_path / "maps"), *args]) == 0
    assert "1 of 1 image" in capsys.readouterr().out


def test_names_that_the_console_cannot_show_are_no_error(tmp_path, monkeypatch):
    (tmp_path / "日本.png").write_bytes(picture(0, "PNG"))
    weights, out = make_weights(tmp_path / "debug.safetensors"), tmp_path / "地図.png"
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="cp1252", write_through=True))
    args = ("--pose", str(weights), "--detector", "none", "--device", "cpu")
    assert cli.main(["image", str(tmp_path / "日本.png"), "-o", str(out), *args]) == 0
    assert out.is_file() and rb"\u5730\u56f3.png" in shown.getvalue()


def test_a_mac_takes_names_in_capitals_for_the_same(tmp_path, monkeypatch):
    photo = tmp_path / "a.PNG"
    named = {photo: Path("a")}
    commands._output_paths(named, str(tmp_path), True, None, False)  # two files on Linux
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(ValueError, match="would replace the photograph"):
        commands._output_paths(named, str(tmp_path), True, None, False)
    with pytest.raises(ValueError, match="would both be written"):
        commands._output_paths({photo: Path("a"), tmp_path / "b" / "A.jpg": Path("A")}, "maps", True, None, False)
    with pytest.raises(ValueError, match="is the input"):
        check_targets("clip.MP4", "clip.mp4")


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_a_colon_in_the_name_of_a_film_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter("2024-05-01T12:30:45.mp4", Rate.of(10)) as film:
        for number in range(3):
            film.write(np.full((32, 32, 3), 40 * number, np.uint8), Fraction(number, 10))
    with VideoReader("2024-05-01T12:30:45.mp4") as film:
        assert len(list(film)) == 3


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ('who? "me" <1|2>*.', "who_ _me_ _1_2__"),
        ("aux/Con.v1/com1", "aux_/Con_.v1/com1_"),
        ("falcon/null/com12/auxiliary", "falcon/null/com12/auxiliary"),
        ("dots./space /. .", "dots/space/_"),
        (r"C:\photos\a", r"C_\photos\a"),  # os.sep is another one there
    ],
)
def test_keys_are_names_that_windows_can_store(monkeypatch, name, key):
    monkeypatch.setattr(names, "_WINDOWS", True)
    assert names.output_key(name) == key
    monkeypatch.setattr(names, "_WINDOWS", False)
    assert names.output_key(name) == name.replace(":", "_")


@pytest.mark.parametrize(("one_case", "keys"), [(False, ["a", "A"]), (True, ["a", "A_2"])])
def test_keys_that_are_one_file_where_capitals_do_not_count(monkeypatch, one_case, keys):
    monkeypatch.setattr(names, "_ONE_CASE", one_case)
    assert [item["key"] for item in names.unique(iter([{"key": "a"}, {"key": "A"}]))] == keys


def test_lists_lie_where_backslashes_say(monkeypatch):
    monkeypatch.setattr(lists, "os", types.SimpleNamespace(sep="\\", path=ntpath))
    assert lists.folder_of(r"data\list.txt") == "data"
    assert lists.folder_of("list.txt") == "."
    assert lists.folder_of("s3://bucket/list.txt") == "s3://bucket"
    assert lists._item(r"C:\photos\a.jpg", "D:/data")["path"] == r"C:\photos\a.jpg"
    assert lists._item("a.jpg", lists.folder_of(r"data\list.txt"))["path"] == "data/a.jpg"


def test_workflows_of_windows_name_weights_in_folders(comfy):
    file = comfy.home / "models" / "dwpose" / "sub" / "dw-mine.onnx"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    loader = comfy.nodes["DWPoseLoader"]
    assert loader.validate_inputs("sub\\dw-mine.onnx", "none") is True
    assert loader.validate_inputs("sub/dw-mine.onnx", "none") is True
    assert "no pose model" in loader.validate_inputs("other\\dw-mine.onnx", "none")


def test_checkpoints_are_written_where_folders_cannot_be_opened(tmp_path, monkeypatch):
    def opened(path, flags):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        modes[number := os.open(path, flags)] = flags
        return number

    def fsync(number):
        if modes[number] == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")

    modes: dict[int, int] = {}
    system = types.SimpleNamespace(**vars(os) | {"name": "nt", "open": opened, "fsync": fsync})
    monkeypatch.setattr(checkpoint, "os", system)
    checkpoint.write_json(tmp_path / "config.json", {"a": 1})
    assert read_json(tmp_path / "config.json") == {"a": 1} and modes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])  # the last two are PowerShell's
def test_json_of_any_program_is_read(tmp_path, encoding, monkeypatch):
    monkeypatch.setattr(Path, "read_text", None)  # which reads in the code page
    (tmp_path / "labels.json").write_text('{"name": "日本"}', encoding=encoding)
    assert read_json(tmp_path / "labels.json") == {"name": "日本"}
    with pytest.raises(ValueError, match="holds no"):
        hub._open(lambda name: tmp_path / "labels.json", ("pose",), None, "here")


def test_pictures_are_opened_by_python(tmp_path):
    """OpenCV opens no name outside of Windows' code page."""
    path = tmp_path / "日本.png"
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    assert pictures.imwrite(path, image)
    np.testing.assert_array_equal(pictures.imread(path), image)
    (tmp_path / "empty.png").write_bytes(b"")
    assert pictures.imread(tmp_path / "none.png") is None and pictures.imread(tmp_path / "empty.png") is None
    assert not pictures.imwrite(tmp_path / "none" / "a.png", image)
    for folder in (Path(training.__file__).parent, Path(cli.__file__).parent):
        for file in folder.rglob("*.py"):
            assert not re.search(r"cv2\.im(read|write)\(", file.read_text(encoding="utf-8")), file


def test_the_doctor_knows_the_onnxruntime_of_windows(monkeypatch):
    installed = {"onnxruntime-directml": "1.20"}
    monkeypatch.setattr(doctor, "_version", installed.get)
    monkeypatch.setitem(
        sys.modules,
        "onnxruntime",
        types.SimpleNamespace(__version__="1.20", get_available_providers=lambda: ["CPUExecutionProvider"]),
    )
    assert doctor._onnxruntime([]) == "1.20 (onnxruntime-directml), providers: cpu"


def test_the_doctor_survives_an_onnxruntime_that_does_not_start(monkeypatch):
    monkeypatch.setattr(doctor, "_version", {"onnxruntime": "1.20"}.get)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    problems: list[str] = []
    assert doctor._onnxruntime(problems) == "1.20 (onnxruntime), cannot be imported"
    assert "install onnxruntime again" in problems[0]


def test_without_proc_who_works_in_a_folder_is_known_by_what_it_touches(tmp_path, monkeypatch):
    """A run of hours stays known, one that was killed is in nobody's way after some minutes."""
    monkeypatch.setattr(storage, "_started", lambda pid: "")
    monkeypatch.setattr(storage, "_BEAT", 0.01)
    folder = storage.Storage(tmp_path)
    with folder.claim("run0of1"):
        (marker,) = (tmp_path / "_dwpose" / "tmp").iterdir()
        os.utime(marker, (0, 0))
        end = time.monotonic() + 20
        while not storage._in_use(str(marker)):
            assert time.monotonic() < end, "nobody touches the marker"
            time.sleep(0.01)
    left = folder.scratch("run0of1")
    for age, used in ((100, True), (200, False)):
        os.utime(left, (time.time() - age,) * 2)
        assert storage._in_use(str(left)) == used
    elsewhere = left.rename(left.with_name(left.name.rpartition("-")[0] + "-elsewhere"))
    for age, used in ((200, True), (4000, False)):
        os.utime(elsewhere, (time.time() - age,) * 2)
        assert storage._in_use(str(elsewhere)) == used
