"""The training loop shared by all recipes: data, step, log, validation, checkpoint, exact resume.

The run folder holds
    config.json         the resolved configuration
    last.pt             everything a resume needs
    last.safetensors    the averaged student at that moment
    best.safetensors    the averaged student with the best whole-body AP so far
    log.jsonl           one line per logged step and per validation
    nonfinite_*.pt      the batch that broke a run, if one did
and TensorBoard's events.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import json
import math
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from tqdm import tqdm

from dwpose_core.models.rtmcc import DWPose

from . import checkpoint
from .config import OPERATIONAL, TrainConfig
from .data.samplers import StepBatches
from .data.wholebody import WholeBodyDataset
from .distributed import Process, gather, synchronize_batchnorm
from .monitor import Log, StepStatistics, StopOnSignal, ending
from .objectives import SimCCObjective
from .optim import ExponentialMovingAverage, Schedule, build_optimizer
from .outlook import doubts, outlook

Evaluate = Callable[[DWPose], dict[str, float]]  # averaged student -> {"whole/AP": ..., ...}, on every process


def fit(objective: SimCCObjective, config: TrainConfig, process: Process, evaluate: Evaluate | None = None) -> DWPose:
    """Train `objective` to the end of `config` and return the averaged student.

    Continues from `last.pt` in the run folder when there is one.

    Raises:
        ValueError: when the folder belongs to a run with another configuration.
        NonFiniteLoss: see monitor.py.
        CheckpointError: when the final checkpoint cannot be written; earlier failures are warned about and retried.
        SystemExit: 143 after SIGTERM, once the state is saved.
    """
    folder = Path(config.out) / config.name
    folder.mkdir(parents=True, exist_ok=True)
    torch.use_deterministic_algorithms(config.deterministic)
    torch.manual_seed(config.seed + process.rank)

    data = WholeBodyDataset(
        config.sources(),
        objective.student.config.input_size,
        config.early,
        config.late,
        config.late_epoch,
        config.seed,
        config.reduced_decode,
    )
    batches = StepBatches(
        data.lengths, data.weights, config.batch_size, config.seed, config.accumulate, process.rank, process.world
    )
    per_epoch = batches.steps_per_epoch
    total = config.epochs * per_epoch
    end = min(total, config.max_steps or total)

    layout = torch.channels_last if process.device.type == "cuda" else torch.contiguous_format
    objective.to(process.device, memory_format=layout).train()
    average = ExponentialMovingAverage(objective.student, config.ema_momentum, config.ema_gamma)
    objective = synchronize_batchnorm(objective, process)
    optimizer = build_optimizer(objective, config.lr, config.weight_decay)
    schedule = Schedule(
        lr=config.rate(batches.per_step),
        warmup=config.warmup_steps,
        cosine_start=config.cosine_epoch * per_epoch,
        cosine_end=total if config.schedule == "cosine" else 0,
    )
    state = _resume(folder, config, process, batches.per_step)
    step, best = 0, -1.0
    if state:
        step, best = state["step"], state["best"]
        _restore(state, objective, average, optimizer, process)
    if config.compile:
        _compile(objective)
    wrapped = objective
    if process.world > 1:
        ids = [process.device.index] if process.device.type == "cuda" else None
        # All processes have the same buffers. Newer PyTorch warns of the old name.
        names = inspect.signature(DistributedDataParallel).parameters
        sync = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        wrapped = DistributedDataParallel(objective, device_ids=ids, **{sync: False})

    batches.start_step = step
    stream = iter(_loader(data, batches, config, process))
    trained = [p for p in objective.parameters() if p.requires_grad]
    log = Log(folder, config, process, step, end)
    log.say(*outlook(config, schedule, per_epoch, batches.per_step))
    for doubt in doubts(config, schedule, per_epoch):
        log.warn(doubt)
    statistics = StepStatistics(folder, process)
    # The log is closed also by an error, whose message is to follow the bar.
    with contextlib.closing(log), ending(stream), StopOnSignal() as stop:
        while step < end and not statistics.stop_requested:
            started, waited = time.perf_counter(), 0.0
            epoch = step // per_epoch
            objective.set_epoch(epoch)
            rate = schedule.at(step)
            for group in optimizer.param_groups:
                group["lr"] = rate

            parts: dict[str, torch.Tensor] = {}
            micro_batches = []
            for micro in range(config.accumulate):
                asked = time.perf_counter()
                batch = next(stream)
                waited += time.perf_counter() - asked
                batch = {name: tensor.to(process.device, non_blocking=True) for name, tensor in batch.items()}
                joint = micro == config.accumulate - 1  # gradients of all processes are averaged with the last one
                with contextlib.nullcontext() if joint or process.world == 1 else wrapped.no_sync():
                    with torch.autocast(process.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                        out = wrapped(batch)
                    (out["loss"] / config.accumulate).backward()
                for name, value in out.items():
                    parts[name] = parts.get(name, 0) + value.detach().float() / config.accumulate
                micro_batches.append(batch)
            norm = nn.utils.clip_grad_norm_(trained, config.clip or math.inf)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(objective.student)
            step += 1

            statistics.push(step, parts, norm, stop.requested, micro_batches)
            last = step == end
            logging = last or step % config.log_every == 0
            validating = evaluate and (last or step % (config.val_every * per_epoch) == 0)
            saving = last or validating or step % config.save_every == 0
            values = statistics.read(newest=logging or saving)
            saving = saving or statistics.stop_requested
            if saving:
                values = statistics.read(newest=True)
            log.count(time.perf_counter() - started, waited, batches.per_step)
            if logging:
                log.write(step, {"epoch": epoch, "lr": rate, **values})
            if validating:
                result = evaluate(average.module)
                log.write(step, {"epoch": epoch, **result})
                if result["whole/AP"] > best:
                    note = {**_metadata(config, step), "whole_body_ap": f"{result['whole/AP']:.4f}"}
                    file = folder / "best.safetensors"
                    written = _save(log, process, partial(checkpoint.save_model, file, average.module, note))
                    if gather(written, process)[0]:  # else the next one that is better than the stored one is tried
                        best = result["whole/AP"]
                    elif last:
                        raise checkpoint.CheckpointError(f"{file} cannot be written: free disk space, start again")
            if saving:
                state = {
                    "step": step,
                    "best": best,
                    "samples_per_step": batches.per_step,
                    "objective": _without_teacher_parameters(objective),
                    "average": average.module.state_dict(),
                    "average_step": average.step,
                    "optimizer": optimizer.state_dict(),
                    "rng": gather(checkpoint.rng_state(process.device), process),
                }
                final = last or statistics.stop_requested
                note = _metadata(config, step)
                # The state goes last: a run that is started again begins there, and would not write the weights again.
                for write in (
                    partial(checkpoint.save_model, folder / "last.safetensors", average.module, note),
                    partial(checkpoint.save_state, folder / "last.pt", state),
                ):
                    _save(log, process, write, final)
    if statistics.stop_requested:
        raise SystemExit(143)  # 128 + SIGTERM
    return average.module


def _save(log: Log, process: Process, write: Callable[[], None], must_succeed: bool = False) -> bool:
    """Only the first process writes, and knows whether it did. A full disk costs a warning: hours of training are worth
    more than one file."""
    if not process.is_first:
        return False
    try:
        write()
    except checkpoint.CheckpointError as error:
        if must_succeed:
            raise
        log.warn(str(error))
        return False
    return True


def _loader(data: WholeBodyDataset, batches: StepBatches, config: TrainConfig, process: Process) -> DataLoader:
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=config.workers,
        pin_memory=process.device.type == "cuda",
        worker_init_fn=_quiet_worker,
        generator=torch.Generator(),  # its own: the global generator is part of the saved state
    )


def _quiet_worker(_: int) -> None:
    """One thread per worker; SIGTERM and Ctrl-C are the parent's business."""
    import cv2

    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _compile(objective: SimCCObjective) -> None:
    """Compile backbones and heads in place; names in the state dict stay."""
    for net in (objective.student, getattr(objective, "teacher", None)):
        for part in (net.backbone, net.head) if isinstance(net, DWPose) else (net,) if net is not None else ():
            part.compile()


def _metadata(config: TrainConfig, step: int) -> dict[str, str]:
    return {"recipe": config.name, "step": str(step), "seed": str(config.seed)}


def _without_teacher_parameters(objective: nn.Module) -> dict[str, torch.Tensor]:
    """The teacher's parameters come from its own file. Its BatchNorm statistics stay: they move in training mode."""
    frozen = {name for name, _ in objective.named_parameters() if name.startswith("teacher.")}
    return {name: tensor for name, tensor in objective.state_dict().items() if name not in frozen}


def _resume(folder: Path, config: TrainConfig, process: Process, samples_per_step: int) -> dict | None:
    """The saved state of this run, or None at its beginning, when the configuration is written down."""
    config_file, state_file = folder / "config.json", folder / "last.pt"
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    fresh = not state_file.exists()
    looked = gather(fresh, process)  # every process has looked before the first one writes
    if len(set(looked)) > 1:  # some would begin while the others go on: other samples, other rates, a hang at the end
        sees = ", ".join(str(rank) for rank, new in enumerate(looked) if not new)
        raise ValueError(
            f"only processes {sees} of {process.world} see {state_file}: all machines need the run folder on storage "
            "that they share, name one with --out"
        )
    if fresh:
        if process.is_first:
            text = json.dumps(now, indent=2) + "\n"
            checkpoint.write_atomic(config_file, lambda temporary: temporary.write_text(text))
        return None
    before = checkpoint.with_defaults(json.loads(config_file.read_text()), type(config))
    changed = [key for key in now if key not in OPERATIONAL and before.get(key) != now[key]]
    if changed:
        lines = ", ".join(f"{key} was {before.get(key)!r} and is now {now[key]!r}" for key in changed)
        raise ValueError(f"{folder} holds a run with another configuration ({lines}): choose another --name or --out")
    state = checkpoint.load_state(state_file)
    if state["samples_per_step"] != samples_per_step:  # batch_size and accumulate are those of before
        processes = state["samples_per_step"] // (config.batch_size * config.accumulate)
        raise ValueError(
            f"{folder} was trained by {processes} processes, this start has {process.world}: start as many as before, "
            "or choose another --name"
        )
    if process.is_first:
        tqdm.write(f"{folder}: continuing at step {state['step']}")
    return state


def _restore(
    state: dict,
    objective: SimCCObjective,
    average: ExponentialMovingAverage,
    optimizer: torch.optim.Optimizer,
    process: Process,
) -> None:
    missing, unexpected = objective.load_state_dict(state["objective"], strict=False)
    assert not unexpected and all(name.startswith("teacher.") for name in missing), (missing, unexpected)
    average.module.load_state_dict(state["average"])
    average.step = state["average_step"]
    optimizer.load_state_dict(state["optimizer"])
    if len(state["rng"]) == process.world:
        checkpoint.restore_rng(state["rng"][process.rank], process.device)
