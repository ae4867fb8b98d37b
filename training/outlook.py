"""What a training is going to do, told before it starts, and what of its configuration can hardly be meant.

A schedule is written in epochs and steps, so a shorter training or a smaller data set moves it past the end: nothing
fails then, the network is only worse for it.
"""

from __future__ import annotations

from .config import TrainConfig
from .optim import Schedule


def outlook(config: TrainConfig, schedule: Schedule, steps_per_epoch: int, samples_per_step: int) -> list[str]:
    """Steps, learning rate and the epochs where something changes, a line each."""
    total = config.epochs * steps_per_epoch
    steps = f"{config.name}: {config.epochs} epochs x {steps_per_epoch} steps of {samples_per_step} = {total} steps"
    if 0 < config.max_steps < total:
        steps += f", stopped after {config.max_steps}"
    rate = f"learning rate: warm-up of {config.warmup_steps} steps to {_highest(schedule, total):.3g}"
    if config.lr_scaling != "none":
        rate += f" ({config.lr:g} is for {config.lr_batch} samples per step, --lr-scaling {config.lr_scaling})"
    if schedule.cosine_end and schedule.cosine_start < total:
        rate += f", cosine from epoch {config.cosine_epoch} (step {schedule.cosine_start})"
        rate += f" down to {schedule.final * schedule.lr:.3g}"
    else:
        rate += ", then constant"
    late = "augmentation: the same in all epochs"
    if 0 < config.late_epoch < config.epochs:
        late = f"augmentation: late form from epoch {config.late_epoch} (step {config.late_epoch * steps_per_epoch})"
    return [steps, rate, late]


def _highest(schedule: Schedule, total: int) -> float:
    """What the rate gets to: less than asked for where the cosine begins, or training ends, within the warm-up."""
    end = min(schedule.warmup, total - 1)
    begin = min(schedule.cosine_start, end) if schedule.cosine_end else end
    return max(schedule.at(step) for step in range(begin, end + 1))


def doubts(config: TrainConfig, schedule: Schedule, steps_per_epoch: int) -> list[str]:
    """Parts of the schedule that lie behind the end of the training, and the flags that mend them."""
    total = config.epochs * steps_per_epoch
    found = []
    if config.schedule == "cosine" and config.cosine_epoch >= config.epochs:
        found.append(
            f"the cosine would begin at epoch {config.cosine_epoch}, but training ends after {config.epochs}: the "
            f"learning rate never falls. Add --cosine-epoch {config.epochs // 2}, or --schedule constant if that is "
            "what you want"
        )
    if 0 < config.late_epoch >= config.epochs:
        found.append(
            f"the late augmentation would begin at epoch {config.late_epoch}, but training ends after "
            f"{config.epochs}: it is never used. Add --late-epoch {config.epochs * 8 // 9}, or --late-epoch 0 if "
            "that is what you want"
        )
    if config.warmup_steps >= total:
        found.append(
            f"the warm-up takes {config.warmup_steps} steps, but the training has {total}: the learning rate gets no "
            f"higher than {schedule.at(total - 1):.2g} of {schedule.lr:.2g}. Add --warmup-steps {total // 20}, or more "
            "--epochs"
        )
    elif config.schedule == "cosine" and schedule.cosine_start < config.warmup_steps:
        found.append(
            f"the cosine begins at step {schedule.cosine_start}, within the warm-up of {config.warmup_steps} steps: "
            f"the learning rate gets no higher than {_highest(schedule, total):.2g} of {schedule.lr:.2g}. Add "
            f"--warmup-steps {total // 20}"
        )
    return found
