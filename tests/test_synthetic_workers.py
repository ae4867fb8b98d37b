"""Worker processes: what they return, and what happens when one can't start, dies or loses its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from training import checkpoint
from training.synthetic import generate, pool, workers
from training.synthetic.workers import Workers


def test_a_worker_that_cannot_start_says_why():
    with pytest.raises(FileNotFoundError, match="nowhere"), Workers(1, open, ("nowhere.txt",)) as pool:
        list(pool.imap(print, [1, 2]))


def _die_once(task: tuple[Path, int]) -> int:
    """Ends its process at the first 3 that it is given."""
    marker, number = task
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGSEGV)
    return number


def _die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _say_who(number: int) -> int:
    time.sleep(number)
    return os.getpid()


@pytest.mark.parametrize(("method", "chunksize"), [("imap", 1), ("imap", 3), ("imap_unordered", 2)])
def test_a_worker_that_dies_costs_no_result(tmp_path, method, chunksize):
    tasks = [(tmp_path / "died", number) for number in range(20)]
    with Workers(2, len, ("",)) as pool, pytest.warns(RuntimeWarning, match="done again"):
        assert sorted(getattr(pool, method)(_die_once, tasks, chunksize)) == list(range(20))


def test_workers_that_die_and_die_again_are_an_error():
    with (
        Workers(2, len, ("",)) as pool,
        pytest.warns(RuntimeWarning),
        pytest.raises(RuntimeError, match="died 3 times in a row, at 3 "),
    ):
        list(pool.imap(_die, range(3, 9)))


def test_workers_begin_before_they_are_asked_and_no_sooner_than_there_is_room():
    taken = []
    tasks = (taken.append(number) or number for number in range(100))
    with Workers(1, len, ("",)) as pool:
        results = pool.imap(abs, tasks, ahead=5)
        assert taken == [0, 1, 2, 3, 4]
        assert next(results) == 0 and next(results) == 1
        assert len(taken) == 6


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="asks /proc who is alive")
def test_nobody_outlives_a_parent_that_is_killed(tmp_path):
    code = (
        "from training.synthetic.workers import Workers\n"
        "from tests.test_synthetic_workers import _say_who\n"
        "if __name__ == '__main__':\n"
        "    results = Workers(1, len, ('',)).imap(_say_who, [0, 600])\n"
        "    print(next(results), flush=True); next(results)\n"
    )
    (script := tmp_path / "parent.py").write_text(code)
    root = Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(root)}
    )
    worker = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while _is_alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(worker)


def _is_alive(process: int) -> bool:
    """Whether it runs; one that ended and that nobody has asked about is none."""
    status = Path(f"/proc/{process}/stat")
    return status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def _make_one(numbers: range) -> range:
    return numbers


def test_labels_are_there_when_their_pool_is_complete_and_not_before(tmp_path, monkeypatch):
    """Made again and killed, it would have the earlier labels with pictures that are partly new."""
    picture, labels = tmp_path / "train.npy", tmp_path / "train.npz"

    def made() -> None:
        pool.fill_pool(picture, 2, (4, 4), 1, len, ("",), _make_one)

    save = np.savez

    def cut_short(file, **arrays):
        save(file, **arrays)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "fill_pictures", lambda *_: workers.fill_pictures(*_) and [((0,), (1,))])
    made()
    assert np.load(labels)["visible"].tolist() == [1]
    monkeypatch.setattr(pool, "save_arrays", lambda path, arrays: checkpoint.save_arrays(path, arrays, cut_short))
    with pytest.raises(KeyboardInterrupt):
        made()
    assert not labels.exists()


def test_layers_that_are_drawn_again_have_no_labels_before_the_end(tmp_path, monkeypatch):
    """Those of an earlier, smaller size would be taken for theirs."""
    (tmp_path / "labels_0003.npz").write_bytes(b"earlier")

    class Killed:
        def __init__(self, *_):
            raise KeyboardInterrupt

    monkeypatch.setattr(generate, "Workers", Killed)
    monkeypatch.setattr(generate, "check_assets", len)
    monkeypatch.setattr(generate, "check_opengl", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        generate.generate("assets", tmp_path, people=1, seed=3, workers=1, size=(16, 16))
    assert not list(tmp_path.iterdir())
