"""Pose maps and keypoints of large collections: `dwpose extract`.

sources.py   what there is to read: folders, lists, tar shards, parquet, videos -> a plan of numbered shards
decode.py    bytes -> pixels, people -> encoded map; runs in worker processes
sinks.py     what a shard leaves behind: trees, tars, parquet, keypoint files; appears whole or not at all
plan.py      what a run is, its frozen list of inputs, which shards are done
extract.py   the worker: one shard after another through the networks
shard.py     one shard being written; published when its last row is there
videos.py    one video of a collection
run.py       the native engine: ranks, devices, resume, one progress line
ray_engine.py  the same worker on a Ray cluster
stats.py     what came out, as text and as a page
"""
