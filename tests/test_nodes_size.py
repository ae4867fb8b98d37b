"""The size of maps and masks, and what happens to people and pictures of another shape."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from tests.comfy_stub import clip, figure, run

# Where a square of 100 pixels in the middle of 600 x 300 comes to be in 300 x 300: left, top, right, bottom.
FITTED = {"crop": (100, 100, 200, 200), "pad": (125, 125, 175, 175), "stretch": (125, 100, 175, 200)}
SQUARE = {"size": "width x height", "width": 300, "height": 300}


def person(scale: float = 1) -> dict:
    """Shoulders and hips in the corners of a square in the middle of 600 x 300, or of its edition at `scale`."""
    body = [0.0] * 54
    for joint, corner in {2: (250, 100), 5: (350, 100), 8: (250, 200), 11: (350, 200)}.items():
        body[3 * joint : 3 * joint + 3] = [corner[0] * scale, corner[1] * scale, 1.0]
    return {"pose_keypoints_2d": body}


def extent(picture: torch.Tensor) -> list[int]:
    rows, columns = np.nonzero(picture.numpy().reshape(*picture.shape[:2], -1).any(axis=2))
    return [columns.min(), rows.min(), columns.max(), rows.max()]


@pytest.mark.parametrize(("fit", "expected"), FITTED.items())
def test_render_fits_people_and_pictures_alike(comfy, fit, expected):
    keypoints = clip([person()], size=(300, 600))
    pose_map = run(comfy, "DWPoseRender", keypoints=keypoints, fit=fit, **SQUARE)[0]
    assert np.allclose(extent(pose_map[0]), expected, atol=6)  # the joints' radius
    photo = torch.zeros(1, 300, 600, 3)
    photo[:, 100:200, 250:350] = 1
    over = run(comfy, "DWPoseRender", keypoints=keypoints, image=photo, opacity=0.0, fit=fit, **SQUARE)[0]
    assert over.shape == (1, 300, 300, 3) and np.allclose(extent(over[0]), expected, atol=2)
    # keypoints of a smaller edition of the photograph
    half = clip([person(0.5)], size=(150, 300))
    same = run(comfy, "DWPoseRender", keypoints=half, image=photo * 0, fit=fit, arrange="beside the image", **SQUARE)[0]
    assert torch.equal(same[:, :, 300:], pose_map)


def test_padding_has_the_background_colour(comfy):
    photo = torch.ones(1, 300, 600, 3)
    padded = run(
        comfy,
        "DWPoseRender",
        keypoints=clip([], size=(300, 600)),
        image=photo,
        fit="pad",
        background="#ff0000",
        **SQUARE,
    )[0]
    assert padded[0, 0, 0].tolist() == [1, 0, 0] and padded[0, 150, 0].tolist() == [1, 1, 1]


@pytest.mark.parametrize(("fit", "expected"), FITTED.items())
def test_mask_fits(comfy, fit, expected):
    keypoints = clip([person()], size=(300, 600))
    mask = run(comfy, "DWPoseToMask", keypoints=keypoints, body=True, face=False, fit=fit, **SQUARE)[0]
    left, top, right, bottom = extent(mask[0])
    margins = np.array([expected[0] - left, expected[1] - top, right - expected[2], bottom - expected[3]])
    assert mask.shape == (1, 300, 300) and (margins > 0).all() and np.ptp(margins) < 25


def test_what_is_no_image_is_told(comfy):
    """Other packs put a mask there, one picture without its batch, channels first, bytes or arrays."""
    model = run(comfy, "DWPoseLoader", pose="dw-debug.safetensors", detector="none")[0]
    keypoints, image = clip([figure(100)]), torch.zeros(1, 96, 128, 3)
    nodes = {
        "DWPoseEstimate": {"model": model},
        "DWPosePreprocessorCompat": {"bbox_detector": "None"},
        "DWPoseRender": {"keypoints": keypoints},
        "DWPoseFaceHandCrop": {"keypoints": keypoints},
        "DWPoseConvert": {"pose": keypoints},
        "DWPoseLoadJSON": {"text": json.dumps(keypoints)},
    }
    wrong = {
        "shape": [image[..., 0], image[0], image.movedim(3, 1), image[..., :2], image[:, :0]],
        "no images": [image[:0]],
        "floats in 0..1.*(uint8|ndarray|list)": [image.byte(), image.numpy(), [image]],
    }
    for node, inputs in nodes.items():
        for told, images in wrong.items():
            for value in images:
                with pytest.raises(ValueError, match=told):
                    run(comfy, node, image=value, **inputs)


def test_pictures_of_every_kind_are_seen_alike(comfy):
    """With alpha, in grey, in half precision, of values that an upscaler left outside 0..1."""
    sockets = sys.modules[f"{comfy.package.__name__}.nodes.sockets"]
    image = torch.rand(2, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    (frame, other) = sockets.to_frames(image)
    assert frame.dtype == np.uint8 and np.array_equal(frame, np.rint(image[0].numpy() * 255))
    kept = image.clone()
    assert np.array_equal(sockets.to_frames(torch.cat([image, image[..., :1]], 3))[1], other)
    assert np.array_equal(sockets.to_frames(image[..., :1])[0], frame[..., :1].repeat(3, 2))
    assert np.abs(sockets.to_frames(image.half())[0].astype(int) - frame).max() <= 1
    assert sockets.to_frames(image * 4 - 2)[0].max() == 255 and torch.equal(image, kept)


@pytest.mark.parametrize("fit", FITTED)
def test_estimate_fits_as_render_does(comfy, fit):
    model = run(comfy, "DWPoseLoader", pose="dw-debug.safetensors", detector="none")[0]
    image = torch.rand(1, 96, 128, 3, generator=torch.Generator().manual_seed(0))
    size = {"size_from": torch.zeros(1, 128, 64, 3), "fit": fit}
    common = {"keypoint_threshold": 0.0, "confidence": "score", "search": "whole image"}
    pose_map, keypoints, _ = run(comfy, "DWPoseEstimate", model=model, image=image, **common, **size).args
    drawn = run(comfy, "DWPoseRender", keypoints=keypoints, threshold=0.0, **size)[0]
    assert pose_map.any() and pose_map.shape == (1, 128, 64, 3)
    assert (pose_map != drawn).any(-1).float().mean() < 0.02  # a score of 0 is no point for Render


@pytest.mark.parametrize(("fit", "expected"), FITTED.items())
@pytest.mark.parametrize("size", [{"size": "source"}, {"size": "short side", "resolution": 320}, SQUARE])
def test_pictures_of_other_shapes_in_one_clip_bend_nobody(comfy, size, fit, expected):
    """A folder of photographs, its maps as large as the first; the second is wide."""
    keypoints = [*clip([], size=(300, 300)), *clip([person()], size=(300, 600))]
    expected = np.array(expected) * (320 / 300 if "resolution" in size else 1)
    pose_map = run(comfy, "DWPoseRender", keypoints=keypoints, fit=fit, **size)[0]
    assert np.allclose(extent(pose_map[1]), expected, atol=6)
    mask = run(comfy, "DWPoseToMask", keypoints=keypoints, body=True, face=False, fit=fit, **size)[0]
    assert np.allclose(np.add(extent(mask[1])[:2], extent(mask[1])[2:]), expected[:2] + expected[2:], atol=3)


def test_short_side_and_source_keep_the_image_whole(comfy):
    """Their shape is that of the image up to the rounding, so that there is nothing to cut."""
    keypoints = clip([figure(200)])
    for size in ({"size": "short side", "resolution": 512}, {"size": "source"}):
        maps = [run(comfy, "DWPoseRender", keypoints=keypoints, fit=fit, **size)[0] for fit in FITTED]
        assert all(torch.equal(maps[0], other) for other in maps[1:])


def test_fit_leaves_older_graphs_and_prompts_alone(comfy):
    for node in ("DWPoseEstimate", "DWPoseRender", "DWPoseToMask"):
        names = [one.id for one in comfy.nodes[node].define_schema().inputs]
        later = comfy.nodes[node].define_schema().inputs[names.index("fit") :]
        # Widgets of saved graphs are told apart by their place, and API prompts from before have no such inputs.
        assert [one.id for one in later] == ["fit"] + ["detector_size"] * (node == "DWPoseEstimate")
        assert all(one.optional for one in later)


@pytest.mark.parametrize(
    ("shape", "ratio", "expected"),
    [
        ((1, 4, 96, 64), None, (768, 512)),  # SD 1.5, SDXL
        ((1, 16, 152, 104), None, (1216, 832)),  # SD 3, Flux
        ((1, 128, 64, 48), None, (1024, 768)),  # Flux 2
        ((1, 64, 64, 32), None, (2048, 1024)),  # HunyuanImage
        ((1, 3, 640, 480), None, (640, 480)),  # ChromaRadiance
        ((1, 16, 21, 60, 104), None, (480, 832)),  # Wan 2.1, HunyuanVideo
        ((1, 48, 21, 44, 80), None, (704, 1280)),  # Wan 2.2 5B
        ((1, 32, 9, 30, 53), None, (480, 848)),  # HunyuanVideo 1.5
        ((1, 12, 5, 60, 106), None, (480, 848)),  # Mochi
        ((1, 128, 13, 16, 24), None, (512, 768)),  # LTXV
        ((1, 16, 32, 32), 8, (256, 256)),  # says it itself
        ((1, 4, 32, 32), 16, (512, 512)),
        ((1, 16, 24, 24), None, None),  # stage C of Stable Cascade for 1024, or SD 3 for 192
        ((1, 64, 256), None, None),  # audio
        ((1, 8, 16, 100), None, None),
    ],
)
def test_size_of_a_latent(comfy, shape, ratio, expected):
    latent = {"samples": torch.zeros(shape), **({} if ratio is None else {"downscale_ratio_spacial": ratio})}
    keypoints = clip([figure(200)])
    if expected is None:
        with pytest.raises(ValueError, match="connect an image"):
            run(comfy, "DWPoseRender", keypoints=keypoints, size_from=latent)
    else:
        assert run(comfy, "DWPoseRender", keypoints=keypoints, size_from=latent)[0].shape == (1, *expected, 3)


def test_one_frame_goes_over_all_images_and_the_other_way_round(comfy):
    one, many = clip([figure(100)]), clip(*[[figure(100 + 10 * i)] for i in range(4)])
    images = torch.rand(4, 300, 400, 3)
    assert len(run(comfy, "DWPoseRender", keypoints=one, image=images, size="source")[0]) == 4
    assert len(run(comfy, "DWPoseRender", keypoints=many, image=images[:1], size="source")[0]) == 4
    with pytest.raises(ValueError, match="3 images but keypoints of 4 frames"):
        run(comfy, "DWPoseRender", keypoints=many, image=images[:3])
