"""Where a run's crops come from: work beside the training, the mixture of composited and whole scenes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dwpose_core.models.rtmcc import create_model
from tests.synthetic_tools import CROP, PEOPLE, NamesItsDevice, generator
from training import synthetic_crops, synthetic_stage
from training.label_objective import as_batch
from training.synthetic import torch_composite as batched
from training.synthetic.background import Background, Foreground
from training.synthetic.composite import STRONG
from training.synthetic.crop_bank import CropBank
from training.synthetic.pool import CropPool
from training.synthetic_crops import Batches, CropSource, Mixture, Scenes
from training.synthetic_stage import build_objective


def test_work_beside_training_comes_in_order_and_its_errors_arrive():
    numbers = itertools.count()

    def make() -> list[torch.Tensor]:
        number = next(numbers)
        if number == 5:
            raise RuntimeError("no more people")
        return [torch.tensor(number)]

    beside = Background(make, 2, torch.device("cpu"))
    taken = [int(beside.take()[0]) for _ in range(2)]
    taken += [int(value[0]) for value in beside.take_all()]
    with pytest.raises(RuntimeError, match="no more people"):
        while True:
            taken.append(int(beside.take()[0]))
    beside.close()
    assert taken == [0, 1, 2, 3, 4]
    assert not beside.thread.is_alive()


def test_closing_does_not_wait_for_a_taker():
    beside = Background(lambda: torch.zeros(1), 1, torch.device("cpu"))
    beside.take()
    beside.close()
    assert not beside.thread.is_alive()


class Rendered:
    """Stands in for worker processes: scenes of two crops, grey, with all points in one place."""

    def __init__(self):
        self.number = 0

    def __next__(self) -> tuple[np.ndarray, ...]:
        self.number += 1
        images = np.full((2, CROP[1], CROP[0], 3), 20 + self.number % 200, np.uint8)
        points = np.full((2, 133, 2), 20 + self.number % 30, np.float32)
        return images, points, np.full((2, 133), 2, np.uint8)


def crop_source(layers, around, mixture: Mixture, scenes: Scenes | None = None) -> CropSource:
    filler = SimpleNamespace(pool=SimpleNamespace(layers=layers), seconds=0.0)
    return CropSource(mixture, filler, around, scenes, generator(3), False)


def test_batches_are_cut_from_what_was_composited(layers, around):
    source = crop_source(layers, around, Mixture(CROP, 3, at_once=2))
    batches = Batches(source)
    made: list[batched.Crops] = []
    batches.maker = Foreground(lambda: made.extend(source.make()) or made[-2:])
    for k, progress in enumerate((0.25, 0.5, 0.75)):
        taken = batches(progress)
        assert taken.image.shape == (3, CROP[1], CROP[0], 3) and source.progress == progress
        assert taken is made[(1, 0, 3)[k]]


def test_whole_scenes_are_their_share_and_are_rendered_as_they_are_used_up(layers, around):
    scenes = Scenes(Rendered(), CropBank(64, CROP, "cpu"))
    source = crop_source(layers, around, Mixture(CROP, 40, scenes=0.25), scenes)
    for _ in range(20):
        spread = source.make()[0].keypoints.std(1).amax(1)
        assert int((spread < 1e-3).sum()) == 10
    assert scenes.given == 200
    made_for = scenes.bank.added * synthetic_crops.SEEN_AGAIN
    assert 200 <= made_for <= 200 + 2 * synthetic_crops.SCENES_AT_ONCE * synthetic_crops.SEEN_AGAIN
    assert scenes.taken == scenes.results.number == scenes.bank.added / 2


def test_a_stage_does_not_make_up_for_what_the_one_before_gave(layers, around):
    """Scenes came from threads, as many as there were; a later stage would have waited for minutes of rendering."""
    scenes = Scenes(Rendered(), CropBank(64, CROP, "cpu"))
    scenes.bank.add(scenes.take())
    scenes.given = 10**6
    crop_source(layers, around, Mixture(CROP, 4, scenes=0.5), scenes).make()
    assert scenes.taken <= 2 * synthetic_crops.SCENES_AT_ONCE


def test_who_goes_on_meets_everything_at_once(layers, around):
    source = crop_source(layers, around, Mixture(CROP, 4, fresh=False, without=frozenset({"jpeg"})))
    met = [source.disturbance() for _ in range(300)]
    assert {replace(d, jpeg=True) for d in met} == {d for d, _ in synthetic_stage.GOING_ON}
    assert not any(d.jpeg for d in met)
    source.progress = 1.0
    assert len({source.disturbance() for _ in range(100)}) > 2


def test_mixed_crops_name_their_device(layers, around):
    scenes = Scenes(Rendered(), CropBank(64, CROP, "cpu"))
    source = crop_source(layers, around, Mixture((64, 64), 32, scenes=0.5, drawings=0.8, fresh=False), scenes)
    objective = build_objective("labels", create_model("debug"), None, fresh=False)
    scenes.bank.add(scenes.take())  # from numpy, as from the workers
    with NamesItsDevice():
        loss = objective(as_batch(source.make()[0]))["loss"]
        loss.backward()
    assert torch.isfinite(loss)


def test_test_pools_are_fixed(layers, around):
    one, two = (synthetic_crops.test_pool(layers, around, CROP, STRONG, 3) for _ in range(2))
    assert isinstance(one, CropPool) and len(one) == PEOPLE
    np.testing.assert_array_equal(one.images, two.images)


def test_a_small_bank_of_scenes_is_used_once_it_is_full(layers, around):
    """Fewer crops than a batch takes: beside training it fills, and then gives its share."""
    scenes = Scenes(Rendered(), CropBank(6, CROP, "cpu"))
    source = crop_source(layers, around, Mixture(CROP, 10, scenes=0.5), scenes)
    source.beside = [(SimpleNamespace(take_all=lambda: []), scenes.bank)]
    scenes.bank.add(replace(scenes.take(), image=torch.full((32, CROP[1], CROP[0], 3), 90, dtype=torch.uint8)))
    source.make()
    assert scenes.given == 5


def test_results_wait_for_the_stream_of_their_own_device(monkeypatch):
    """Which need not be the default one: --device cuda:1."""
    events, asked = [], []
    stream = SimpleNamespace(wait_event=events.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: asked.append(device) or stream)
    beside = object.__new__(Background)
    beside.stream = SimpleNamespace(device=torch.device("cuda:1"))
    assert beside._ready(([], "event")) == []
    assert asked == [torch.device("cuda:1")] and events == ["event"]
