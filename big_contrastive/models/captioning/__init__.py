"""Captions: what is predicted in training, and how they are generated."""
