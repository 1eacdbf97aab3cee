"""Losses between views and their clusters: plain functions of the global batch.

They run in jit, where sums over a sharded batch are those of all devices.
"""
