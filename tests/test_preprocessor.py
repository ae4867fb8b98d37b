"""The front door: what goes in and comes out, older detectors' spellings and pixels, folders and hub repositories."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from dwpose_core import hub, preprocessor
from dwpose_core.backends import TorchRunner
from dwpose_core.models import create_detector, create_model, download
from dwpose_core.models.weights import save_safetensors
from dwpose_core.people import People
from dwpose_core.pipeline import Options
from dwpose_core.preprocessor import DWposeDetector, control_size
from tests.stand_ins import FigurePose, Nobody


@pytest.fixture
def figure():
    return DWposeDetector(FigurePose())


@pytest.fixture(scope="module")
def networks():
    """A detector of real, random networks. Their BatchNorms get statistics, so that folding them means something."""
    torch.manual_seed(0)
    pose, boxes = create_model("debug"), create_detector("yolox-nano")
    for module in [*pose.modules(), *boxes.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return DWposeDetector(
        TorchRunner(pose, "cpu"), TorchRunner(boxes, "cpu"), Options(max_people=3, flip_test="corrected")
    )


def photo(height=90, width=120, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


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


@pytest.mark.parametrize(
    ("image_resolution", "expected"),
    [(None, (90, 120)), ((200, 144), (200, 144)), (64, (64, 128)), (256, (256, 384))],
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
        ({"incluude_hand": True}, TypeError, "incluude_hand.*keypoint_threshold"),
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


# --- folders, repositories, constructors ----------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, empty caches."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("DWPOSE_MODELS", raising=False)


def same_weights(a, b):
    first, second = (runner.net.state_dict() for runner in (a, b))
    assert first.keys() == second.keys()
    return all(torch.allclose(first[key], second[key], rtol=1e-6, atol=0) for key in first)


def test_a_saved_folder_restores_everything(networks, tmp_path, offline):
    networks.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.json", "pose.safetensors", "detector.safetensors", "README.md"
    }  # fmt: skip
    again = DWposeDetector.from_pretrained(tmp_path, device="cpu")
    assert again.options == networks.options
    assert again.pose.net.config == networks.pose.net.config
    assert same_weights(again.pose, networks.pose)
    assert same_weights(again.detector, networks.detector)
    crops = torch.randn(2, 3, 64, 64)
    for a, b in zip(networks.pose(crops), again.pose(crops), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_half_precision(networks, tmp_path):
    half = DWposeDetector(TorchRunner(networks.pose.net, "cpu"), options=Options()).to(torch.float16)
    assert half.pose.dtype == torch.float16
    assert networks.pose.dtype == torch.float32
    half.save_pretrained(tmp_path)
    size = (tmp_path / "pose.safetensors").stat().st_size
    networks.save_pretrained(tmp_path / "full")
    assert size < 0.6 * (tmp_path / "full" / "pose.safetensors").stat().st_size
    again = DWposeDetector.from_pretrained(tmp_path, device="cpu", dtype="float16")
    assert again.pose.dtype == torch.float16
    assert again.detector is None
    assert same_weights(again.pose, half.pose)
    assert len(again.detect(photo())) <= 1


def test_subfolder_variant_and_dtype_as_pipelines_pass_them(networks, tmp_path):
    networks.save_pretrained(tmp_path / "sub")
    (tmp_path / "sub" / "pose.safetensors").rename(tmp_path / "sub" / "pose.fp16.safetensors")
    with pytest.warns(UserWarning, match="no variant 'fp16' of detector"):
        found = DWposeDetector.from_pretrained(
            tmp_path, subfolder="sub", variant="fp16", revision=None, device="cpu", dtype=torch.bfloat16
        )
    assert found.pose.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="does not hold it"):
        DWposeDetector.from_pretrained(tmp_path / "sub", device="cpu")
    with pytest.warns(FutureWarning, match="torch_dtype"):
        found = DWposeDetector.from_pretrained(
            tmp_path / "sub", None, variant="fp16", device="cpu", torch_dtype=torch.float64
        )
    assert found.pose.dtype == torch.float64
    assert found.detector is None


def test_a_file_and_a_folder_of_something_else(networks, tmp_path, offline):
    save_safetensors(create_model("debug"), tmp_path / "mine.safetensors")
    found = DWposeDetector.from_pretrained(tmp_path / "mine.safetensors", None, device="cpu")
    assert found.pose.name == "debug"
    with pytest.raises(FileNotFoundError, match="gone"):
        DWposeDetector.from_pretrained(tmp_path / "gone.safetensors", None)
    with pytest.raises(ValueError, match="save_pretrained"):
        DWposeDetector.from_pretrained(tmp_path, None)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(ValueError, match="save_pretrained"):
        DWposeDetector.from_pretrained(tmp_path, None)
    with pytest.raises(ValueError, match="dwpose-l-384"):
        DWposeDetector.from_pretrained("dwpose-xxl", None)
    with pytest.raises(ValueError, match="dtype"):
        DWposeDetector.from_pretrained(tmp_path / "mine.safetensors", None, dtype="float17")
    with pytest.raises(download.WeightsUnavailable, match="somebody/pose"):
        DWposeDetector.from_pretrained("somebody/pose", None)


def test_options_of_a_newer_version_are_refused(networks, tmp_path):
    networks.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["options"]["clairvoyance"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="clairvoyance"):
        DWposeDetector.from_pretrained(tmp_path)


def test_from_a_hub_repository(networks, tmp_path, monkeypatch):
    """Against a folder that stands for the hub: what is asked for, and with which arguments."""
    import huggingface_hub
    from huggingface_hub.utils import EntryNotFoundError

    networks.save_pretrained(tmp_path)
    asked = []

    def hf_hub_download(repo_id, filename, **options):
        asked.append((repo_id, filename, options["subfolder"], options["revision"], options["token"]))
        if not (tmp_path / filename).is_file():
            raise EntryNotFoundError(filename)
        return str(tmp_path / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    found = DWposeDetector.from_pretrained("me/pose", revision="v1", subfolder="x", token="t", device="cpu")
    assert same_weights(found.pose, networks.pose)
    files = ("config.json", "pose.safetensors", "detector.safetensors")
    assert asked == [("me/pose", name, "x", "v1", "t") for name in files]
    asked.clear()
    assert DWposeDetector.from_pretrained("me/pose", None, device="cpu").detector is None
    assert [name for _, name, *_ in asked] == ["config.json", "pose.safetensors"]
    (tmp_path / "config.json").unlink()
    with pytest.raises(ValueError, match=r"repository me/pose holds no config\.json"):
        DWposeDetector.from_pretrained("me/pose")


def test_push_to_hub_sends_a_folder_that_loads(networks, tmp_path, monkeypatch):
    """The upload is replaced by a copy; everything up to it is the real thing."""
    import shutil

    from huggingface_hub import HfApi

    def upload_folder(self, *, repo_id, folder_path, **_):
        shutil.copytree(folder_path, tmp_path / repo_id)
        return f"https://hub/{repo_id}"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: type("Url", (), {"repo_id": repo_id}))
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    networks.push_to_hub("me/pose", model_card_kwargs={"licence": "Apache-2.0", "repo_id": "me/pose"})
    assert same_weights(DWposeDetector.from_pretrained(tmp_path / "me" / "pose", device="cpu").pose, networks.pose)
    card = (tmp_path / "me" / "pose" / "README.md").read_text()
    for words in ("library_name: dwpose-torch", "| pose | debug | 64 x 64 |", "yolox-nano | 416 x 416", "Apache-2.0"):
        assert words in card
    assert 'from_pretrained("me/pose")' in card
    assert "{" not in card


def test_published_repository_and_urls_are_the_catalogue(monkeypatch, offline):
    """yzd-v/DWPose and the URLs scripts for controlnet_aux contain lead to the digest-checked files."""
    fetched = []

    def fetch(entry, **_):
        fetched.append(entry.name)
        raise download.WeightsUnavailable(entry.name)

    monkeypatch.setattr(hub.download, "fetch", fetch)
    with pytest.raises(download.WeightsUnavailable):
        DWposeDetector(pose_ckpt="https://huggingface.co/yzd-v/DWPose/resolve/main/dw-ll_ucoco_384.pth")
    with pytest.raises(download.WeightsUnavailable):
        DWposeDetector.from_pretrained("dwpose-l")
    assert fetched == ["dwpose-l-384-pth", "dwpose-l"]
    with pytest.raises(ValueError, match="not in the catalogue of pose"):
        DWposeDetector(pose_ckpt="https://example.com/other.pth")
    fetched.clear()
    with warnings.catch_warnings(record=True), pytest.raises(download.WeightsUnavailable):
        DWposeDetector.from_pretrained("yzd-v/DWPose", None)
    assert fetched[0] == "dwpose-l-384"


def test_constructors_of_older_detectors(tmp_path, networks, monkeypatch):
    networks.save_pretrained(tmp_path)
    pose, boxes = tmp_path / "pose.safetensors", tmp_path / "detector.safetensors"
    with pytest.warns(FutureWarning, match="det_config"):
        found = DWposeDetector(
            det_config="yolox.py", det_ckpt=boxes, pose_config="dwpose.py", pose_ckpt=pose, device="cpu"
        )
    assert same_weights(found.pose, networks.pose) and same_weights(found.detector, networks.detector)
    found_by = []
    monkeypatch.setattr(hub, "find", lambda *names: found_by.append(names) or hub.Sources(pose, boxes))
    found = DWposeDetector(device="cpu")  # easy_dwpose
    assert found_by == [("auto", "auto")]
    assert found.device.type == found.detector.device.type == "cpu"
    with pytest.raises(TypeError, match="device="):
        DWposeDetector("cuda:0")
    with pytest.raises(TypeError, match="loaded already"):
        DWposeDetector(FigurePose(), device="cpu")


def test_auto_offline_takes_what_ships_and_says_so(monkeypatch, offline, tmp_path):
    save_safetensors(create_model("dwpose-s"), tmp_path / "dwpose-s-synthetic.safetensors")
    save_safetensors(create_detector("yolox-cspnext-s"), tmp_path / "yolox-cspnext-s.safetensors")
    monkeypatch.setattr(
        hub.catalogue, "cached_path", lambda entry, *_: None if entry.repo else tmp_path / entry.filename
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = DWposeDetector.from_pretrained(device="cpu")
    texts = [str(warning.message) for warning in caught]
    assert (found.pose.name, found.detector.name) == ("dwpose-s", "yolox-cspnext-s")
    assert any("dwpose-l-384 is not available" in text and "bundled dwpose-s-synthetic" in text for text in texts)
    assert any("yolox-l is not available" in text and "bundled yolox-cspnext-s" in text for text in texts)
    assert all(warning.filename == __file__ for warning in caught)


def test_the_onnx_backend_is_not_moved_or_saved(tmp_path, shared):
    pytest.importorskip("onnxruntime")
    from dwpose_core.backends import OnnxRunner

    runner = OnnxRunner(shared / "data" / "yolox_nano.onnx", "cpu")
    found = DWposeDetector(FigurePose(), runner)
    with pytest.raises(ValueError, match="torch backend"):
        found.to("cpu")
    with pytest.raises(ValueError, match="torch backend"):
        found.save_pretrained(tmp_path)


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
