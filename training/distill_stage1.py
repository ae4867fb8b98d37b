"""DWPose's first stage: train a student on the annotations and on a teacher's features and logits.

    python -m training.distill_stage1 dwpose-l-384 --distill.teacher-weights runs/rtmpose-x-384/best.safetensors \
        --init cspnext-l.pth --data-root /data
    python -m training.distill_stage1 dwpose-m --distill.teacher-weights rtmpose-l_ucoco_256x192-95bb32f5_20230822.pth

Teachers are plain RTMPose networks: l for the students t, s and m, x for l. The same command continues an interrupted
run. As released, the teacher's BatchNorm is in training mode; `--distill.teacher-batch-stats false` keeps it in eval
(docs/training.md says what that does).
"""

from __future__ import annotations

import sys

import torch

from dwpose_core.models import create_model

from . import command, distributed
from . import config as configs
from .loop import fit
from .objectives import Stage1Distillation
from .recipe import load_start, load_teacher, make_evaluate, with_toy_data


def main(argv: list[str] | None = None) -> None:
    config = configs.parse(configs.STAGE1, argv, __doc__)
    process = distributed.start(config.device)
    config = with_toy_data(config, process)

    torch.manual_seed(config.seed)  # every process builds the same network
    student = create_model(config.model)
    if config.init:
        load_start(student, config)
    teacher = load_teacher(config)

    objective = Stage1Distillation(
        student,
        teacher,
        epochs=config.epochs,
        reference_batch=config.reference_batch,
        feature_weight=config.distill.feature_weight,
        logit_weight=config.distill.logit_weight,
        decay=config.distill.decay,
        teacher_batch_stats=config.distill.teacher_batch_stats,
    )
    fit(objective, config, process, make_evaluate(config, process))
    distributed.stop()


if __name__ == "__main__":
    sys.exit(command.run(main))
