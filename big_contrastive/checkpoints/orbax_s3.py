"""Lets Orbax write to s3://, which it knows only gs:// for.

TensorStore, below it, has a driver for S3; Orbax 0.12 only has no way to ask
for it (github.com/google/orbax/issues/359, 872). So three functions that turn
a path into a driver are replaced by ones that know both.
"""

import os
from typing import Any

from orbax.checkpoint._src.path import gcs_utils
from orbax.checkpoint._src.serialization import tensorstore_utils

_S3 = "s3://"
_gcs = gcs_utils.get_kvstore_for_gcs
_plain = tensorstore_utils._normalize_path


def install() -> None:
  """Replaces Orbax's functions; does nothing the second time."""
  gcs_utils.get_kvstore_for_gcs = _kvstore
  tensorstore_utils._use_gcs_driver = _in_a_bucket
  tensorstore_utils._normalize_path = _normalized


def _in_a_bucket(directory: str) -> bool:
  return directory.startswith(("gs://", _S3))


def _normalized(path: str) -> str:
  if not path.startswith(_S3):
    return _plain(path)
  return _S3 + os.path.normpath(path.removeprefix(_S3))


def _kvstore(path: str) -> dict[str, Any]:
  """TensorStore's spec of a path; credentials are found as AWS's tools do."""
  if not path.startswith(_S3):
    return _gcs(path)
  bucket, _, name = path.removeprefix(_S3).partition("/")
  spec = {"driver": "s3", "bucket": bucket, "path": name}
  # Other stores than Amazon's: MinIO, R2, Ceph.
  endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get(
    "AWS_ENDPOINT_URL"
  )
  region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
  if endpoint:
    spec |= {"endpoint": endpoint, "aws_region": region or "us-east-1"}
  elif region:
    spec["aws_region"] = region
  if "AWS_ACCESS_KEY_ID" in os.environ:  # Else the search logs its failures.
    spec["aws_credentials"] = {"type": "environment"}
  return spec
