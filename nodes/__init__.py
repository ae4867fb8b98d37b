"""ComfyUI nodes. Each node converts its inputs, calls dwpose_core, and converts back.

Modules of dwpose_core that pull in OpenCV are imported when a node runs, so that a server with this pack starts as fast
as one without.
"""

from __future__ import annotations

from comfy_api.v0_0_2 import ComfyExtension, io


class DWPoseExtension(ComfyExtension):
    @classmethod
    async def create(cls) -> DWPoseExtension:
        from . import files, replacement

        files.register_folders()
        if not hasattr(io, "NodeReplace"):
            # Older cores know neither node replacement nor on_load; the prompt hook alone does the renaming there.
            replacement.install_prompt_hook()
        return cls()

    async def on_load(self) -> None:
        from . import replacement

        await replacement.register()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        from .clips import DWPoseInterpolate, DWPoseMerge
        from .compat import DWPosePreprocessorCompat
        from .convert import DWPoseConvert
        from .crops import DWPoseFaceHandCrop, DWPoseToMask
        from .estimate import DWPoseEstimate
        from .folder import DWPoseLoadFolder
        from .json_files import DWPoseLoadJSON, DWPoseSaveJSON
        from .loader import DWPoseLoader
        from .people import DWPoseSelect, DWPoseSmooth, DWPoseTransform
        from .render import DWPoseRender

        return [
            DWPoseLoader,
            DWPoseEstimate,
            DWPoseRender,
            DWPoseSelect,
            DWPoseSmooth,
            DWPoseTransform,
            DWPoseMerge,
            DWPoseInterpolate,
            DWPoseFaceHandCrop,
            DWPoseToMask,
            DWPoseSaveJSON,
            DWPoseLoadJSON,
            DWPoseConvert,
            DWPoseLoadFolder,
            DWPosePreprocessorCompat,
        ]
