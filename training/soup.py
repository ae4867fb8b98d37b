"""A network with the mean of the weights of several that went on from one another (model soup, arXiv 2203.05482).

    python -m training.soup BEFORE.safetensors AFTER.safetensors --weights 1 2 --network dwpose-s --out DIR
    python -m training.soup RUN/last.pt EARLIER/last.pt --network yolox-cspnext-s --out DIR --calibrate RUN/pool

Pose networks are read as they were trained, without what their scores were scaled by; smaller ones grow first
(`growth.grown_as`), so a dwpose-m may be averaged with the dwpose-s that it was grown from. Of a detector's run last.pt
is read as well, its averaged weights. Writes DIR/NETWORK.safetensors (fp16).

`--calibrate POOL` scales or shifts the scores so that 0.3, the default threshold, is the balanced one on the test crops
of a run of training.starter, or the test scenes of one of training.train_detector of the same `--side`.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dwpose_core.models.rtmcc import VARIANTS as POSE
from dwpose_core.models.rtmcc import DWPose
from dwpose_core.models.weights import save_safetensors
from dwpose_core.models.yolox import VARIANTS as DETECTORS
from dwpose_core.models.yolox import YOLOX

from .command import at_least_one, run
from .detection.evaluate import calibrate as shift_scores
from .detection.pool import ScenePool
from .detection.start import DetectorConfig, read_start
from .growth import grown_as, mean_weights
from .starter_score import calibrate as scale_scores
from .starter_weights import as_trained, save
from .synthetic.pool import CropPool

SIDE = DetectorConfig.side


def mean_pose(files: Sequence[Path], network: str) -> DWPose:
    """The mean of pose networks, each file counted as often as it is named.

    Raises:
        ValueError: for a file whose network is not, and can't grow to be, the `network`.
    """
    nets = []
    for path in files:
        net = as_trained(path)
        if net.config != POSE[network]:
            torch.manual_seed(0)  # of the channels that are added
            net = grown_as(net, POSE[network], network)
        nets.append(net)
    return mean_weights(nets)


def mean_detector(files: Sequence[Path], network: str, side: int) -> YOLOX:
    """The mean of detectors, set to a square input of `side` pixels: no layer of a YOLOX hangs on its size.

    Raises:
        ValueError: for a file that holds another network.
    """
    nets = [read_start(str(path)) for path in files]
    for path, net in zip(files, nets, strict=True):
        if net.name != network:
            raise ValueError(f"{path} holds {net.name}, not {network}")
        net.config = replace(net.config, input_size=(side, side))
    return mean_weights(nets)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--network", choices=sorted({*POSE, *DETECTORS}), metavar="NAME", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--weights", type=at_least_one, nargs="+", metavar="N", help="how often each file counts (once if not given)"
    )
    parser.add_argument("--side", type=at_least_one, help=f"of a detector's input, pixels ({SIDE})")
    parser.add_argument("--calibrate", type=Path, metavar="POOL", help="folder of test crops or scenes")
    args = parser.parse_args(argv)
    counts = args.weights or [1] * len(args.files)
    if len(counts) != len(args.files):
        parser.error(f"--weights has {len(counts)} numbers for {len(args.files)} files")
    for path in args.files:
        if not path.is_file():
            parser.error(f"{path} is no file")
    if args.side and args.network in POSE:
        parser.error(f"--side is of detectors; {args.network} is a pose network")
    side = args.side or SIDE
    if side % 32:
        parser.error(f"--side must be a multiple of 32, the largest stride, got {side}")
    files = [path for path, count in zip(args.files, counts, strict=True) for _ in range(count)]
    result = args.out / f"{args.network}.safetensors"
    args.out.mkdir(parents=True, exist_ok=True)
    if args.network in POSE:
        net, factor = mean_pose(files, args.network).eval(), 1.0
        if args.calibrate:
            factor = scale_scores(net, CropPool.load(args.calibrate, "test_strong"))
        save(net, result, factor)
        return
    net = mean_detector(files, args.network, side).eval()
    if args.calibrate:
        pools = [ScenePool.load(args.calibrate, name) for name in ("test", "test_empty")]
        if pools[0].side != side:
            parser.error(f"the scenes of {args.calibrate} have side {pools[0].side}, not {side}; see --side")
        shift_scores(net, pools)
    note = {"training": f"training.soup, mean of {len(files)}", "licence": "Apache-2.0"}
    save_safetensors(copy.deepcopy(net).half(), result, note)


if __name__ == "__main__":
    sys.exit(run(main))
