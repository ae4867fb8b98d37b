"""The Modular Diffusers block: the folder as a hub repository, and the block in front of whole pipelines."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dwpose_core.backends import TorchRunner
from dwpose_core.formats import from_openpose
from dwpose_core.models import create_model
from dwpose_core.preprocessor import DWposeDetector
from tests.stand_ins import FigurePose, Nobody

tiny_diffusers = pytest.importorskip(
    "tests.tiny_diffusers", reason='needs diffusers and transformers: pip install "dwpose-torch[diffusers]"'
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "dwpose_core" / "modular"


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    """No network. Code of a folder is run from a copy, which diffusers keeps in its cache: not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture(scope="module")
def block_class():
    from dwpose_core.modular.block import DWPoseBlock

    return DWPoseBlock


@pytest.fixture
def pose_pipeline(block_class):
    """The block alone, as a pipeline."""
    pipe = block_class().init_pipeline()
    pipe.update_components(pose_detector=DWposeDetector(FigurePose()))
    return pipe


def photo(height=60, width=90, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_a_block_without_its_detector_says_how_to_get_it(block_class):
    with pytest.raises(ValueError, match="load_components"):
        block_class().init_pipeline()(image=photo())


def test_the_folder_loads_as_a_hub_repository_does(block_class, tmp_path):
    """From a copy that shares nothing with the package but its files."""
    from diffusers.modular_pipelines import ModularPipelineBlocks

    shutil.copytree(FOLDER, tmp_path / "DWPose-block", ignore=shutil.ignore_patterns("__pycache__"))
    block = ModularPipelineBlocks.from_pretrained(str(tmp_path / "DWPose-block"), trust_remote_code=True)
    assert type(block).__name__ == "DWPoseBlock"
    assert type(block) is not block_class
    assert [spec.type_hint for spec in block.expected_components] == [DWposeDetector]
    pipe = block.init_pipeline()
    pipe.update_components(pose_detector=DWposeDetector(FigurePose()))
    assert np.array(pipe(image=photo(), output="control_image")).any()


def test_generated_files_are_up_to_date(block_class, tmp_path):
    """What diffusers writes for this block is what lies beside it (up to its version)."""
    from diffusers.modular_pipelines.mellon_node_utils import MellonPipelineConfig

    block = block_class()
    block.save_pretrained(tmp_path)
    block.init_pipeline().save_pretrained(str(tmp_path), overwrite_modular_index=True)
    MellonPipelineConfig.from_custom_block(block, node_label="DWPose").save(tmp_path)
    for name in ("modular_config.json", "modular_model_index.json", "mellon_pipeline_config.json"):
        written, shipped = (json.loads((folder / name).read_text()) for folder in (tmp_path, FOLDER))
        for content in (written, shipped):
            content.pop("_diffusers_version", None)
        assert written == shipped, f"{name} is out of date"


def test_card_lists_every_input_and_output(block_class):
    card = (FOLDER / "README.md").read_text()
    block = block_class()
    for parameter in (*block.inputs, *block.intermediate_outputs):
        assert f"`{parameter.name}`" in card
        assert parameter.description
        assert parameter.metadata["mellon"]


def test_one_image(pose_pipeline):
    state = pose_pipeline(image=photo(), detect_resolution=64, image_resolution=128)
    made, keypoints = state.get("control_image"), state.get("pose_keypoints")
    expected, people = DWposeDetector(FigurePose())(photo(), 64, 128, return_people=True)
    np.testing.assert_array_equal(np.array(made), np.array(expected))
    assert json.loads(json.dumps(keypoints)) == keypoints
    (read,) = from_openpose(keypoints)
    assert read.image_size == made.size[::-1] == people.image_size
    np.testing.assert_allclose(read.xy[:, 23:91], people.xy[:, 23:91], rtol=1e-5)


def test_lists_and_batches(pose_pipeline):
    images = [photo(60, 90), photo(90, 60), photo(64, 64)]
    state = pose_pipeline(image=images, detect_resolution=64, image_resolution=64)
    assert [made.size for made in state.get("control_image")] == [(128, 64), (64, 128), (64, 64)]
    assert len(state.get("pose_keypoints")) == 3
    state = pose_pipeline(image=torch.rand(2, 3, 60, 90), detect_resolution=64, height=48, width=80)
    assert [made.size for made in state.get("control_image")] == [(80, 48)] * 2


def test_parts_style_and_size(pose_pipeline):
    whole = np.array(pose_pipeline(image=photo(), height=520, width=520, output="control_image"))
    for change in (
        {"include_body": False},
        {"include_hand": False},
        {"include_face": False},
        {"pose_style": "xinsir"},
        {"keypoint_threshold": 1.1},
    ):
        made = np.array(pose_pipeline(image=photo(), height=520, width=520, **change, output="control_image"))
        assert made.shape == whole.shape == (520, 520, 3)
        assert (made != whole).any(), change
    with pytest.raises(ValueError, match="both height and width"):
        pose_pipeline(image=photo(), height=64)


def test_nobody(block_class):
    pipe = block_class().init_pipeline()
    pipe.update_components(pose_detector=DWposeDetector(FigurePose(), Nobody()))
    state = pipe(image=photo())
    assert not np.array(state.get("control_image")).any()
    assert state.get("pose_keypoints")[0]["people"] == []


def test_components_are_loaded_from_a_folder(block_class, tmp_path):
    """Through `ComponentSpec.load`, which passes subfolder, variant and revision; and written back as a reference."""
    from diffusers import ComponentsManager
    from diffusers.modular_pipelines import ModularPipeline

    torch.manual_seed(0)
    saved = DWposeDetector(TorchRunner(create_model("debug"), "cpu"))
    saved.save_pretrained(tmp_path / "weights" / "pose")
    manager = ComponentsManager()
    pipe = block_class().init_pipeline(components_manager=manager, collection="dwpose")
    pipe.load_components(
        pretrained_model_name_or_path=str(tmp_path / "weights"), subfolder="pose", dtype=torch.float16, device="cpu"
    )
    assert isinstance(pipe.pose_detector, DWposeDetector)
    assert pipe.pose_detector.pose.name == "debug"
    assert manager.get_one(name="pose_detector") is pipe.pose_detector
    assert "pose_detector" in str(manager)
    assert pipe(image=photo(), output="control_image").size == (768, 512)
    shutil.copytree(FOLDER, tmp_path / "saved", ignore=shutil.ignore_patterns("__pycache__"))
    pipe.save_pretrained(str(tmp_path / "saved"), overwrite_modular_index=False)
    again = ModularPipeline.from_pretrained(str(tmp_path / "saved"), trust_remote_code=True)
    again.load_components(device="cpu")
    assert again.pose_detector.pose.name == "debug"


def test_modular_sdxl_example(tmp_path):
    """The example's own code on a tiny Stable Diffusion XL: the photograph in, keypoints and a picture out."""
    from diffusers import ComponentsManager
    from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks

    from dwpose_core.modular.block import DWPoseBlock

    spec = importlib.util.spec_from_file_location("modular_sdxl", ROOT / "docs" / "examples" / "modular_sdxl.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    whole = tiny_diffusers.sdxl()
    whole.save_pretrained(tmp_path)
    blocks = example.add_pose(StableDiffusionXLAutoBlocks().get_workflow("controlnet_text2image"), DWPoseBlock())
    pipe = blocks.init_pipeline(str(tmp_path), components_manager=ComponentsManager())
    names = [name for name in pipe.pretrained_component_names if name != "pose_detector"]
    pipe.load_components(names=names)
    pipe.update_components(pose_detector=DWposeDetector(FigurePose()), controlnet=whole.controlnet)
    pipe.set_progress_bar_config(disable=True)
    keypoints, picture = example.generate(pipe, photo(), "a dancer", height=64, width=96, steps=2)
    assert picture.size == (keypoints[0]["canvas_width"], keypoints[0]["canvas_height"]) == (96, 64)
    assert len(keypoints[0]["people"]) == 1
    pipe.update_components(pose_detector=DWposeDetector(FigurePose(0.5)))
    _, other = example.generate(pipe, photo(), "a dancer", height=64, width=96, steps=2)
    assert (np.array(other) != np.array(picture)).any()
    # Two photographs, two prompts, two pictures; the same photograph gives the same pose as alone.
    state = pipe(
        prompt=["a dancer", "a dancer"], image=[photo(), photo(64, 64)], height=64, width=96, num_inference_steps=1
    )
    assert [made.size for made in state.get("images")] == [(96, 64)] * 2
    assert len(state.get("pose_keypoints")) == 2


def test_modular_qwen_image(block_class, tmp_path):
    from diffusers.modular_pipelines import QwenImageAutoBlocks

    whole = tiny_diffusers.qwen_image()
    whole.save_pretrained(tmp_path)
    blocks = QwenImageAutoBlocks().get_workflow("controlnet_text2image")
    blocks.sub_blocks.insert("pose", block_class(), 0)
    pipe = blocks.init_pipeline(str(tmp_path))
    pipe.load_components(names=[name for name in pipe.pretrained_component_names if name != "pose_detector"])
    pictures = []
    for lean in (1.0, 0.5):
        pipe.update_components(pose_detector=DWposeDetector(FigurePose(lean)), controlnet=whole.controlnet)
        pipe.set_progress_bar_config(disable=True)
        state = pipe(
            prompt="a dancer",
            image=photo(),
            height=64,
            width=96,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
        )
        assert state.get("control_image").size == state.get("images")[0].size == (96, 64)
        pictures.append(np.array(state.get("images")[0]))
    assert (pictures[0] != pictures[1]).any()


def test_flux_controlnet_takes_what_the_block_makes(pose_pipeline):
    """diffusers has no modular ControlNet workflow for Flux: the block stands in front of its pipeline."""
    flux = tiny_diffusers.flux()
    flux.set_progress_bar_config(disable=True)
    pose_map = pose_pipeline(image=photo(), height=64, width=96, output="control_image")
    picture = flux("a dancer", control_image=pose_map, height=64, width=96, num_inference_steps=2).images[0]
    assert picture.size == (96, 64)


def test_in_front_of_the_modular_flux_workflow(block_class, tmp_path):
    """The block does not disturb a workflow that has no use for the map, and the map comes out with the picture."""
    from diffusers.modular_pipelines import FluxAutoBlocks

    whole = tiny_diffusers.flux()
    whole.save_pretrained(tmp_path)
    blocks = FluxAutoBlocks().get_workflow("text2image")
    blocks.sub_blocks.insert("pose", block_class(), 0)
    pipe = blocks.init_pipeline(str(tmp_path))
    pipe.load_components(names=[name for name in pipe.pretrained_component_names if name != "pose_detector"])
    pipe.update_components(pose_detector=DWposeDetector(FigurePose()))
    pipe.set_progress_bar_config(disable=True)
    state = pipe(prompt="a dancer", image=photo(), height=64, width=96, num_inference_steps=2)
    assert state.get("images")[0].size == state.get("control_image").size == (96, 64)
