"""Servers of buckets on this machine, that speak as Google's and Amazon's do.

Run as a program, it is such a server: buckets.py gs PORT.
"""

import contextlib
import email.parser
import re
import socket
import subprocess
import sys
import time

NAMES = ("gs", "s3")


def environment(kind, port):
  """The variables by which all clients find the server."""
  url = f"http://127.0.0.1:{port}"
  if kind == "gs":
    return {
      "STORAGE_EMULATOR_HOST": url,  # gcsfs
      "TENSORSTORE_GCS_HTTP_URL": url,
      "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
      # Asks Google for the kind of each bucket.
      "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
  return {
    "AWS_ENDPOINT_URL": url,
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
  }


class Server:
  """A server in a process of its own.

  Attributes:
    url: of a bucket that exists.
    process: that can be stopped and continued.
  """

  def __init__(self, kind, port):
    command = [sys.executable, __file__, kind, str(port)]
    self.process = subprocess.Popen(
      command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    self.kind, self.url, self.port = kind, f"{kind}://bucket", port

  def wait(self):
    for _ in range(300):
      assert self.process.poll() is None, "the server has ended"
      with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", self.port)).close()
        return
      time.sleep(0.1)
    raise AssertionError("the server does not answer")


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


@contextlib.contextmanager
def served(kind, monkeypatch):
  """A Server with an empty bucket, known to this process and its children."""
  import fsspec

  port = free_port()
  for name, value in environment(kind, port).items():
    monkeypatch.setenv(name, value)
  server = Server(kind, port)
  try:
    server.wait()
    _forget()
    if kind == "s3":
      fsspec.filesystem("s3").mkdir("bucket")
    yield server
  finally:
    server.process.kill()
    server.process.wait()
    _forget()


def _forget():
  """Clients remember their server, in objects that live on."""
  import fsspec
  from etils.epath import backend

  for protocol in NAMES:
    fsspec.get_filesystem_class(protocol).clear_instance_cache()
  backend._FileSystemSpecBackend._get_filesystem.cache_clear()


def names(url):
  """All objects below a URL."""
  import fsspec

  start = url.partition("://")[2]
  files = fsspec.filesystem(url.partition("://")[0])
  return sorted(n.removeprefix(start + "/") for n in files.find(url))


class _Parts:
  """Reads what gcsfs uploads as it is: the emulator drops a last line end."""

  def parsebytes(self, data):
    head, _, rest = data.partition(b"\r\n")
    match = re.search(rb'boundary="?([^";]+)"?', head)
    if match is None or head.startswith(b"Content-Type:multipart/mixed"):
      return email.parser.BytesParser().parsebytes(data)
    self._parts = rest.split(b"--" + match[1])[1:3]
    return self

  def get_payload(self):
    return [_Part(part) for part in self._parts]


class _Part:
  def __init__(self, data):
    self._head, _, body = data[1:].partition(b"\n\n")
    self._body = body[:-1]

  def get_payload(self, decode=False):
    return self._body if decode else self._body.decode()

  def get_content_type(self):
    return self._head.partition(b": ")[2].decode().strip()


def _serve(kind, port):
  if kind == "gs":
    from gcp_storage_emulator import server

    server.BytesParser = _Parts
    address = "127.0.0.1", port
    server.create_server(
      *address, in_memory=True, default_bucket="bucket"
    ).run()
  else:
    from moto.server import main

    main(["-H", "127.0.0.1", "-p", str(port)])


if __name__ == "__main__":
  _serve(sys.argv[1], int(sys.argv[2]))
