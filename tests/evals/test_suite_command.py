"""evaluate --suite: models times sets, each once, and a table."""

import csv
import json
import shutil

import pytest

import making_sets
from big_contrastive import evaluate
from big_contrastive.config import errors
from big_contrastive.inference.embedder import Embedder
from big_contrastive.inference.model import load
