"""How a run is watched: sinks of its metrics, and traces."""

import dataclasses

from big_contrastive.config.fields.field import field

_RUN = "Name of the run there. None: that of the workdir."


@dataclasses.dataclass(kw_only=True)
class Sink:
  """One place for metrics: a file of training/sinks.

  Its own arguments stand beside this one.
  """

  name: str | None = field(
    None,
    doc="Which sink: tensorboard, wandb, trackio, mlflow, or the path of a "
    "Python file. None: the section's own name.",
  )


@dataclasses.dataclass(kw_only=True)
class TensorBoard:
  """Event files in the workdir; it has no arguments."""


@dataclasses.dataclass(kw_only=True)
class Wandb:
  """Weights & Biases; pip install 'big_contrastive[wandb]'."""

  project: str | None = field(
    None, doc="Its project. None: that of the environment, WANDB_PROJECT."
  )
  entity: str | None = field(
    None, doc="User or team. None: that of the environment, or the login's."
  )
  run: str | None = field(None, doc=_RUN)
  tags: list | None = field(None, doc="Of the run.")
  mode: str | None = field(
    None,
    doc="online; or offline: files in the workdir, for `wandb sync`. None: "
    "WANDB_MODE, or online.",
  )


@dataclasses.dataclass(kw_only=True)
class Trackio:
  """Trackio; pip install 'big_contrastive[trackio]'."""

  project: str = field(doc="Its project.")
  run: str | None = field(
    None, doc="Name of the run there, to which six digits are added. None: "
    "that of the workdir.",
  )  # fmt: skip
  space_id: str | None = field(
    None, doc="A Space of Hugging Face. None: this machine, in TRACKIO_DIR."
  )


@dataclasses.dataclass(kw_only=True)
class MLflow:
  """MLflow; pip install 'big_contrastive[mlflow]'."""

  experiment: str = field("big_contrastive", doc="The experiment's name.")
  run: str | None = field(None, doc=_RUN)
  uri: str | None = field(
    None, doc="The tracking server or store. None: MLFLOW_TRACKING_URI."
  )


@dataclasses.dataclass(kw_only=True)
class Profile:
  """The steps that are traced to the workdir's folder profile/STEP."""

  first: int = field(
    10, doc="The first of them, counted from 1.", unit="step",
    why="The first steps compile, and fill queues.",
  )  # fmt: skip
  steps: int = field(5, doc="How many.", unit="steps")
