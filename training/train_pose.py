"""Train a pose network from annotations: RTMPose, the baselines and teachers of DWPose.

    python -m training.train_pose debug                                     seconds on a CPU, draws its own data
    python -m training.train_pose rtmpose-l --init cspnext-l.pth --data-root /data
    torchrun --nproc-per-node 8 -m training.train_pose rtmpose-x-384 --precision bf16 --compile true

The same command continues a run that was interrupted. Every field of `training.config.TrainConfig` is a flag.
"""

from __future__ import annotations

import sys

import torch

from dwpose_core.models import create_model

from . import command, distributed
from . import config as configs
from .loop import fit
from .objectives import SimCCObjective
from .recipe import load_start, make_evaluate, with_toy_data


def main(argv: list[str] | None = None) -> None:
    config = configs.parse(configs.POSE, argv, __doc__)
    process = distributed.start(config.device)
    config = with_toy_data(config, process)

    torch.manual_seed(config.seed)  # every process builds the same network
    student = create_model(config.model)
    if config.init:
        load_start(student, config)

    objective = SimCCObjective(student, config.reference_batch)
    fit(objective, config, process, make_evaluate(config, process))
    distributed.stop()


if __name__ == "__main__":
    sys.exit(command.run(main))
