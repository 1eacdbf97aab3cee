"""Losses between views of the same image: plain functions, as the pair losses.

Each file has one function `loss`, which runs unchanged on one device and inside
jax.shard_map, with memory linear in the batch.
"""
