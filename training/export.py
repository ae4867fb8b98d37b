"""From a checkpoint to a file people can use: weights as safetensors and a model card beside them.

    python -m training.export runs/dwpose-m-stage2 dwpose-m.safetensors --stats stats.json
    python -m training.export epoch_270.pth dwpose-l.safetensors --stage 1 --data "COCO-WholeBody + UBody"

Takes a run folder (its best, else its last averaged weights), our last.pt, any .safetensors, and the original's raw
distillation checkpoints: stage 1 gives the student, stage 2 the teacher's backbone with the student's head. The result
loads by path everywhere in `dwpose_core`. `--stats` is the json that `python -m training.evaluate --json` writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from dwpose_core.models.rtmcc import DWPose, create_model
from dwpose_core.models.weights import load_pose, read_metadata

from . import checkpoint

# Terms of the training data, by a word in its path. They bind the weights as far as the law lets them; say so.
DATA_TERMS = {
    "coco_wholebody": "COCO-WholeBody v1.0 annotations: non-commercial research and education only; COCO images: "
    "the terms of each photograph on Flickr",
    "ubody": "UBody: non-commercial research only; keypoints come from a pose estimator plus filtering",
}


def read_network(source: Path, part: str) -> tuple[DWPose, dict | None]:
    """The finished network in `source` and the configuration of its run, where there is one beside it.

    Raises:
        ValueError: for a folder without weights, or a file that is none of the above.
    """
    folder = source if source.is_dir() else source.parent
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text()) if config_file.is_file() else None
    if source.is_dir():
        candidates = [source / name for name in ("best.safetensors", "last.safetensors") if (source / name).is_file()]
        if not candidates:
            raise ValueError(f"{source} has no best.safetensors and no last.safetensors: is it the folder of a run?")
        source = candidates[0]
    if source.suffix == ".pt" and config is not None:
        state = checkpoint.load_state(source)
        if "average" in state:
            network = create_model(config["model"])
            network.load_state_dict(state["average"])
            return network.eval(), config
    return load_pose(source, part=part), config


def model_card(
    network: DWPose, source: Path, digest: str, config: dict | None, data: str, licence: str, stats: dict | None
) -> str:
    """Markdown: what it is, what it was trained on and how, how good it is, what one may do with it."""
    height, width = network.config.input_size
    parameters = sum(p.numel() for p in network.parameters())
    lines = [
        f"# {network.name}",
        "",
        f"Whole-body pose network, 133 keypoints (COCO-WholeBody order), input {width} x {height} (W x H) RGB crops, "
        f"{parameters / 1e6:.2f} M parameters. sha256 `{digest}`.",
        "",
        "```python",
        "from dwpose_core import DWposeDetector",
        f'detector = DWposeDetector.from_pretrained(pose="{network.name}.safetensors")  # the path of this file',
        "```",
        "",
        "## Training data",
        "",
    ]
    paths = [f"{s['annotations']} x {s['weight']:g}" for s in config["train"]] if config else []
    lines += [f"- {line}" for line in ([data] if data else paths or ["not stated"])]
    known = " ".join([data, *paths]).lower().replace("-", "_")
    terms = [text for word, text in DATA_TERMS.items() if word in known]
    lines += ["", "## Licence", "", licence or "Not stated by whoever exported this file."]
    lines += [f"- {text}" for text in terms]
    lines += ["", "## Recipe", ""]
    if config:
        distill = config.get("distill")
        kind = f"distilled from {distill['teacher']}" if distill else "trained from annotations"
        lines += [
            f"`{config['name']}`: {kind}, {config['epochs']} epochs, learning rate {config['lr']:g} for a batch of "
            f"{config['lr_batch']}, seed {config['seed']}. Every setting:",
            "",
            "```json",
            json.dumps(config, indent=1),
            "```",
        ]
    else:
        lines.append(f"Converted from `{source.name}`; its training settings are not in the file.")
    lines += ["", "## Accuracy", ""]
    if stats:
        parts = ("body", "foot", "face", "left_hand", "right_hand", "hands", "whole")
        flip = {True: "with flip test", False: "without flip test", None: ""}[stats["flip_test"]]
        lines += [
            f"`{Path(stats['annotations']).name}`, boxes: {Path(stats['boxes']).name}, {flip}. "
            f"Hands: {stats['hands']}.",
            "",
            "| | " + " | ".join(part.replace("_", " ") for part in parts) + " |",
            "|---|" + "---|" * len(parts),
        ]
        for kind in ("AP", "AR"):
            lines.append(f"| {kind} | " + " | ".join(f"{stats['stats'][f'{p}/{kind}']:.3f}" for p in parts) + " |")
    else:
        lines.append("Not measured when this file was made (`python -m training.evaluate`).")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="run folder or weight file")
    parser.add_argument("out", type=Path, help="the .safetensors to write; the card becomes OUT with .md")
    parser.add_argument("--stage", choices=("1", "2"), help="of a raw distillation checkpoint; found out without it")
    parser.add_argument("--stats", type=Path, help="json of training.evaluate, for the card")
    parser.add_argument("--data", default="", help="training data, where the run's config.json is not at hand")
    parser.add_argument("--licence", default="", help="of the weights, for the card")
    parser.add_argument("--half", action="store_true", help="store float16: half the size")
    args = parser.parse_args(argv)
    if args.out.suffix != ".safetensors":
        parser.error(f"OUT must end in .safetensors, got {args.out}")
    network, config = read_network(args.checkpoint, f"stage{args.stage}" if args.stage else "auto")
    stats = json.loads(args.stats.read_text()) if args.stats else None
    metadata = {"source": args.checkpoint.name, "recipe": config["name"] if config else ""}
    if args.checkpoint.suffix == ".safetensors":
        metadata = {**{k: v for k, v in read_metadata(args.checkpoint).items() if k in ("recipe", "step")}, **metadata}
    if stats:
        metadata["whole_body_ap"] = f"{stats['stats']['whole/AP']:.4f}"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_model(args.out, network.half() if args.half else network, metadata)
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    card = args.out.with_suffix(".md")
    card.write_text(model_card(network, args.checkpoint, digest, config, args.data, args.licence, stats))
    print(f"{args.out} ({args.out.stat().st_size / 1e6:.1f} MB, {network.name}) and {card}")


if __name__ == "__main__":
    main()
