"""The Ray engine on a cluster of two nodes (two raylets on this machine) that loses a worker and then a node."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from dwpose_core.dataset.extract import Machine
from dwpose_core.dataset.plan import Config
from dwpose_core.dataset.run import run

from .dataset_tools import make_photos, make_weights, tree

ray = pytest.importorskip("ray", reason='needs pip install "dwpose-torch[ray]"')


def map_workers() -> list[int]:
    """Process ids of Ray Data's actors, by the title Ray gives them."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                title = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if title.startswith(b"ray::") and b"MapWorker" in title:
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_and_a_node_writes_the_same_bytes(tmp_path):
    from ray.cluster_utils import Cluster

    from dwpose_core.dataset.ray_engine import run_on_ray

    photos = make_photos(tmp_path / "photos", count=58)
    weights = make_weights(tmp_path / "debug.safetensors")

    def config(name: str) -> Config:
        return Config(
            str(photos), str(tmp_path / name), "folder", "webdataset", ("jsonl", "npz"), samples_per_shard=3,
            pose=str(weights), detector=None, options={"image_batch": 2},
        )  # fmt: skip

    machine = Machine("cpu", decoders=0, streams=1)
    native = run(config("native"), machine, log="none")
    assert (native.ok, native.failed, native.shards) == (58, 2, 20)

    small = {"object_store_memory": 100 * 2**20, "num_cpus": 2}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    node = cluster.add_node(**small)
    ray.init(address=cluster.address, log_to_driver=False)
    assert len([n for n in ray.nodes() if n["Alive"]]) == 2
    # a typo: found on a node, before anything is deleted
    before = tree(tmp_path / "native")
    with pytest.raises(ValueError, match="no-such"):
        run_on_ray(replace(config("native"), pose=str(tmp_path / "no-such.pth")), machine, overwrite=True, log="none")
    assert tree(tmp_path / "native") == before
    done: list[str] = []
    shards = tmp_path / "ray" / "_dwpose" / "shards"

    def finished() -> int:
        return len(list(shards.glob("*_stats.json"))) if shards.exists() else 0

    def sabotage() -> None:
        while finished() < 2:
            time.sleep(0.02)
        os.kill(map_workers()[0], signal.SIGKILL)
        done.append(f"worker killed after {finished()} shards")
        while finished() < 8:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)
        done.append(f"node removed after {finished()} shards")

    saboteur = threading.Thread(target=sabotage, daemon=True)
    saboteur.start()
    try:
        summary = run_on_ray(config("ray"), machine, workers=3, log="none")
    finally:
        saboteur.join(10)
        ray.shutdown()
        cluster.shutdown()
    print("; ".join(done))
    assert len(done) == 2
    assert (summary.ok, summary.failed, summary.done) == (58, 2, 20)
    ignored = ("config.json",)
    left = {name: digest for name, digest in tree(tmp_path / "ray", without=ignored).items() if "/tmp/" not in name}
    assert left == tree(tmp_path / "native", without=ignored)
