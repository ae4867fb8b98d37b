"""What the starter's networks are trained on, for how long and towards what: its recipes as stretches of training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dwpose_core.models.rtmcc import DWPose

from .label_objective import KnownStage1, LabelObjective
from .objectives import SimCCObjective, Stage2Distillation
from .optim import Schedule
from .small_simcc import MORE_HANDS, PART_WEIGHTS
from .starter_batches import Variation
from .starter_weights import LARGEST, NARROW, TINY, WIDE


@dataclass(frozen=True)
class Phase:
    """A stretch of training of the catalogue's `network`, with the heat-map aid for its first `aid` steps.

    `size` (H, W) is that of the crops; `pools` are (name, share of the batches); `schedule` has rate 1 and scales both
    learning rates; `absent` is the weight of flat rows relative to a seen keypoint of the same part, `parts` those of
    the parts. Where `frozen`, stem and first stage stay as they were at the start, which saves a dwpose-s a quarter of
    its time. `kind` is "labels", or "stage1" or "stage2" of DWPose's distillation, which have no aid.
    `variation` is what crops undergo each time they are drawn.
    """

    network: str
    size: tuple[int, int]
    pools: tuple[tuple[str, float], ...]
    steps: int
    aid: int
    schedule: Schedule
    absent: float = 0.15
    frozen: bool = False
    parts: dict[str, float] = field(default_factory=PART_WEIGHTS.copy)
    kind: str = "labels"
    variation: Variation = field(default_factory=Variation)

    def scaled(self, length: float) -> Phase:
        """The same in `length` times as many steps."""
        times = ("warmup", "cosine_start", "cosine_end")
        schedule = replace(self.schedule, **{name: round(getattr(self.schedule, name) * length) for name in times})
        steps, aid = max(1, round(self.steps * length)), round(self.aid * length)
        return replace(self, steps=steps, aid=aid, schedule=schedule)


MOSTLY = (("strong", 2.0), ("crowded", 1.2), ("scenes", 1.0), ("mild", 0.7), ("close", 1.3))
SMALL = (*MOSTLY, ("quiet", 0.25))
# Pictures without a person: until then scores tell hidden from seen, but not somebody from nobody.
LARGE = (*MOSTLY, ("quiet", 0.3), ("vacant", 0.9))
# For who has learnt the others: hidden limbs, people who lie or hang, neighbours, parts of people, hands.
HARD = (
    ("scenes", 5.0),
    ("strong", 1.5),
    ("crowded", 1.0),
    ("partial", 1.5),
    ("tumbling", 0.8),
    ("mild", 0.5),
    ("close", 2.0),
    ("hands", 2.0),
    ("quiet", 0.3),
    ("vacant", 0.8),
)
FIRST = Phase(NARROW, (128, 96), SMALL, 12000, 9000, Schedule(1.0, 300, 8000, 26000, 0.01))
PHASES = {
    NARROW: (FIRST, Phase(NARROW, (192, 144), LARGE, 5400, 0, Schedule(1.0, 100, 0, 5400, 0.01), 0.25)),
    WIDE: (
        FIRST,
        Phase(WIDE, (128, 96), SMALL, 6500, 0, Schedule(1.0, 300, 0, 13000, 0.01)),
        Phase(WIDE, (192, 144), LARGE, 5400, 0, Schedule(1.0, 100, 0, 5400, 0.01), 0.25),
    ),
}
# After --start: no aid.
MORE = {
    NARROW: (
        Phase(NARROW, (128, 96), SMALL, 5000, 0, Schedule(0.8, 300, 0, 10000, 0.01)),
        Phase(NARROW, (192, 144), LARGE, 4000, 0, Schedule(1.0, 100, 0, 4000, 0.01), 0.25),
    ),
    WIDE: PHASES[WIDE][1:],
    TINY: (Phase(TINY, (256, 192), HARD, 3600, 0, Schedule(0.8, 200, 0, 3600, 0.01), 0.25, False, MORE_HANDS),),
    LARGEST: (Phase(LARGEST, (256, 192), HARD, 3600, 0, Schedule(0.5, 200, 0, 3600, 0.01), 0.25, True, MORE_HANDS),),
}
# With a teacher: DWPose's two stages, or the second one alone for a network that is its own teacher.
STAGE1 = Phase(
    TINY, (256, 192), HARD, 2600, 0, Schedule(0.8, 200, 0, 2600, 0.01), 0.25, False, MORE_HANDS, kind="stage1"
)
STAGE2 = Phase(TINY, (256, 192), HARD, 1200, 0, Schedule(1.0, 100, 400, 1200, 0.01), kind="stage2")


def phases_of(network: str, start: bool, teacher: str | None) -> tuple[Phase, ...]:
    """What a run goes through; `start`: whether it begins with weights, `teacher`: name of what it learns from."""
    if teacher is None:
        return (MORE if start else PHASES)[network]
    first, second = replace(STAGE1, network=network, frozen=start), replace(STAGE2, network=network)
    return (second,) if teacher == network else (first, second)


def objective_of(phase: Phase, net: DWPose, teacher: DWPose | None) -> SimCCObjective:
    """What a phase minimises; training goes by steps, so an epoch is one. Teachers stay as they are evaluated."""
    if phase.kind == "labels":
        return LabelObjective(net, phase.parts, lambda step: (phase.absent, step < phase.aid))
    if phase.kind == "stage1":
        return KnownStage1(net, teacher, phase.steps, phase.parts, phase.absent)
    return Stage2Distillation(net, teacher, teacher_batch_stats=False)
