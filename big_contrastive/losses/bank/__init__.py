"""Losses of vectors against a few rows of a bank, drawn for each of them.

The bank has a vector for each record of the training data (InstDisc,
arXiv:1805.01978). Against all its rows, the loss is that of instance/queue.py.
"""
