"""ComfyUI entry point. ComfyUI imports this folder as a package, under whatever name it has in custom_nodes.

Importing it does nothing: the nodes are loaded when ComfyUI asks for them. NODE_CLASS_MAPPINGS is left out on purpose;
where it exists, ComfyUI ignores `comfy_entrypoint` and with it node replacement.
"""

WEB_DIRECTORY = "./nodes/web"  # the node documentation, docs/<node id>.md


async def comfy_entrypoint():
    from .nodes import DWPoseExtension

    return await DWPoseExtension.create()
