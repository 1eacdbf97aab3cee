"""Work on a data set by shards, without an engine: see tasks and worker.

A shard's output is one Parquet file, which appears complete or not at all. A
shard is done once its file is there, was made by the same work from the same
records, and its checksums are right. So workers need not know of each other,
one that dies costs the shard it was at, and the same command again does what
is missing.
"""
