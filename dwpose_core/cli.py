"""The `dwpose` command. `python -m dwpose_core.cli` is the same program.

Exit codes: 0 all well, 1 some inputs failed (they are listed), 2 the command line makes no sense, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from . import __version__

# As backends.PROVIDERS, which costs importing torch: `--help` shall be quick.
PROVIDERS = ("cpu", "cuda", "tensorrt", "openvino", "directml", "coreml")
EPILOG = """\
examples:
  dwpose image photo.jpg -o pose.png                 one photograph, one pose map
  dwpose image photos/ -o poses/ --json --overlay    a folder, with keypoints and a picture of both
  dwpose render pose.json -o big.png --draw-size 2048
  dwpose video in.mp4 -o pose.mp4                    a video, its people tracked and smoothed
  dwpose animate dance.mp4 --reference portrait.png -o inputs/    pose and face video for Wan-Animate
  dwpose extract photos/ --out poses/                a million images, resumable
  dwpose models                                      known weights, and where they are stored
  dwpose doctor                                      what is installed, what it runs on, what to fix
"""


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults in the help, line breaks in the examples; no "(default: None)"."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS) or not action.option_strings:
            return action.help
        return super()._get_help_string(action)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dwpose",
        description="Whole-body pose estimation: 133 keypoints per person, drawn as OpenPose-style control maps.",
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dwpose {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, summary: str, examples: str) -> argparse.ArgumentParser:
        epilog = "examples:\n" + "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
        return commands.add_parser(
            name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=epilog,
            formatter_class=_HelpFormatter,
        )  # fmt: skip

    _add_image(command)
    from .animate_cli import add_command as add_animate
    from .dataset.cli import add_commands as add_dataset
    from .video_cli import add_command as add_video

    _add_render(command)
    add_video(command, _add_networks, _add_drawing)
    add_animate(command, _add_networks)
    add_dataset(command, _add_networks, _add_drawing)
    _add_weights(command)
    return parser


def _add_image(command) -> None:
    sub = command(
        "image",
        "pose maps of photographs",
        """
        dwpose image photo.jpg -o pose.png
        dwpose image photos/ "more/*.png" -o poses/ --json
        dwpose image photos/ -o poses/ --json-layout openpose
        dwpose image dancers.jpg -o pose.png --style xinsir --draw-size 1024x1536
        dwpose image face.jpg -o pose.png --detector none --no-hand
        """,
    )
    sub.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, folders (searched recursively) or globs")
    sub.add_argument(
        "-o", "--out", required=True, help="the map, or a folder for <stem>.png that mirrors the folders searched"
    )
    sub.add_argument("--json", action="store_true", help="write OpenPose JSON beside each map")
    sub.add_argument(
        "--json-layout",
        choices=("list", "openpose", "body25"),
        help="implies --json. list: one frame in a list, as ComfyUI has it, in <stem>.json (default). openpose: a file "
        "of the OpenPose program, <stem>_keypoints.json, as pose editors read it. body25: the same with 25 body "
        "points, for try-on networks and body fitting",
    )
    sub.add_argument(
        "--scores", action="store_true", help="implies --json: confidences are scores (most readers expect 1 or 0)"
    )
    sub.add_argument("--overlay", action="store_true", help="write <stem>.overlay.png, the pose over the photograph")
    find = _add_networks(sub)
    find.add_argument(
        "--box",
        action="append",
        metavar="X1,Y1,X2,Y2",
        help="own box in pixels, for one input; repeat. One that begins left of the picture is --box=-5,0,80,90",
    )
    _add_drawing(sub)
    sub.set_defaults(run="image")


def _add_networks(sub: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Which networks, and how they find people (the group that is returned)."""
    nets = sub.add_argument_group("networks")
    nets.add_argument("--pose", default="auto", help="name from `dwpose models` or a .safetensors, .pth, .onnx file")
    nets.add_argument("--detector", default="auto", help="likewise; 'none' starts from the whole image (one person)")
    nets.add_argument("--device", help="cuda, cuda:1, mps, cpu, ... (default: the best one present)")
    nets.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), help="default: float16 on a GPU")
    nets.add_argument("--backend", choices=("torch", "onnx"), default="torch", help="onnx is ONNX Runtime")
    nets.add_argument("--provider", choices=PROVIDERS, help="of ONNX Runtime: where it runs")
    nets.add_argument("--cache-dir", help="where downloads go (default: the Hugging Face cache)")
    nets.add_argument("--offline", action="store_true", help="never ask the network")
    find = sub.add_argument_group("finding people")
    find.add_argument("--max-people", type=int, help="keep the best-scoring people of each image")
    find.add_argument("--detector-threshold", type=float, default=0.3, help="score a person box must exceed")
    find.add_argument(
        "--detector-size",
        type=int,
        metavar="N",
        help="side of the detector's input, a multiple of 32 pixels; larger finds smaller people, and is slower "
        "(default: as trained)",
    )
    find.add_argument("--nms-threshold", type=float, default=0.45, help="overlap (IoU) up to which two boxes stay two")
    find.add_argument("--refine", action="store_true", help="second pass in boxes made from the first keypoints")
    find.add_argument(
        "--flip-test",
        choices=("off", "original", "corrected"),
        default="off",
        help="average with the mirror image; 'original' is the published one, off by a quarter pixel",
    )
    find.add_argument("--batch-size", type=int, default=8, help="images per detector call")
    return find


def _add_drawing(sub: argparse.ArgumentParser) -> None:
    draw = sub.add_argument_group("drawing")
    draw.add_argument("--style", default="openpose", help="openpose, dwpose or xinsir")
    draw.add_argument("--draw-size", metavar="N or WxH", help="short side, or width x height (default: as the image)")
    draw.add_argument("--threshold", type=float, default=0.3, help="score from which a keypoint counts as seen")
    draw.add_argument("--thickness", type=float, default=1.0, help="multiplies line widths and point sizes")
    draw.add_argument("--no-body", action="store_true", help="leave the body out")
    draw.add_argument("--no-hand", action="store_true", help="leave the hands out")
    draw.add_argument("--no-face", action="store_true", help="leave the face out (JSON has all parts)")
    draw.add_argument("--feet", action="store_true", help="draw the feet, which ControlNet maps leave out")
    draw.add_argument("--color-by-person", action="store_true", help="one colour per person")


def _add_render(command) -> None:
    sub = command(
        "render",
        "draw stored keypoints again, without any network",
        """
        dwpose render pose.json -o pose.png
        dwpose render pose.json -o pose.png --draw-size 1024x1536 --style xinsir
        dwpose render clip.json -o frames/
        dwpose render clip.npz -o pose.mp4 --fps 24
        dwpose render frames/ -o pose.mp4                a folder with one file per frame
        dwpose render poses/ -o thick/ --thickness 2     of `dwpose image --json`, or of `dwpose extract`
        dwpose render films/ -o again/                   of `dwpose extract` of videos: videos again
        """,
    )
    sub.add_argument(
        "keypoints",
        help="OpenPose JSON of any dialect, .npz written by dwpose, a folder of these, or the output of extract",
    )
    sub.add_argument(
        "-o",
        "--out",
        required=True,
        help="the map, or a folder for <stem>.png; with several frames a folder for <frame>.png, or an .mp4",
    )
    sub.add_argument("--fps", type=float, help="frame rate of an .mp4 (default: 25; of extracted videos: as they were)")
    sub.add_argument("--image-size", metavar="WxH", help="size the keypoints refer to, where the JSON does not say")
    _add_drawing(sub)
    sub.set_defaults(run="render")


def _add_weights(command) -> None:
    sub = command("models", "known weights: licence, and where they are stored", "dwpose models")
    sub.add_argument("--cache-dir", help="where downloads go (default: the Hugging Face cache)")
    sub.set_defaults(run="models")

    sub = command(
        "convert",
        "any weight file to .safetensors, checked by a forward pass",
        """
        dwpose convert dw-ll_ucoco_384.onnx dwpose-l-384.safetensors
        dwpose convert stage2/epoch_60.pth dwpose-l.safetensors --part stage2
        """,
    )
    sub.add_argument("source", help=".pth, .onnx or .safetensors of a pose network or of YOLOX")
    sub.add_argument("target", help="the .safetensors file to write")
    sub.add_argument(
        "--part",
        choices=("auto", "plain", "stage1", "stage2"),
        default="auto",
        help="which weights of a raw distillation checkpoint",
    )
    sub.set_defaults(run="convert")

    sub = command(
        "export",
        "a network to .onnx with dynamic batch; prints how far ONNX Runtime is from PyTorch",
        """
        dwpose export dwpose-l-384 dwpose-l-384.onnx
        dwpose export my_model.safetensors my_model.onnx
        """,
    )
    sub.add_argument("source", help="name from `dwpose models`, or a weight file")
    sub.add_argument("target", help="the .onnx file to write")
    sub.add_argument("--opset", type=int, default=17, help="ONNX operator set, 7 to 20")
    sub.add_argument("--cache-dir", help="where downloads go (default: the Hugging Face cache)")
    sub.add_argument("--offline", action="store_true", help="never ask the network")
    sub.set_defaults(run="export")

    sub = command("doctor", "versions, devices, providers, caches, and what to fix", "dwpose doctor")
    sub.add_argument("--cache-dir", help="where downloads go (default: the Hugging Face cache)")
    sub.set_defaults(run="doctor")


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:  # imported after parsing: `dwpose --help` should not wait for torch
        from . import commands
        from .models.download import WeightsUnavailable
    except KeyboardInterrupt:
        return _interrupted()
    if getattr(sys.stdout, "errors", "") == "strict":  # Windows' code pages lack most letters that names are made of
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *_, **__: print(f"dwpose: {message}", file=sys.stderr)
    try:
        return getattr(commands, args.run)(args)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        # The reader, such as `head`, has gone; the interpreter must not complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, as other programs
    except (ValueError, OSError, ImportError, WeightsUnavailable) as error:
        print(f"dwpose: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"dwpose: not enough memory: {error}", file=sys.stderr)
        return 2


def _interrupted() -> int:
    print("\ndwpose: interrupted; files already written are whole", file=sys.stderr)
    return 130


if __name__ == "__main__":
    sys.exit(main())
