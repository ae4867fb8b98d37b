"""The same worker on a Ray cluster, `dwpose extract ... --engine ray`: same shards, same bytes as the native engine.

Rows of the Ray dataset are shard numbers, so that what travels through Ray is a handful of integers; images are read
and results written by the workers, on storage that all nodes see.
"""

from __future__ import annotations

from dataclasses import asdict

from .extract import ExtractWorker, Machine
from .plan import Config, is_done, make_plan
from .run import Progress, Summary, TooManyFailures, finish, summarise
from .storage import Storage


def run_on_ray(
    config: Config,
    machine: Machine,
    *,
    workers: int = 1,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    max_failures: int | None = None,
    log: str = "line",
) -> Summary:
    """Finish every shard that is not finished yet.

    Args:
        workers: actors, each with its own networks; Ray places them on the nodes of the cluster.
        gpus_per_worker: None is 1 where the device is a GPU, else 0.
        address: of a running cluster, "auto" finds one; None starts Ray on this machine if none is running.

    A worker or a node that dies is replaced by Ray, and its shard is begun anew.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('--engine ray needs Ray: pip install "dwpose-torch[ray]"') from error
    storage = Storage(config.out)
    storage.clear_scratch({"plan0", "end0"})
    plan = make_plan(config, storage)
    storage.clear_scratch({f"{shard:05d}" for shard in range(plan.shards)})
    pending = [shard for shard in range(plan.shards) if not is_done(storage, shard)]
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    gpus = gpus_per_worker
    if gpus is None:
        gpus = 0 if machine.device in (None, "cpu") and not ray.cluster_resources().get("GPU") else 1
    ray.data.DataContext.get_current().enable_progress_bars = False
    finished = plan.items - sum(plan.size(shard) for shard in pending)
    progress = Progress(plan.items, finished, log, "image", f"ray, {workers} workers")
    if pending:
        # One block per shard: a block that is lost with its node is one shard to redo.
        shards = ray.data.from_items([{"shard": shard} for shard in pending], override_num_blocks=len(pending))
        results = shards.map_batches(
            ExtractWorker,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(workers, len(pending))),
            num_gpus=gpus or None,
            fn_constructor_kwargs={"config": config.to_json(), "machine": asdict(machine)},
        )
        try:
            for row in results.iter_rows():
                progress.update(int(row["ok"] + row["failed"]), int(row["failed"]), int(row["people"]))
                if max_failures is not None and progress.failed > max_failures:
                    raise TooManyFailures(f"stopped after {progress.failed} failures (--max-failures {max_failures})")
        finally:
            progress.close()
    storage.clear_scratch({f"{shard:05d}" for shard in pending})  # of workers and nodes that were lost
    finish(config, storage, plan)
    summary = summarise(storage, plan, range(plan.shards))
    if log == "json":
        progress.emit("finished", ok=summary.ok, people=summary.people, shards=summary.done)
    return summary
