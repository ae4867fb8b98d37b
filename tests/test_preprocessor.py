"""The front door: what goes in and comes out, older detectors' spellings and pixels."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import dwpose_core
from dwpose_core import preprocessor
from dwpose_core.geometry import control_size
from dwpose_core.people import People
from dwpose_core.preprocessor import DWposeDetector
from tests.stand_ins import FigurePose, Nobody, photo, random_networks


@pytest.fixture
def figure():
    return DWposeDetector(FigurePose())


@pytest.fixture(scope="module")
def networks():
    return random_networks()


# --- what goes in and comes out -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "output_type", "kind", "shape"),
    [
        (Image.fromarray(photo()), "pil", Image.Image, (128, 192, 3)),
        (Image.fromarray(photo()), "np", np.ndarray, (128, 192, 3)),
        (photo(), "pt", torch.Tensor, (3, 128, 192)),
        (torch.from_numpy(photo()), "np", np.ndarray, (128, 192, 3)),
        (torch.from_numpy(photo()).permute(2, 0, 1) / 255, "pt", torch.Tensor, (3, 128, 192)),
        (np.stack([photo(), photo()]), "np", np.ndarray, (2, 128, 192, 3)),
        (torch.rand(2, 3, 90, 120), "pt", torch.Tensor, (2, 3, 128, 192)),
        (torch.rand(1, 3, 90, 120), "pt", torch.Tensor, (1, 3, 128, 192)),
        (torch.rand(2, 3, 90, 120), "pil", list, 2),
        ([photo(), Image.fromarray(photo(200, 90))], "pil", list, 2),
        ([photo()], "pt", list, 1),
        ([], "np", list, 0),
    ],
)
def test_kinds_of_images(figure, given, output_type, kind, shape):
    made = figure(given, 128, 128, output_type=output_type)
    assert isinstance(made, kind)
    assert (len(made) if kind is list else np.asarray(made).shape) == shape
    if output_type == "pt" and kind is torch.Tensor:
        assert made.dtype == torch.float32
        assert made.min() == 0 and made.max() == 1


def test_every_kind_of_image_gives_the_same_map(figure, tmp_path):
    image = photo()
    Image.fromarray(image).save(tmp_path / "photo.png")
    expected = figure(image, output_type="np")
    assert expected.any()
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    for given in (Image.fromarray(image), tensor, tensor / 255, image / np.float32(255), tmp_path / "photo.png"):
        np.testing.assert_array_equal(figure(given, output_type="np"), expected)
        np.testing.assert_array_equal(np.array(figure(given)), expected)
        np.testing.assert_array_equal(figure([given], output_type="pt")[0].permute(1, 2, 0) * 255, expected)


def test_images_of_different_sizes_in_one_list(figure):
    images = [photo(90, 120), photo(200, 90), photo(64, 64)]
    together = figure(images, 128, 128, output_type="np")
    assert [made.shape[:2] for made in together] == [(128, 192), (256, 128), (128, 128)]
    for image, made in zip(images, together, strict=True):
        np.testing.assert_array_equal(made, figure(image, 128, 128, output_type="np"))


@pytest.mark.parametrize(
    ("size", "resolution", "expected"),
    [
        ((512, 512), 512, (512, 512)),
        ((832, 1216), 512, (512, 768)),  # 748.3 is nearer to 768
        ((1080, 1920), 512, (512, 896)),  # 910.2 is nearer to 896
        ((480, 360), 512, (704, 512)),  # 682.7
        ((160, 100), 100, (128, 128)),  # 2.5 and 1.56 times 64; halves go to the even number
        ((64, 2000), 64, (64, 1984)),
        ((100, 5000), 64, (64, 3200)),
    ],
)
def test_size_rule(size, resolution, expected):
    """Worked by hand from ControlNet's rule: side * resolution / short side, to the nearest multiple of 64."""
    assert control_size(size, resolution) == expected


def test_a_strip_does_not_become_a_giant():
    with pytest.raises(ValueError, match=r"2 x 1000 pixels has 512 x 256000.*\(H, W\)"):
        control_size((1000, 2), 512)
    assert control_size((34000, 800), 512) == (21760, 512)
    with pytest.raises(ValueError, match="a resolution is a short side of at least 64 pixels, got inf"):
        control_size((100, 100), float("inf"))


@pytest.mark.parametrize(
    ("image_resolution", "expected"),
    [(None, (90, 120)), (128.0, (128, 192)), ((200, 144), (200, 144)), (64, (64, 128)), (256, (256, 384))],
)
def test_map_sizes(figure, image_resolution, expected):
    made, people = figure(photo(), 128, image_resolution, output_type="np", return_people=True)
    assert made.shape[:2] == people.image_size == expected


def test_people_of_a_map_are_in_its_pixels(figure):
    image = photo(120, 90)
    made, people = figure(image, None, (480, 360), output_type="np", return_people=True)
    np.testing.assert_allclose(people.xy, figure.detect(image).xy * 4, rtol=1e-5)
    np.testing.assert_allclose(people.box, figure.detect(image).box * 4, rtol=1e-5)
    np.testing.assert_array_equal(made, preprocessor.render(people))


def test_nobody_gives_a_black_map():
    detector = DWposeDetector(FigurePose(), Nobody())
    made, people = detector([photo(), photo(50, 70)], return_people=True)
    assert [np.array(pose_map).any() for pose_map in made] == [False, False]
    assert [len(person) for person in people] == [0, 0]


def test_boxes_are_pixels_of_the_image_given(figure):
    image = photo(200, 400)
    box = np.array([[300, 20, 380, 180]], np.float32)
    whole, made = figure(image, 128, None, output_type="np"), figure(image, 128, None, boxes=box, output_type="np")
    assert made[:, :280].any() == np.False_
    assert made[:, 300:380].any()
    assert whole[:, :280].any()
    _, (people,) = figure([image], 128, None, boxes=[box.tolist()], return_people=True)
    np.testing.assert_allclose(people.box, box, rtol=1e-5)


def test_parts(figure):
    made = {part: figure(photo(), output_type="np", **{f"include_{part}": False}) for part in ("body", "hand", "face")}
    everything = figure(photo(), output_type="np")
    assert all((made[part] != everything).any() for part in made)
    assert (figure(photo(), include_foot=True, output_type="np") != everything).any()
    nothing = figure(photo(), include_body=False, include_hand=False, include_face=False, output_type="np")
    assert not nothing.any()


def test_a_batch_of_real_networks_is_the_sum_of_its_images(networks):
    images = [photo(90, 120, seed) for seed in range(3)]
    together = networks.detect(images, batch_size=2)
    for image, people in zip(images, together, strict=True):
        alone = networks.detect(image)
        assert len(alone) == len(people)
        np.testing.assert_allclose(alone.score, people.score, atol=1e-4)


def test_autocast_around_the_call_changes_nothing(networks):
    plain = networks.detect(photo())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        people = networks.detect(photo())
    np.testing.assert_array_equal(people.xy, plain.xy)
    np.testing.assert_array_equal(people.score, plain.score)


@pytest.mark.parametrize("dtype", [torch.int32, "halff"])
def test_types_that_networks_cannot_have(networks, dtype):
    with pytest.raises(ValueError, match="dtype"):
        networks.to(dtype=dtype)


def test_a_wrong_style_is_told_before_the_networks_run(monkeypatch):
    monkeypatch.setattr(FigurePose, "__call__", lambda *_: pytest.fail("the network ran"))
    with pytest.raises(ValueError, match="unknown style"):
        DWposeDetector(FigurePose())(photo(), style="open pose")


# --- spellings of controlnet_aux and easy_dwpose --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"include_hands": False}, {"include_hand": False}),
        ({"hand_and_face": False}, {"include_hand": False, "include_face": False}),
        ({"hand_and_face": None}, {}),
        ({"return_pil": False}, {"output_type": "np"}),
        ({"output_type": True}, {"output_type": "pil"}),
        ({"output_type": False}, {"output_type": "np"}),
    ],
)
def test_old_spellings_warn_and_work(figure, old, new):
    with pytest.warns(FutureWarning, match=next(iter(old))) as caught:
        made = figure(photo(), **old)
    assert caught[0].filename == __file__
    expected = figure(photo(), **new)
    assert type(made) is type(expected)
    np.testing.assert_array_equal(made, expected)


def test_input_image_and_fourth_argument(figure):
    with pytest.warns(FutureWarning, match="input_image"):
        made = figure(input_image=photo(), output_type="np")
    np.testing.assert_array_equal(made, figure(photo(), output_type="np"))
    with pytest.warns(FutureWarning, match="fourth"):
        made = figure(photo(), 512, 512, "np")
    np.testing.assert_array_equal(made, figure(photo(), output_type="np"))


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"incluude_hand": True}, TypeError, "incluude_hand.*did you mean include_hand.*keypoint_threshold.*thickness"),
        ({"detect_resolution": "512"}, ValueError, "resolution.*'512'"),
        ({"image_resolution": True}, ValueError, "resolution.*True"),
        ({"draw_pose": None}, TypeError, "detect"),
        ({"output_type": "jpg"}, ValueError, "'pil', 'np' or 'pt'"),
        ({"style": "cubist"}, ValueError, "dwpose"),
        ({"detect_resolution": 10}, ValueError, "64"),
        ({"boxes": np.zeros((1, 5))}, ValueError, "xyxy"),
        ({"boxes": [[200, 0, 300, 50]]}, ValueError, "outside the image of 120 x 90"),
    ],
)
def test_mistakes_are_named(figure, keywords, error, message):
    with pytest.raises(error, match=message):
        figure(photo(), **keywords)


def test_boxes_are_one_array_per_image(figure):
    with pytest.raises(ValueError, match="2 images, 1 arrays"):
        figure([photo(), photo()], boxes=[[[0, 0, 50, 50]]])


def test_no_image_at_all(figure):
    with pytest.raises(TypeError, match="image"):
        figure()


@pytest.mark.parametrize("scene", ["a", "b"])
def test_controlnet_aux_pixels(shared, monkeypatch, scene):
    """Its map at its default resolutions, from the same keypoints, through our whole call."""
    golden = shared / "golden" / "render"
    data = np.load(golden / f"{scene}_scene.npz")
    size, count = (int(data["H"]), int(data["W"])), len(data["keypoints133"])
    people = People(data["keypoints133"], data["scores133"], np.zeros((count, 4)), np.ones(count), size)
    seen = []

    def known_people(frames, *_):
        """Stands for networks that find the golden's people, wherever they look."""
        seen.extend(frames)
        scale = np.array((frames[0].shape[1] / size[1], frames[0].shape[0] / size[0]))
        return [replace(people, xy=people.xy * scale, image_size=frames[0].shape[:2])]

    monkeypatch.setattr(preprocessor, "estimate_people", known_people)
    image = photo(*size)
    made = DWposeDetector(FigurePose())(Image.fromarray(image), style="dwpose")
    expected = cv2.imread(str(golden / f"{scene}_controlnet_aux_512.png"))[:, :, ::-1]
    np.testing.assert_array_equal(np.array(made), expected)
    # What the networks see is what controlnet_aux shows its own: area where an image shrinks, Lanczos where it grows.
    short = min(size)
    filtered = cv2.INTER_LANCZOS4 if short < 512 else cv2.INTER_AREA
    np.testing.assert_array_equal(seen[0], cv2.resize(image, expected.shape[1::-1], interpolation=filtered))


@pytest.mark.parametrize(("short", "filtered"), [(511, cv2.INTER_AREA), (509, cv2.INTER_LANCZOS4)])
def test_the_filter_follows_the_resolution_asked_for(short, filtered):
    """510 asked for gives 512, as ControlNet rounds; what shrinks or grows is judged before rounding."""
    image = photo(short, short)
    expected = cv2.resize(image, (512, 512), interpolation=filtered)
    np.testing.assert_array_equal(preprocessor._resize(image, 510), expected)
    np.testing.assert_array_equal(preprocessor._resize(torch.from_numpy(image), 510), expected)


def test_completion_offers_the_public_names():
    assert {"DWposeDetector", "People", "to_openpose"} <= set(dir(dwpose_core))


def test_no_import_of_pipelines_libraries():
    """The package works where diffusers, transformers and accelerate cannot be imported, and never tries."""
    program = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("diffusers", "transformers", "accelerate", "torchvision"):
            raise AssertionError(f"import of {name}")
sys.meta_path.insert(0, Refuse())
import numpy as np, pkgutil, importlib, dwpose_core
for module in pkgutil.walk_packages(dwpose_core.__path__, "dwpose_core."):
    if not module.name.startswith("dwpose_core.modular"):
        importlib.import_module(module.name)
from dwpose_core.backends import TorchRunner
from dwpose_core.models import create_model
detector = dwpose_core.DWposeDetector(TorchRunner(create_model("debug"), "cpu"))
assert detector(np.zeros((64, 64, 3), np.uint8), 64, 64).size == (64, 64)
"""
    folder = Path(preprocessor.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
