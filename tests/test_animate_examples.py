"""The animation examples of the docs, with tiny Wan pipelines."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

from tests.animate_tools import Watcher, film, walk

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("ftfy", reason="diffusers' Wan pipelines need ftfy")
    return pytest.importorskip(
        "tests.tiny_diffusers", reason='needs diffusers and transformers: pip install "dwpose-torch[diffusers]"'
    )


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_wan_animate_example(tiny):
    """Portrait and video in, animated frames out, with the example's own code."""
    pipe = tiny.wan_animate()
    pipe.set_progress_bar_config(disable=True)
    made, frames = load_example("wan_animate").animate(
        pipe,
        Watcher(walk(5)),
        Image.new("RGB", (64, 64)),
        film(5),
        "a dancer",
        max_pixels=64 * 64,
        steps=1,
        progress=False,
    )
    assert len(frames) == len(made.pose_video) == 5
    assert frames[0].size == made.pose_video[0].size == (64, 64)


def test_vace_example(tiny):
    pipe = tiny.wan_vace()
    pipe.set_progress_bar_config(disable=True)
    poses, frames = load_example("vace").generate(
        pipe, Watcher(walk(7)), film(7), "a dancer", max_pixels=64 * 64, frames=5, steps=1, progress=False
    )
    assert len(poses) == len(frames) == 5
    assert frames[0].size == poses[0].size
