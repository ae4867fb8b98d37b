"""`dwpose extract` never replaces or deletes what it did not make, and wrong options cost nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dwpose_core.cli import main
from dwpose_core.dataset.extract import Machine
from dwpose_core.dataset.plan import Config
from dwpose_core.dataset.run import run
from dwpose_core.dataset.storage import Storage

from .dataset_tools import extractor, make_photos, make_weights, picture, reports, tree, write_tar

extract = pytest.fixture(extractor)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def test_a_finished_run_does_nothing_again_and_overwrite_starts_over(extract, photos, monkeypatch):
    _, out = extract(photos)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    (photos / "a" / "new.jpg").write_bytes(picture(99))
    (out / "mine.txt").write_text("not from the extraction")
    assert extract(photos)[0] == 1
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == before
    extract(photos, "--overwrite")
    assert (out / "a" / "new.png").is_file()
    assert (out / "mine.txt").is_file()


def test_other_options_are_refused_for_a_run_that_was_begun(extract, photos, capsys):
    extract(photos)
    assert extract(photos, "--threshold", "0.5")[0] == 2
    told = capsys.readouterr().err
    assert "other options (keypoint_threshold: 0.3 before, 0.5 now; threshold: 0.3 before, 0.5 now)" in told


def test_a_run_from_before_an_option_existed_is_continued(extract, photos):
    _, out = extract(photos, "--samples-per-shard", 5)
    config = out / "_dwpose" / "config.json"
    began = json.loads(config.read_text())
    assert began["options"].pop("detector_size", "absent") is None
    config.write_text(json.dumps(began))
    assert extract(photos, "--samples-per-shard", 5)[0] == 1  # two photographs are broken
    assert extract(photos, "--samples-per-shard", 5, "--detector-size", 640)[0] == 2  # another option all the same


def test_other_networks_than_those_of_the_finished_shards_are_refused(extract, photos, capsys):
    _, out = extract(photos, "--samples-per-shard", 5)
    stats = out / "_dwpose" / "shards" / "00000_stats.json"
    stats.write_text(stats.read_text().replace("debug (torch", "dwpose-l (torch"))
    (out / "_dwpose" / "shards" / "00001_stats.json").unlink()
    assert extract(photos, "--samples-per-shard", 5)[0] == 2
    assert "begun with dwpose-l" in capsys.readouterr().err


@pytest.mark.parametrize("layout", ["files", "imagefolder"])
@pytest.mark.parametrize("command", [(), ("--overwrite",), ("--dry-run",)])
def test_photographs_are_not_replaced_by_their_maps(extract, photos, capsys, layout, command):
    (photos / "a" / "000.png").write_bytes(picture(0, "PNG"))
    before = tree(photos)
    code, _ = extract(photos, "--output-format", layout, *command, out=photos)
    assert code == 2
    assert "--out is SOURCE itself" in capsys.readouterr().err
    assert tree(photos) == before


@pytest.mark.parametrize("command", [(), ("--overwrite",), ("--dry-run",)])
@pytest.mark.parametrize(
    "options",
    [
        (lambda p: p / "*.png", p_out := (lambda p: p), ()),
        (lambda p: p / "l.txt", p_out, ()),
        (lambda p: p / "one.jpg", p_out, ()),  # one.png is not even an input, and would be lost
        (lambda p: p / "one.png", p_out, ("--limit", 1)),
        (lambda p: p / "images", p_out, ("--output-format", "imagefolder")),
        (lambda p: p / "metadata.jsonl", p_out, ("--output-format", "imagefolder")),
        (lambda p: p / "0*.tar", p_out, ("--output-format", "webdataset")),
        (lambda p: p / "*.png", lambda p: p.parent / "link", ()),
    ],
)
def test_nothing_that_is_there_is_replaced(extract, tmp_path, capsys, options, command):
    source, target, more = options
    folder = tmp_path / "in"
    (folder / "images").mkdir(parents=True)
    for name in ("one.png", "two.png", "images/three.jpg", "one.jpg"):
        (folder / name).write_bytes(picture(1, "PNG" if name.endswith("png") else "JPEG"))
    (folder / "l.txt").write_text("one.png\n")
    (folder / "metadata.jsonl").write_text('{"file_name": "one.png"}')
    write_tar(folder / "00000.tar", {"x.jpg": picture(2)})
    (tmp_path / "link").symlink_to(folder)
    before = tree(folder)
    code, _ = extract(source(folder), *more, *command, out=target(folder))
    assert code == 2
    assert "is there already and would be replaced" in capsys.readouterr().err
    assert tree(folder) == before


def test_inputs_are_looked_at_again_when_a_shard_is_stored(extract, photos, monkeypatch, capsys):
    """A list may name a file that only appears, or is turned into a link, while the networks are at work."""
    from dwpose_core.dataset import guard

    monkeypatch.setattr(guard, "check_free", lambda *_: None)
    listed = photos / "list.txt"
    listed.write_text("a/000.jpg\nb/c/001.png\n")
    before = tree(photos)
    assert extract(listed, "--keypoints", "--samples-per-shard", 1, out=photos)[0] == 2
    assert "is an input of this run" in capsys.readouterr().err
    after = tree(photos)
    assert {name: after[name] for name in before} == before
    assert (photos / "a" / "000.png").is_file()  # the first shard harmed nobody


def test_overwrite_deletes_only_what_is_still_as_it_was_written(extract, photos, capsys):
    _, out = extract(photos)
    mine = out / "a" / "000.png"
    mine.write_bytes(b"painted over by hand")
    before = tree(out)
    assert extract(photos, "--overwrite")[0] == 2
    assert f"{mine} is there already" in capsys.readouterr().err
    assert tree(out) == before
    mine.unlink()
    assert extract(photos, "--overwrite")[0] == 1
    # maps of an earlier run that are the inputs of the next one
    assert extract(out / "a" / "*.png", "--overwrite", out="out/a")[0] == 2
    maps = tree(out)
    assert extract(out, "--overwrite", "--output-format", "webdataset")[0] == 2
    assert "is an input of this run" in capsys.readouterr().err
    assert tree(out) == maps


@pytest.mark.parametrize("wrong", ["weights", "source", "options"])
def test_a_wrong_command_with_overwrite_deletes_nothing(extract, photos, tmp_path, wrong, capsys):
    _, out = extract(photos)
    before = tree(out)
    (tmp_path / "empty").mkdir()
    if wrong == "weights":
        code, _ = extract(photos, "--overwrite", pose=tmp_path / "no-such.safetensors")
    else:
        code, _ = extract(*((tmp_path / "empty",) if wrong == "source" else (photos, "--batch-size", 0)), "--overwrite")
    assert code == 2
    assert tree(out) == before
    assert extract(photos)[0] == 1 and tree(out) == before


@pytest.mark.slow
def test_networks_that_do_not_load_on_their_devices_delete_nothing(extract, photos, tmp_path, capsys):
    _, out = extract(photos)
    before = tree(out)
    code, _ = extract(photos, "--overwrite", "--devices", "cpu,cpu", pose=tmp_path / "no-such.safetensors")
    assert code == 2
    assert "no-such" in capsys.readouterr().err
    assert tree(out) == before


def test_overwrite_that_is_killed_while_it_deletes_can_be_continued_or_repeated(extract, photos, monkeypatch):
    options = ("--samples-per-shard", 5)
    _, out = extract(photos, *options)
    expected = tree(out)
    for left in (3, 12, 16, 17, 20):
        calls = iter(range(left))
        real = Storage.delete

        def killed(self, name, calls=calls, real=real):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            real(self, name)

        monkeypatch.setattr(Storage, "delete", killed)
        assert extract(photos, "--overwrite", "--threshold", 0.5, *options)[0] == 130
        monkeypatch.undo()
        code, _ = extract(photos, *options)
        assert code == 1 and tree(out) == expected, left


def test_overwrite_is_not_for_several_ranks(extract, photos, capsys, monkeypatch):
    _, out = extract(photos)
    before = tree(out)
    assert extract(photos, "--overwrite", "--rank", 0, "--world-size", 2)[0] == 2
    assert f"remove {out} before the ranks start" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert extract(photos, "--overwrite")[0] == 2
    assert tree(out) == before


def test_a_first_try_with_wrong_options_does_not_claim_the_folder(extract, photos, tmp_path):
    code, out = extract(photos, pose=tmp_path / "no-such.safetensors")
    assert code == 2 and not (out / "_dwpose").exists()
    # stopped before its first shard was finished
    assert extract(photos, "--max-failures", 0)[0] == 1
    assert extract(photos, "--threshold", 0.2, "--samples-per-shard", 5)[0] == 1
    assert len(reports(out)) == 14
    assert extract(photos, "--threshold", 0.4, "--samples-per-shard", 5)[0] == 2


def test_runs_of_another_version_are_refused_unless_they_are_finished(extract, photos, capsys):
    _, out = extract(photos, "--samples-per-shard", 5)
    plan = out / "_dwpose" / "plan.json"
    about = json.loads(plan.read_text())
    del about["format"], about["numbered"], about["left_out"]  # as the first version wrote it
    plan.write_text(json.dumps(about))
    assert extract(photos, "--samples-per-shard", 5)[0] == 1
    stats = out / "_dwpose" / "shards" / "00001_stats.json"
    stats.unlink()
    assert extract(photos, "--samples-per-shard", 5)[0] == 2
    assert "begun by another version" in capsys.readouterr().err
    for file in stats.parent.iterdir():
        file.unlink()
    assert extract(photos, "--samples-per-shard", 5)[0] == 2  # its maps are there, and nobody knows whose they are
    plan.unlink()
    (out / "_dwpose" / "config.json").unlink()
    stats.write_text("{}")
    assert extract(photos, "--samples-per-shard", 5)[0] == 2
    assert "without the plan they belong to" in capsys.readouterr().err


def other_process(tmp_path: Path, code: str) -> subprocess.Popen:
    script = f"import sys, time; sys.path.insert(0, {os.getcwd()!r})\n{code}"
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_scratch_of_the_living_stays_and_that_of_the_dead_goes(extract, photos, tmp_path, capsys):
    code, out = extract(photos)
    code = f"""
from dwpose_core.dataset.storage import Storage
storage = Storage({str(out)!r})
with storage.claim("run0of1"):
    print(storage.scratch("00000"), flush=True)
    time.sleep(60)
"""
    process = other_process(tmp_path, code)
    try:
        scratch = Path(process.stdout.readline().strip())
        Storage(out).clear_scratch({"00000", "run0of1"})
        assert scratch.is_dir()
        assert extract(photos)[0] == 2
        assert f"process {process.pid} on " in capsys.readouterr().err
        assert extract(photos, "--overwrite")[0] == 2
        assert extract(photos, "--rank", 1, "--world-size", 2)[0] == 0  # another rank is no matter
        assert extract(photos, "--rank", 0, "--world-size", 2)[0] == 1
        assert scratch.is_dir()
    finally:
        process.kill()
    # dead, but its parent has not asked how it ended: still listed in /proc
    time.sleep(0.2)
    assert extract(photos)[0] == 1
    assert not list((out / "_dwpose" / "tmp").iterdir())
    process.wait()
    # of other hosts only the age is known
    theirs = out / "_dwpose" / "tmp" / "00000-12345678-77-99-elsewhere"
    theirs.mkdir()
    extract(photos)
    assert theirs.is_dir()
    assert extract(photos, "--overwrite")[0] == 2
    os.utime(theirs, (0, 0))
    extract(photos)
    assert not theirs.exists()


def children(pid: int) -> set[int]:
    """All processes below one."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_workers_of_several_devices_die_with_their_parent(tmp_path):
    photos = make_photos(tmp_path / "photos", 60, broken=False)
    weights = make_weights(tmp_path / "debug.safetensors")
    config = Config(
        str(photos), str(tmp_path / "out"), "folder", samples_per_shard=30, pose=str(weights), detector=None
    )  # fmt: skip
    code = f"""
import json
from dwpose_core.dataset.extract import Machine
from dwpose_core.dataset.plan import Config
from dwpose_core.dataset.run import run
if __name__ == "__main__":
    config = Config(**json.loads({json.dumps(config.to_json())!r}))
    run(config, Machine("cpu", decoders=1, streams=1), devices=["cpu", "cpu"], log="none")
"""
    (tmp_path / "go.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    process = subprocess.Popen([sys.executable, str(tmp_path / "go.py")], env=environment)
    shards = tmp_path / "out" / "_dwpose" / "tmp"
    begun: list = []
    deadline = time.monotonic() + 120
    while not begun and time.monotonic() < deadline:
        time.sleep(0.02)
        begun = [name for name in (os.listdir(shards) if shards.exists() else []) if name.startswith("0000")]
    family = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert begun and len(family) >= 2
    deadline = time.monotonic() + 20
    while any(map(alive, family)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [pid for pid in family if alive(pid)]
    summary = run(config, Machine("cpu", decoders=0, streams=1), log="none")
    assert (summary.ok, summary.done) == (60, 2)
    assert not list(shards.iterdir())


def test_a_dict_of_splits_names_them(extract, tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    splits = {name: datasets.Dataset.from_dict({"image": [picture(0)]}) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert extract(tmp_path / "saved")[0] == 2
    assert f"give one: {tmp_path / 'saved'}/train, {tmp_path / 'saved'}/test" in capsys.readouterr().err


def test_a_file_and_a_folder_of_one_name_are_refused_before_the_work(extract, tmp_path, capsys):
    (tmp_path / "in" / "a.png").mkdir(parents=True)
    for name in ("in/a.jpg", "in/a.png/b.jpg"):
        (tmp_path / name).write_bytes(picture(0))
    code, out = extract(tmp_path / "in")
    assert code == 2
    assert "a.png would be a file and a folder" in capsys.readouterr().err
    assert not (out / "_dwpose").exists()
    assert extract(tmp_path / "in", "--map-format", "webp")[0] == 0


def test_of_two_runs_that_begin_together_none_overlooks_the_other(extract, photos, monkeypatch):
    seen = []
    real = Storage.users

    def users(self):
        seen.append([name.split("-")[0] for name in self.names("_dwpose/tmp")])
        return real(self)

    monkeypatch.setattr(Storage, "users", users)
    assert extract(photos)[0] == 1
    assert "run0of1" in seen[0]  # looks around once others can see it


def test_names_that_are_not_given_are_not_this_folder(extract, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    assert extract("", "--input-format", "folder")[0] == 2
    assert "SOURCE is empty" in capsys.readouterr().err
    assert main(["extract", str(photos), "--out", ""]) == 2
    assert "--out is empty" in capsys.readouterr().err
