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
import sys
from pathlib import Path

from dwpose_core.models.rtmcc import DWPose, create_model
from dwpose_core.models.weights import load_pose, read_metadata

from . import checkpoint
from .command import output, run
from .data.wholebody import read_json
from .metric import shown

# What the files of a run say about themselves, see `loop._metadata`.
FACTS = ("recipe", "step", "seed", "whole_body_ap")
# Terms of the training data, by a word in its path. They bind the weights as far as the law lets them; say so.
DATA_TERMS = {
    "coco_wholebody": "COCO-WholeBody v1.0 annotations: non-commercial research and education only; COCO images: "
    "the terms of each photograph on Flickr",
    "ubody": "UBody: non-commercial research only; keypoints come from a pose estimator plus filtering",
}


def choose(source: Path) -> Path:
    """The weight file that `source` stands for: of a run folder the best, where there was validation, else the last.

    Raises:
        ValueError: for a folder without weights.
    """
    if not source.is_dir():
        return source
    for name in ("best.safetensors", "last.safetensors"):
        if (source / name).is_file():
            return source / name
    raise ValueError(f"{source} has no best.safetensors and no last.safetensors: is it the folder of a run?")


def read_network(file: Path, part: str) -> tuple[DWPose, dict | None, dict[str, str]]:
    """The finished network in `file`, the configuration of its run where that lies beside it, and what the file or
    the configuration says about it: recipe, step, seed, whole_body_ap.

    Raises:
        ValueError: for a file that is no network.
    """
    config_file = file.parent / "config.json"
    config = read_json(config_file) if config_file.is_file() else None
    if config is not None and not {"name", "model", "train"} <= config.keys():
        config = None  # of something else
    if file.suffix == ".pt" and config:
        state = checkpoint.load_state(file)
        if "average" in state:
            network = create_model(config["model"])
            network.load_state_dict(state["average"])
            facts = {"recipe": config["name"], "step": str(state["step"]), "seed": str(config["seed"])}
            return network.eval(), config, facts
    network, facts = load_pose(file, part=part), {}
    if file.suffix == ".safetensors":
        facts = {key: value for key, value in read_metadata(file).items() if key in FACTS and value}
        if config and facts.get("recipe", config["name"]) != config["name"]:
            config = None  # the file was moved here from another run
    return network, config, ({"recipe": config["name"]} if config else {}) | facts


def model_card(
    network: DWPose,
    file: str,
    digest: str,
    config: dict | None,
    metadata: dict[str, str],
    data: str,
    licence: str,
    stats: dict | None,
) -> str:
    """Markdown: what it is, what it was trained on and how, how good it is, what one may do with it. `file` is the
    name of the exported file, `metadata` what is in its header."""
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
        f'detector = DWposeDetector.from_pretrained(pose="{file}")  # the path of this file',
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
        known = f" The recipe is called `{metadata['recipe']}`." if "recipe" in metadata else ""
        lines.append(f"The training settings were not beside the file.{known}")
    step = f", step {metadata['step']}" if "step" in metadata else ""
    lines += ["", f"Exported from `{metadata['source']}`{step}."]
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
            lines.append(f"| {kind} | " + " | ".join(shown(stats["stats"][f"{p}/{kind}"], 3) for p in parts) + " |")
    elif "whole_body_ap" in metadata:
        lines.append(f"Whole-body AP {metadata['whole_body_ap']} in the validation of its own run, not measured since.")
    else:
        lines.append("Not measured when this file was made (`python -m training.evaluate`).")
    return "\n".join(lines) + "\n"


def read_stats(path: Path) -> dict:
    """The record of one model that `python -m training.evaluate --json` wrote.

    Raises:
        ValueError: when it is something else.
    """
    stats = read_json(path)
    if not isinstance(stats, dict) or "whole/AP" not in stats.get("stats", {}):
        raise ValueError(f"{path} is not the record of one model, as `python -m training.evaluate --json` writes it")
    return stats


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
    output(args.out)
    stats = read_stats(args.stats) if args.stats else None
    file = choose(args.checkpoint)
    network, config, facts = read_network(file, f"stage{args.stage}" if args.stage else "auto")
    source = f"{file.resolve().parent.name}/{file.name}" if args.checkpoint.is_dir() else file.name
    metadata = {"source": source, **facts}
    if stats:
        metadata["whole_body_ap"] = f"{stats['stats']['whole/AP']:.4f}"
    checkpoint.save_model(args.out, network.half() if args.half else network, metadata)
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    card = args.out.with_suffix(".md")
    text = model_card(network, args.out.name, digest, config, metadata, args.data, args.licence, stats)
    card.write_text(text, encoding="utf-8")
    step = f", step {metadata['step']}" if "step" in metadata else ""
    size = args.out.stat().st_size / 1e6
    print(f"{args.out} ({size:.1f} MB, {network.name} from {file}{step}) and {card}")


if __name__ == "__main__":
    sys.exit(run(main))
