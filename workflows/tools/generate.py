"""Writes every graph of this folder, ../<name>.json for the browser and ../api/<name>.json for scripts, and the
subgraph blueprint of the pack, ../../subgraphs/<name>.json.

    python workflows/tools/generate.py --url http://127.0.0.1:8188

The server must run this pack; tests/comfy_core_nodes.json is an excerpt of what it says about ComfyUI's own nodes.
"""

from __future__ import annotations

import argparse
import json
import urllib.request
import uuid
from pathlib import Path

from blueprint import blueprint
from graph import Graph

HOME = Path(__file__).resolve().parents[1]
DOWNLOADS = {
    "v1-5-pruned-emaonly-fp16.safetensors": {
        "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
        "v1-5-pruned-emaonly-fp16.safetensors",
        "directory": "checkpoints",
    },
    "control_v11p_sd15_openpose_fp16.safetensors": {
        "url": "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/"
        "control_v11p_sd15_openpose_fp16.safetensors",
        "directory": "controlnet",
    },
    "sd_xl_base_1.0.safetensors": {
        "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/"
        "sd_xl_base_1.0.safetensors",
        "directory": "checkpoints",
    },
}
NEGATIVE = "lowres, bad anatomy, extra limbs, blurry"


def image_to_map(g: Graph) -> None:
    model = g.node("DWPoseLoader")
    image = g.node("LoadImage", image="example.png")
    pose = g.node("DWPoseEstimate", model=model[0], image=image[0])
    g.node("SaveImage", "Pose map", images=pose[0], filename_prefix="dwpose/map")
    over = g.node("DWPoseRender", "Overlay", keypoints=pose[1], image=image[0], size="source", opacity=0.85)
    g.node("SaveImage", "Overlay", images=over[0], filename_prefix="dwpose/overlay")


def video_to_pose_video(g: Graph) -> None:
    model = g.node("DWPoseLoader")
    video = g.node("LoadVideo", file="input.mp4")
    parts = g.node("GetVideoComponents", video=video[0])
    pose = g.node("DWPoseEstimate", model=model[0], image=parts[0], size="source")
    steady = g.node("DWPoseSmooth", keypoints=pose[1], fps=parts[2])
    maps = g.node("DWPoseRender", keypoints=steady[0], size="source")
    result = g.node("CreateVideo", images=maps[0], audio=parts[1], fps=parts[2])
    g.node("SaveVideo", video=result[0], filename_prefix="dwpose/video")


def controlnet_sd15(g: Graph) -> None:
    model = g.node("DWPoseLoader")
    image = g.node("LoadImage", image="example.png")
    latent = g.node("EmptyLatentImage", width=512, height=768)
    pose = g.node("DWPoseEstimate", model=model[0], image=image[0], size_from=latent[0])
    _sample(
        g,
        pose,
        latent,
        checkpoint="v1-5-pruned-emaonly-fp16.safetensors",
        controlnet="control_v11p_sd15_openpose_fp16.safetensors",
        prompt="a dancer on a stage, dramatic light, photograph",
        cfg=7.0,
        steps=20,
        prefix="dwpose/sd15",
    )


def controlnet_sdxl_xinsir(g: Graph) -> None:
    model = g.node("DWPoseLoader")
    image = g.node("LoadImage", image="example.png")
    latent = g.node("EmptyLatentImage", width=832, height=1216)
    pose = g.node("DWPoseEstimate", model=model[0], image=image[0], size_from=latent[0], style="xinsir")
    _sample(
        g,
        pose,
        latent,
        checkpoint="sd_xl_base_1.0.safetensors",
        controlnet="controlnet-openpose-sdxl-1.0.safetensors",
        prompt="an astronaut walking through a market, film photograph",
        cfg=6.0,
        steps=28,
        prefix="dwpose/sdxl",
    )


def _sample(g, pose, latent, checkpoint, controlnet, prompt, cfg, steps, prefix) -> None:
    g.node("PreviewImage", "Pose map", images=pose[0])
    base = g.node("CheckpointLoaderSimple", ckpt_name=checkpoint)
    positive = g.node("CLIPTextEncode", "Prompt", clip=base[1], text=prompt)
    negative = g.node("CLIPTextEncode", "Negative prompt", clip=base[1], text=NEGATIVE)
    control = g.node("ControlNetLoader", control_net_name=controlnet)
    applied = g.node(
        "ControlNetApplyAdvanced",
        positive=positive[0],
        negative=negative[0],
        control_net=control[0],
        image=pose[0],
        vae=base[2],
        strength=0.9,
        end_percent=0.8,
    )
    samples = g.node(
        "KSampler",
        model=base[0],
        positive=applied[0],
        negative=applied[1],
        latent_image=latent[0],
        seed=1,
        steps=steps,
        cfg=cfg,
        sampler_name="dpmpp_2m",
        scheduler="karras",
    )
    decoded = g.node("VAEDecode", samples=samples[0], vae=base[2])
    g.node("SaveImage", images=decoded[0], filename_prefix=prefix)


def edit_json(g: Graph) -> None:
    text = json.dumps(json.loads((HOME / "images" / "two_poses.json").read_text()), separators=(",", ":"))
    source = g.node("DWPoseLoadJSON", text=text)
    before = g.node("DWPoseRender", "As loaded", keypoints=source[0], size="source")
    g.node("PreviewImage", "As loaded", images=before[0])
    edited = g.node("DWPoseTransform", keypoints=source[0], scale=0.8, rotate=-8.0, pivot="people", mirror=True)
    after = g.node(
        "DWPoseRender", "At another size", keypoints=edited[0], size="width x height", width=1024, height=1024
    )
    g.node("SaveImage", "Edited pose map", images=after[0], filename_prefix="dwpose/edited")
    g.node("DWPoseSaveJSON", keypoints=edited[0], filename_prefix="dwpose/edited")


def folder_to_json(g: Graph) -> None:
    model = g.node("DWPoseLoader")
    folder = g.node("DWPoseLoadFolder", folder="pictures")
    pose = g.node("DWPoseEstimate", model=model[0], image=folder[0])
    g.node("DWPoseSaveJSON", keypoints=pose[1], filename_prefix=folder[1], layout="one file")
    g.node("SaveImage", "Pose maps", images=pose[0], filename_prefix="dwpose/pictures")


def two_dancers(g: Graph) -> None:
    model = g.node("DWPoseLoader")
    video = g.node("LoadVideo", file="input.mp4")
    parts = g.node("GetVideoComponents", video=video[0])
    pose = g.node("DWPoseEstimate", model=model[0], image=parts[0], size="source", max_people=4)
    steady = g.node("DWPoseSmooth", keypoints=pose[1], fps=parts[2])
    results = {}
    for name, start in (("Left dancer", 0), ("Right dancer", 1)):
        chosen = g.node("DWPoseSelect", name, keypoints=steady[0], by="left", start=start)
        results[name] = g.node("DWPoseRender", name, keypoints=chosen[0], size="source")
    both = g.node(
        "DWPoseRender", "Both, over the video", keypoints=steady[0], image=parts[0], size="source", color_by_person=True
    )
    results["Both"] = both
    for name, maps in results.items():
        clip = g.node("CreateVideo", name, images=maps[0], fps=parts[2])
        g.node("SaveVideo", name, video=clip[0], filename_prefix=f"dwpose/{name.lower().replace(' ', '_')}")


def wan_animate(g: Graph) -> None:
    model = g.node("DWPoseLoader")
    video = g.node("LoadVideo", file="input.mp4")
    character = g.node("LoadImage", "Character", image="example.png")
    parts = g.node("GetVideoComponents", video=video[0])
    driving = g.node("DWPoseEstimate", "Driving video", model=model[0], image=parts[0], size="source")
    target = g.node("DWPoseEstimate", "Character's pose", model=model[0], image=character[0], size="source")
    steady = g.node("DWPoseSmooth", keypoints=driving[1], fps=parts[2])
    dancer = g.node("DWPoseSelect", keypoints=steady[0], by="largest")
    fitted = g.node(
        "DWPoseTransform", keypoints=dancer[0], reference=target[1], fit="retarget and align", pivot="people"
    )
    maps = g.node("DWPoseRender", keypoints=fitted[0], size="width x height", width=832, height=480, face=False)
    clip = g.node("CreateVideo", "Pose video", images=maps[0], fps=parts[2])
    g.node("SaveVideo", "Pose video", video=clip[0], filename_prefix="dwpose/wan_pose")
    faces = g.node("DWPoseFaceHandCrop", "Face crops", image=parts[0], keypoints=dancer[0], crop_size=512)
    face_clip = g.node("CreateVideo", "Face video", images=faces[0], fps=parts[2])
    g.node("SaveVideo", "Face video", video=face_clip[0], filename_prefix="dwpose/wan_face")


def migrated(g: Graph) -> None:
    image = g.node("LoadImage", image="example.png")
    pose = g.node("DWPosePreprocessorCompat", image=image[0], resolution=768)
    g.node("SaveImage", images=pose[0], filename_prefix="dwpose/migrated")


GRAPHS = {
    "DWPose 1 - Image to pose map": (
        image_to_map,
        "Finds everyone in a picture and draws the pose map for a ControlNet, and the same over the picture.\n"
        "Choose a picture in **Load Image**. The networks are downloaded on the first run, or put into "
        "`models/dwpose` and `models/detection`.",
    ),
    "DWPose 2 - Video to pose video": (
        video_to_pose_video,
        "Pose video with the sound and frame rate of the original, made steady: people keep their ids, short gaps are "
        "filled, jitter is removed.\nChoose a video in **Load Video**.",
    ),
    "DWPose 3 - ControlNet SD 1.5": (
        controlnet_sd15,
        "A new picture in the pose of an old one, with Stable Diffusion 1.5.\n"
        "Needs a SD 1.5 checkpoint and `control_v11p_sd15_openpose`. The map gets the size of the latent; of a picture "
        "of another shape it shows the middle (`fit`: crop).",
    ),
    "DWPose 4 - ControlNet SDXL xinsir": (
        controlnet_sdxl_xinsir,
        "A new picture in the pose of an old one, with SDXL and xinsir's openpose ControlNet, which wants thicker "
        "sticks (style `xinsir`).\nThe map gets the size of the latent; of a picture of another shape it shows the "
        "middle (`fit`: crop). The ControlNet is `diffusion_pytorch_model` of "
        "xinsir/controlnet-openpose-sdxl-1.0 on Hugging Face, renamed.",
    ),
    "DWPose 5 - Edit and re-render JSON": (
        edit_json,
        "Keypoints from JSON, mirrored, scaled and turned, drawn again at another size and saved.\n"
        "Put your own JSON into **DWPose Load JSON**: text, or the path of a file in ComfyUI's input folder.",
    ),
    "DWPose 6 - Folder to JSON files": (
        folder_to_json,
        "Keypoints of all pictures of a folder, one JSON file and one pose map each.\n"
        "Put the pictures into a folder of ComfyUI's input folder and write its name into **DWPose Load Folder**.",
    ),
    "DWPose 7 - Two dancers": (
        two_dancers,
        "Follows everyone through a video and gives the left and the right dancer a pose video each, although they "
        "change places.\nChoose a video in **Load Video**.",
    ),
    "DWPose 8 - Wan Animate pose and face": (
        wan_animate,
        "Pose video and face video for character animation: the motion of a driving video on the proportions of your "
        "character, and steady face crops.\nChoose a video and the picture of your character. The pose lies over that "
        "picture as **WanAnimateToVideo** crops it: give it the width and height of **DWPose Render**.",
    ),
    "DWPose 9 - Migrated from controlnet_aux": (
        migrated,
        "What `9 - Original graph` (in the folder `api`) becomes where comfyui_controlnet_aux is not installed: its "
        "DWPreprocessor node, replaced by **DWPose Preprocessor (Compat)** with all its settings.",
    ),
}


def original_graph(object_info: dict) -> dict:
    """The API prompt of the older pack that graph 9 is the twin of."""
    g = Graph(object_info, "")
    migrated(g)
    prompt = g.api()
    prompt["2"]["class_type"] = "DWPreprocessor"
    prompt["2"]["_meta"]["title"] = "DWPose Estimator"
    return prompt


BLUEPRINT = "Image to Pose Map (DWPose)"


def pose_map_blueprint(object_info: dict) -> dict:
    g = Graph(object_info, "")
    model = g.node("DWPoseLoader")
    g.node("DWPoseEstimate", model=model[0])
    shown = ("size", "resolution", "width", "height", "fit", "style", "body", "hands", "face", "feet", "max_people")
    return blueprint(
        BLUEPRINT,
        g.ui(),
        inputs=[(2, name) for name in ("image", "boxes", "mask", "size_from")],
        outputs=[(2, 0), (2, 1), (2, 2)],
        widgets=[(1, "pose"), (1, "detector"), *((2, name) for name in shown)],
        category="Image Tools/Pose",
        description="Finds people in images and draws the pose map for a ControlNet.",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True, help="a running ComfyUI with this pack")
    address = parser.parse_args().url.rstrip("/")
    with urllib.request.urlopen(f"{address}/object_info") as answer:
        object_info = json.load(answer)
    (HOME / "api").mkdir(exist_ok=True)
    for name, (build, note) in GRAPHS.items():
        graph = Graph(object_info, note, DOWNLOADS)
        build(graph)
        shown = graph.ui()
        shown["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
        _write(HOME / f"{name}.json", shown)
        _write(HOME / "api" / f"{name}.json", graph.api())
        print(f"{name}: {len(graph.nodes)} nodes")
    (HOME.parent / "subgraphs").mkdir(exist_ok=True)
    _write(HOME.parent / "subgraphs" / f"{BLUEPRINT}.json", pose_map_blueprint(object_info))
    _write(HOME / "api" / "DWPose 9 - Original graph.json", original_graph(object_info))


def _write(path: Path, data: dict) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
