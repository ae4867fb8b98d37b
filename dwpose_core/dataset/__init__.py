"""Pose maps and keypoints of large collections: `dwpose extract`.

sources.py   what there is to read: folders and globs, and which of the next two for what lies in them
lists.py     .txt, .csv, .jsonl with a path in each line
containers.py   images inside of tar shards, parquet files, saved data sets
names.py     what an item is, and what it is called in the output
decode.py    bytes -> pixels, people -> encoded map; runs in worker processes
sinks.py     what a shard leaves behind: trees, tars, parquet, keypoint files; appears whole or not at all
plan.py      what a run is, its frozen list of inputs, which shards are done
guard.py     what may be written and removed: never an input, never somebody else's file
storage.py   the output folder, local or behind a URL; who is at work in it
extract.py   the worker: one shard after another through the networks
shard.py     one shard being written; published when its last row is there
videos.py    one video of a collection
run.py       the native engine: ranks, resume, one progress line
crew.py      one worker process for each device
ray_engine.py  the same worker on a Ray cluster
stats.py     what came out, as text and as a page
"""
