"""The one command that makes the models in the box again: its parts, their order, and what a stop leaves."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open

from dwpose_core.models import create_model
from dwpose_core.models.rtmcc import VARIANTS
from dwpose_core.models.weights import load_detector, load_pose, save_safetensors
from training import bundled, soup
from training.bundled import build, clear, command_of, main
from training.bundled_parts import MODELS, PARTS, Part, needs, parts_of
from training.detection.start import DetectorConfig, create
from training.starter_weights import as_trained, save


def filled(net, value: float):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    return net


@pytest.fixture
def poses(tmp_path):
    """Files of dwpose-nano whose weights are all 1 and all 4; the scores of the second were scaled by 2 since."""
    save(filled(create_model("dwpose-nano"), 1.0), tmp_path / "one.safetensors")
    net = filled(create_model("dwpose-nano"), 4.0)
    with torch.no_grad():
        net.head.cls_x.weight *= 2
        net.head.cls_y.weight *= 2
    save(net, tmp_path / "four.safetensors", 2.0)
    return tmp_path


def words(name: str, budget: float = 1.0, device: str = "cuda", cores: int = 16) -> list[str]:
    return command_of(name, "ASSETS", budget, device, cores)


def option(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


@pytest.mark.parametrize("model", MODELS)
def test_no_part_comes_before_what_it_needs(model):
    order = parts_of([model])
    assert order[-1] == MODELS[model][0] and len(order) == len(set(order))
    for at, name in enumerate(order):
        assert set(needs(name)) <= set(order[:at])


def test_every_part_is_of_use():
    assert set(parts_of(list(MODELS))) == set(PARTS)


@pytest.mark.parametrize("module", sorted({part.module for part in PARTS.values()}))
def test_commands_have_no_option_that_their_module_lacks(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(f"training.{module}").main()
    known = set(capsys.readouterr().out.replace(",", " ").split())
    for name, part in PARTS.items():
        if part.module == module:
            assert {word for word in words(name) if word.startswith("--")} <= known, name


def test_files_that_commands_name_are_written_by_earlier_ones():
    """What a module leaves in its folder, by its documentation: its network, and what the next part may go on from."""
    for name, part in PARTS.items():
        for word in part.command.split():
            if "/" in word:
                folder, file = word.split("/")
                maker = PARTS[folder].command
                asked = [file.removesuffix(".safetensors"), "pool", "objects", "held_out"]
                if file == "trained.safetensors":
                    assert maker.startswith("starter")
                elif file == "last.pt":
                    assert maker.startswith("train_detector")
                elif file.endswith(".safetensors"):
                    assert asked[0] in maker.split(), (name, word)
                else:
                    assert file in asked and maker.startswith(("starter", "train_detector")), (name, word)


def test_a_budget_scales_work_and_nothing_else():
    whole, tenth = words("s-10"), words("s-10", 0.1)
    changed = {before: after for before, after in zip(whole, tenth, strict=True) if before != after}
    assert changed == {"8.7": "0.87", "60000": "6000", "4000": "400", "1000": "100"}
    assert option(tenth, "--scenes") == "0.35"  # a share there, and a number here
    assert option(words("d-1", 0.1), "--scenes") == "1300"
    assert option(words("d-2", 0.1), "--held-out") == "d-1/held_out"
    assert option(words("t-2", 0.5), "--length") == "0.2075"


def test_a_tiny_budget_still_fills_a_batch_and_never_exceeds_the_recipe():
    for name in PARTS:
        for before, after in zip(words(name), words(name, 1e-6), strict=True):
            if before != after:
                assert 0 < float(after) < float(before)
    assert option(words("s-2", 1e-6), "--crops") == str(bundled.LEAST_CROPS)


def test_parts_of_a_gpu_fit_other_machines():
    on_cpu = words("s-14", device="cpu", cores=2)
    assert [option(on_cpu, flag) for flag in ("--device", "--workers", "--batch")] == ["cpu", "1", "24"]
    assert option(words("s-14"), "--device") == "cuda" and option(words("s-14"), "--batch") == "1024"
    assert option(words("d-1"), "--device") == "cpu"  # two processes: part of its recipe, with or without a GPU
    assert option(words("d-2", cores=2), "--workers") == "1"


@pytest.mark.parametrize("model", MODELS)
def test_cards_name_the_command_and_its_parts(model):
    """All of the model's own; those of another model, and means, may be left to that one's card."""
    card = (bundled.REPOSITORY / "dwpose_core" / "bundled" / f"{model}.md").read_text()
    assert f"python -m training.bundled {model} --assets" in card
    last = MODELS[model][0]
    for name in parts_of([model]):
        if re.fullmatch(rf"{last}-\d+[ab]?", name):
            assert re.search(rf"\b{name}\b", card), name


@pytest.fixture
def recipe(monkeypatch, poses):
    """A model of two means, which take seconds, from the files of `poses`; and the folder they go to."""
    out = poses / "out"
    monkeypatch.setattr(bundled, "check_assets", lambda folder: None)
    monkeypatch.setitem(MODELS, "small", ("second", "dwpose-nano.safetensors"))
    one, four = (shlex.quote(str(poses / f"{name}.safetensors")) for name in ("one", "four"))
    nano = "--network dwpose-nano"
    monkeypatch.setattr(bundled, "parts_of", lambda models: ["first", "second"])
    for name, text in (
        ("first", f"soup {one} {four} --weights 2 1 {nano}"),  # 2
        ("second", f"soup first/dwpose-nano.safetensors {four} {nano}"),  # 3
    ):
        monkeypatch.setitem(PARTS, name, Part(text))
    return out


def test_from_the_first_part_to_the_file(recipe, capfd):
    arguments = ["small", "--assets", "assets", "--out", str(recipe)]
    main(arguments)
    assert load_pose(recipe / "small.safetensors").head.cls_x.weight.unique().tolist() == [3.0]
    assert "[2/2] python -m training.soup first/" in capfd.readouterr().out
    done = json.loads((recipe / "parts.json").read_text())
    assert list(done) == ["first", "second"] and done["first"]["budget"] == 1.0
    (recipe / "first" / "dwpose-nano.safetensors").unlink()  # what is done is not done again
    main(arguments)
    assert "[1/2]" not in capfd.readouterr().out and not (recipe / "first" / "dwpose-nano.safetensors").exists()
    with pytest.raises(ValueError, match=r"begun with --budget 1.0; choose another --out"):
        main([*arguments, "--budget", "0.5"])


def test_a_part_that_fails_is_begun_again(recipe, poses, capfd):
    (poses / "four.safetensors").rename(poses / "later.safetensors")
    with pytest.raises(ValueError, match="part first ended with status 2; mend what it says above"):
        build(["small"], poses, recipe, 1.0, "cpu", keep=False)
    assert "four.safetensors is no file" in capfd.readouterr().err
    (poses / "later.safetensors").rename(poses / "four.safetensors")
    build(["small"], poses, recipe, 1.0, "cpu", keep=False)
    assert (recipe / "small.safetensors").is_file()


def test_a_part_ends_with_the_command_that_is_asked_to_stop(tmp_path):
    code = "from training.bundled import run_part; import pathlib, sys; run_part('x', sys.argv[2:], pathlib.Path())"
    sleep = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    paths = os.environ | {"PYTHONPATH": str(bundled.REPOSITORY)}
    asked = [sys.executable, "-c", code, "-", "timeit", "-n", "1", "-r", "1", sleep]
    with subprocess.Popen(asked, cwd=tmp_path, env=paths, stdout=subprocess.PIPE, text=True) as running:
        part = int(running.stdout.readline())
        running.send_signal(signal.SIGTERM)
        assert running.wait() == 143
    with pytest.raises(ProcessLookupError):
        os.kill(part, 0)


def test_pictures_go_unless_parts_to_come_name_them(tmp_path):
    """Of every model: one that is asked for later needs them, too."""
    for folder in ("s-13/pool", "s-13/layers", "d-1/pool", "d-1/objects", "d-1/held_out"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "d-1" / "last.pt").write_bytes(b"weights")

    def left() -> list[str]:
        return sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*"))

    clear(tmp_path, [*parts_of(["dwpose-t-synthetic"]), "d-1"])
    assert left() == ["d-1/held_out", "d-1/last.pt", "d-1/objects", "s-13/pool"]
    clear(tmp_path, PARTS)
    assert left() == ["d-1/last.pt"]


def test_a_gpu_is_not_replaced_silently(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(bundled, "check_assets", lambda folder: None)
    with pytest.raises(ValueError, match=r"parts were made on a GPU \(s-1, .*--device cpu takes CPUs"):
        main(["dwpose-s-synthetic", "--assets", "assets", "--out", str(tmp_path)])
    main(["dwpose-s-synthetic", "--assets", "assets", "--out", str(tmp_path / "new"), "--list"])
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(parts_of(["dwpose-s-synthetic"])) and all("--out" in line for line in listed)
    assert not (tmp_path / "new").exists()


def test_a_soup_counts_files_and_forgets_the_scaling_of_scores(poses):
    soup.main([*(str(poses / f"{name}.safetensors") for name in ("one", "four")), "--weights", "1", "2",
               "--network", "dwpose-nano", "--out", str(poses / "mean")])  # fmt: skip
    net = as_trained(poses / "mean" / "dwpose-nano.safetensors")
    assert {value for p in net.parameters() for value in p.unique().tolist()} == {3.0}
    with safe_open(poses / "mean" / "dwpose-nano.safetensors", "pt") as file:
        assert file.metadata()["score_factor"] == "1.0"


def test_a_soup_of_a_network_and_what_it_grew_from(tmp_path):
    torch.manual_seed(0)
    save(create_model("dwpose-t"), tmp_path / "t.safetensors")
    save(create_model("dwpose-s"), tmp_path / "s.safetensors")
    mean = soup.mean_pose([tmp_path / "t.safetensors", tmp_path / "s.safetensors"], "dwpose-s")
    assert mean.config == VARIANTS["dwpose-s"]
    with pytest.raises(ValueError, match="networks only grow"):
        soup.mean_pose([tmp_path / "s.safetensors"], "dwpose-t")


def test_a_soup_of_detectors_has_the_side_asked_for(tmp_path):
    for value in (1.0, 3.0):
        net = create(DetectorConfig(network="yolox-nano", side=64 * int(value)))
        save_safetensors(filled(net, value), tmp_path / f"{value:.0f}.safetensors")
    files = [str(tmp_path / f"{value}.safetensors") for value in (1, 3)]
    soup.main([*files, "--network", "yolox-nano", "--side", "96", "--out", str(tmp_path / "mean")])
    net = load_detector(tmp_path / "mean" / "yolox-nano.safetensors")
    assert net.config.input_size == (96, 96) and net.head.obj_preds[0].bias.tolist() == [2.0]
    with pytest.raises(ValueError, match="holds yolox-nano, not yolox-tiny"):
        soup.mean_detector(files, "yolox-tiny", 96)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["one.safetensors", "--weights", "1", "2"], "--weights has 2 numbers for 1 files"),
        (["none.safetensors"], "none.safetensors is no file"),
        (["one.safetensors", "--weights", "0"], "must be at least 1, got 0"),
        (["one.safetensors", "--side", "320"], "--side is of detectors; dwpose-nano is a pose network"),
    ],
)
def test_mistakes_in_a_soup(poses, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(poses)
    with pytest.raises(SystemExit):
        soup.main([*argv, "--network", "dwpose-nano", "--out", "mean"])
    assert message in capsys.readouterr().err and not (poses / "mean").exists()
