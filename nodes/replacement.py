"""Workflows of comfyui_controlnet_aux run here where that pack is not installed.

ComfyUI 0.13 and later replaces nodes that are not registered by what was registered for them, in the browser after a
question and in API prompts by itself. The id is never taken over: with the older pack installed nothing changes.
"""

from __future__ import annotations

from typing import Any

OLD_ID, NEW_ID = "DWPreprocessor", "DWPosePreprocessorCompat"
# Widgets of the old node in their order, with its defaults.
WIDGETS = {
    "detect_hand": "enable",
    "detect_body": "enable",
    "detect_face": "enable",
    "resolution": 512,
    "bbox_detector": "yolox_l.onnx",
    "pose_estimator": "dw-ll_ucoco_384_bs5.torchscript.pt",
    "scale_stick_for_xinsr_cn": "disable",
}


async def register() -> None:
    from comfy_api.v0_0_2 import ComfyAPI, io

    if not hasattr(io, "NodeReplace"):
        return
    await ComfyAPI().node_replacement.register(
        io.NodeReplace(
            new_node_id=NEW_ID,
            old_node_id=OLD_ID,
            old_widget_ids=list(WIDGETS),
            # Without a mapping for every widget the browser loses its value, without one for the outputs its links.
            input_mapping=[{"new_id": name, "old_id": name} for name in ("image", *WIDGETS)],
            output_mapping=[{"new_idx": 0, "old_idx": 0}, {"new_idx": 1, "old_idx": 1}],
        )
    )
    install_prompt_hook()


def install_prompt_hook() -> None:
    from server import PromptServer

    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.add_on_prompt_handler(complete_prompt)


def complete_prompt(data: dict[str, Any]) -> dict[str, Any]:
    """Fill in what API clients leave out of old nodes: ComfyUI's replacement raises KeyError for a mapped input or a
    `_meta` that is missing. Where ComfyUI has no replacement, rename the node here."""
    from comfy_api.v0_0_2 import io

    from nodes import NODE_CLASS_MAPPINGS

    prompt = data.get("prompt")
    if not isinstance(prompt, dict) or OLD_ID in NODE_CLASS_MAPPINGS:
        return data
    for node in prompt.values():
        if not isinstance(node, dict) or node.get("class_type") != OLD_ID:
            continue
        inputs = node.setdefault("inputs", {})
        for name, default in WIDGETS.items():
            inputs.setdefault(name, default)
        node.setdefault("_meta", {"title": OLD_ID})
        if not hasattr(io, "NodeReplace"):
            node["class_type"] = NEW_ID
    return data
