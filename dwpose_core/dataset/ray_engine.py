"""The same worker on a Ray cluster, `dwpose extract ... --engine ray`: same shards, same bytes as the native engine.

Rows of the Ray dataset are shard numbers, so that what travels through Ray is a handful of integers; images are read
and results written by the workers, on storage that all nodes see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from .extract import ExtractWorker, Machine, load_networks
from .plan import Config, is_to_do, make_plan
from .run import Progress, Summary, TooManyFailures, finish, remarks, summarise
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
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Summary:
    """Finish every shard that is not finished yet.

    Args:
        workers: actors, each with its own networks; Ray places them on the nodes of the cluster.
        gpus_per_worker: None is 1 where the device is a GPU, else 0.
        address: of a running cluster, "auto" finds one; None starts Ray on this machine if none is running.
        overwrite: delete what an earlier run wrote, once the inputs are listed and a node has loaded the networks.
        retry_failed: finished shards with failed items are done again.

    A worker or a node that dies is replaced by Ray, and its shard is begun anew.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError('--engine ray needs Ray: pip install "dwpose-torch[ray]"') from error
    storage = Storage(config.out)
    with storage.claim("run0of1", alone=overwrite):
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False)
        gpus = gpus_per_worker
        if gpus is None:
            gpus = 0 if machine.device in (None, "cpu") and not ray.cluster_resources().get("GPU") else 1

        def load_once() -> None:
            check = ray.remote(num_gpus=gpus)(_check_networks)
            if problem := ray.get(check.remote(config.to_json(), asdict(machine))):
                raise ValueError(problem)

        storage.clear_scratch({"plan0", "end0"})
        plan = make_plan(config, storage, overwrite=overwrite, before_writing=load_once, show=log == "line")
        storage.clear_scratch({f"{shard:05d}" for shard in range(plan.shards)})
        pending = [shard for shard in range(plan.shards) if is_to_do(storage, shard, retry_failed)]
        ray.data.DataContext.get_current().enable_progress_bars = False
        finished = plan.items - sum(plan.size(shard) for shard in pending)
        progress = Progress(plan.items, finished, log, "image", f"ray, {workers} workers")
        try:
            for row in _results(config, machine, pending, workers, gpus, retry_failed) if pending else ():
                progress.update(int(row["ok"] + row["failed"]), int(row["failed"]), int(row["people"]))
                if max_failures is not None and progress.failed > max_failures:
                    rows = [said for said in remarks(storage, pending) if said["status"] != "ok"]
                    raise TooManyFailures(max_failures, rows)
        finally:
            progress.close()
        storage.clear_scratch({f"{shard:05d}" for shard in pending})  # of workers and nodes that were lost
        finish(config, storage, plan)
    summary = summarise(storage, plan, range(plan.shards))
    if log == "json":
        progress.emit("finished", ok=summary.ok, people=summary.people, shards=summary.done)
    return summary


def _results(
    config: Config, machine: Machine, pending: list[int], workers: int, gpus: float, retry_failed: bool
) -> Iterator[dict]:
    """What `ExtractWorker` says of each shard when it is finished."""
    import ray

    # One block per shard: a block that is lost with its node is one shard to redo.
    shards = ray.data.from_items([{"shard": shard} for shard in pending], override_num_blocks=len(pending))
    results = shards.map_batches(
        ExtractWorker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(pending))),
        num_gpus=gpus or None,
        fn_constructor_kwargs={"config": config.to_json(), "machine": asdict(machine), "retry_failed": retry_failed},
    )
    yield from results.iter_rows()


def _check_networks(config: dict, machine: dict) -> str:
    """On a node: what is wrong with the networks that the options name, or ""."""
    try:
        load_networks(Config(**config), Machine(**machine))
    except Exception as error:  # of a node: some kinds cannot travel
        return str(error)
    return ""
