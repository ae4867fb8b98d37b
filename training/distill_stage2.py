"""DWPose's second stage: a head learns the logits of the stage-1 head, on the frozen stage-1 backbone.

    python -m training.distill_stage2 dwpose-l-384 --distill.teacher-weights runs/dwpose-l-384-stage1/best.safetensors

The checkpoint it writes is a complete network. Defaults are as released; `--schedule cosine` and
`--distill.teacher-batch-stats false` are the alternatives (docs/training.md says what they do).
"""

from __future__ import annotations

import sys

import torch

from dwpose_core.models import create_model

from . import command, distributed
from . import config as configs
from .loop import fit
from .objectives import Stage2Distillation
from .recipe import load_teacher, make_evaluate, with_toy_data


def main(argv: list[str] | None = None) -> None:
    config = configs.parse(configs.STAGE2, argv, __doc__)
    process = distributed.start(config.device)
    config = with_toy_data(config, process)

    torch.manual_seed(config.seed)  # every process builds the same network
    student = create_model(config.model)
    teacher = load_teacher(config)
    if teacher.config != student.config:
        raise ValueError(
            f"the teacher of the second stage must be a {config.model}, as its student; got {teacher.name}"
        )
    if config.distill.head_init == "stage1":
        student.head.load_state_dict(teacher.head.state_dict())

    objective = Stage2Distillation(
        student,
        teacher,
        logit_weight=config.distill.logit_weight,
        teacher_batch_stats=config.distill.teacher_batch_stats,
    )
    fit(objective, config, process, make_evaluate(config, process))
    distributed.stop()


if __name__ == "__main__":
    sys.exit(command.run(main))
