"""What ALBEF and BLIP need: soft targets of a teacher, hard negatives.

Plain functions that run unchanged on one device and inside jax.shard_map, with
memory linear in the batch, and with arguments of their own.
"""
