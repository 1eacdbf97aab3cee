"""Large-batch contrastive image-text pretraining in JAX."""

__version__ = "0.1.0"


def load(path: str, **options):
  """Returns a trained model: see big_contrastive.inference.model.load."""
  # JAX is imported by who needs it, not by who asks for the version.
  from big_contrastive.inference.model import load

  return load(path, **options)
