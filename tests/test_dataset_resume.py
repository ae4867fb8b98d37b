"""Runs killed at random moments and continued: nothing lost, nothing doubled, the same bytes as without the kills; and
what a run knows of the files that a killed one wrote.

DWPOSE_KILLS sets the number of kills (50 for a thorough check; the default keeps the suite short).
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

from dwpose_core.cli import main
from dwpose_core.dataset.storage import Storage

from .dataset_tools import extractor, make_photos, make_weights, picture, tree

KILLS = int(os.environ.get("DWPOSE_KILLS", "2"))

extract = pytest.fixture(extractor)


@pytest.fixture
def photos(tmp_path):
    return make_photos(tmp_path / "photos")


def _run(arguments: list[str], started) -> None:
    import torch

    from dwpose_core import preprocessor  # noqa: F401 before the clock starts

    torch.set_num_threads(1)
    started.set()
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        code = main(arguments)
    os._exit(code)


def power_cut(out: Path, rng: random.Random) -> None:
    """What a power cut adds to a kill: files that were still being written are cut somewhere, or empty."""
    for file in (out / "_dwpose" / "tmp").rglob("*") if out.exists() else []:
        if file.is_file() and rng.random() < 0.7:
            os.truncate(file, rng.randrange(file.stat().st_size + 1))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="kills processes of a fork server")
@pytest.mark.parametrize("output_format", ["files", "webdataset"] if KILLS > 10 else ["files"])
def test_killed_and_continued_is_the_same_as_never_killed(tmp_path, output_format):
    rng = random.Random(output_format)
    photos = make_photos(tmp_path / "photos", count=36)
    weights = make_weights(tmp_path / "debug.safetensors")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["dwpose_core.preprocessor", "dwpose_core.dataset.extract", "dwpose_core.dataset.run"]
    )

    def start(out: Path):
        arguments = [
            "extract", str(photos), "--out", str(out), "--pose", str(weights), "--detector", "none", "--device", "cpu",
            "--decoders", "0", "--log", "none", "--samples-per-shard", "4", "--batch-size", "2",
            "--output-format", output_format, "--keypoints", "jsonl", "npz",
        ]  # fmt: skip
        started = context.Event()
        process = context.Process(target=_run, args=(arguments, started))
        process.start()
        assert started.wait(120)
        return process

    whole = start(tmp_path / "whole")
    begin = time.perf_counter()
    whole.join()
    seconds = time.perf_counter() - begin
    assert whole.exitcode == 1  # two broken pictures
    expected = tree(tmp_path / "whole", without=("config.json",))

    kills, round_number, shards_at_kill = 0, 0, set()
    while kills < KILLS:
        out = tmp_path / f"round{round_number}"
        round_number += 1
        while True:
            process = start(out)
            process.join(rng.uniform(0.1, 0.8) * seconds if kills < KILLS else None)
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
                shards_at_kill.add(len(list((out / "_dwpose" / "shards").glob("*_stats.json"))))
                power_cut(out, rng)
            else:
                assert process.exitcode == 1
                break
        assert tree(out, without=("config.json",)) == expected
        rows = [
            json.loads(line)
            for file in sorted((out / "_dwpose" / "shards").glob("*_report.jsonl"))
            for line in file.read_text().splitlines()
        ]
        assert len(rows) == len({row["key"] for row in rows}) == 38
        assert not list((out / "_dwpose" / "tmp").iterdir())
    print(f"{kills} kills in {round_number} runs, with {sorted(shards_at_kill)} of 10 shards finished")


@pytest.mark.parametrize("again", [(), ("--retry-failed",)])
def test_a_run_stopped_while_it_stores_a_shard_knows_what_it_wrote(extract, photos, monkeypatch, capsys, again):
    if again:
        extract(photos)
        (photos / "a" / "004x.jpg").write_bytes(picture(4))
        (photos / "b" / "empty.png").write_bytes(picture(5, "PNG"))
    real = Storage.put

    def killed(self, files):
        if any(name.endswith("_report.jsonl") for name in files):
            real(self, dict(list(files.items())[:4]))
            raise KeyboardInterrupt
        real(self, files)

    monkeypatch.setattr(Storage, "put", killed)
    code, out = extract(photos, *again)
    assert code == 130
    monkeypatch.undo()
    assert extract(photos, "--threshold", 0.4)[0] == 2  # the folder would hold a mixture
    assert "was begun with other options" in capsys.readouterr().err
    assert main(["stats", str(out)]) == 0
    assert "14, of which 0 ok, 0 failed, 14 to do" in capsys.readouterr().out
    assert extract(photos)[0] == (0 if again else 1)
    finished = tree(out, without=("stats.html",))
    monkeypatch.setattr(Storage, "put", killed)
    assert extract(photos, "--overwrite")[0] == 130
    monkeypatch.undo()
    assert extract(photos, "--overwrite")[0] == (0 if again else 1)
    assert tree(out) == finished


def test_a_damaged_record_is_named_and_mended(extract, photos, capsys):
    _, out = extract(photos)
    before = tree(out)
    record = out / "_dwpose" / "shards" / "00000_stats.json"
    record.write_bytes(record.read_bytes()[:50])
    assert main(["stats", str(out)]) == 0
    assert "0 ok, 0 failed, 14 to do" in capsys.readouterr().out
    assert extract(photos, "--overwrite")[0] == 2
    assert f"as {record} is damaged" in capsys.readouterr().err
    assert extract(photos)[0] == 1 and tree(out, without=("stats.html",)) == before  # as the message says
    plan = out / "_dwpose" / "plan.json"
    plan.write_bytes(plan.read_bytes()[:20])
    assert main(["stats", str(out)]) == 2
    assert f"{plan} is damaged" in capsys.readouterr().err
