"""Losses over many classes, of a linear layer's logits that are never whole.

Each file has one function `loss`, which runs unchanged on one device and inside
jax.shard_map. Classes may lie on the devices in parts, along `split`.
"""
