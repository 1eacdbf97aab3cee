"""hf:// names, against a stand-in of the Hub's HTTP interface."""

import hashlib
import http.server
import json
import os
import pathlib
import subprocess
import sys
import threading
import urllib.parse

import pytest

from big_contrastive.config import errors
from big_contrastive.interop import model_files
from big_contrastive.storage import paths

REVISION = "0" * 39 + "1"


class Hub(http.server.BaseHTTPRequestHandler):
  """One model, me/small, and one private one; counts what is downloaded."""

  files: dict[str, bytes] = {}
  sent: list[str] = []

  def log_message(self, *args):
    pass

  def _answer(self, code, content=b"", **headers):
    self.send_response(code)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), str(value))
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(content)

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    path = urllib.parse.urlparse(self.path).path.strip("/")
    if path.startswith("api/models/me/small/tree"):
      tree = [
        {"type": "file", "path": name, "size": len(x), "oid": name}
        for name, x in self.files.items()
      ]
      self._answer(200, json.dumps(tree).encode(), Content_Type="json")
    elif path.startswith("api/models/me/small"):
      names = [{"rfilename": name} for name in sorted(self.files)]
      about = {"id": "me/small", "sha": REVISION, "siblings": names}
      self._answer(200, json.dumps(about).encode(), Content_Type="json")
    elif path.startswith("me/small/resolve/"):
      name = path.split("/", 4)[4]
      content = self.files.get(name)
      if content is None:
        self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=REVISION)
        return
      if self.command == "GET":
        self.sent.append(name)
      etag = f'"{hashlib.sha1(content).hexdigest()}"'
      self._answer(200, content, ETag=etag, X_Repo_Commit=REVISION)
    else:
      self._answer(404, X_Error_Code="RepoNotFound")


@pytest.fixture(scope="module")
def exported(small, tmp_path_factory):
  """The model as a Hugging Face directory, with what nobody needs."""
  folder = tmp_path_factory.mktemp("hub") / "small"
  model_files.write(model_files.read(small), folder, "hugging_face")
  (folder / "README.md").write_text("a model")
  (folder / "pytorch_model.bin").write_bytes(b"the same again")
  return folder


@pytest.fixture
def hub(exported, tmp_path):
  """Runs code in a process that knows the stand-in and a cache of its own."""
  Hub.files = {
    p.name: p.read_bytes() for p in exported.iterdir() if p.is_file()
  }
  Hub.sent = []
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
  threading.Thread(target=server.serve_forever, daemon=True).start()

  def run(code, **environment):
    url = f"http://127.0.0.1:{server.server_port}"
    return subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True,
      cwd=pathlib.Path(__file__).parents[2],
      env=os.environ
      | {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf")}
      | {"HF_HUB_DISABLE_XET": "1"}
      | environment,
    )  # fmt: skip

  yield run
  server.shutdown()
  server.server_close()


READ = """
import sys
from big_contrastive.config import errors
from big_contrastive.interop import model_files
try:
  found = model_files.read({url!r}, where="--from")
  print("read", sorted(found.params), found.has_text)
except errors.UserError as e:
  print(e)
"""


def test_a_model_is_read_by_its_name_and_then_offline(hub, exported):
  want = model_files.read(exported)
  code = READ.format(url="hf://me/small")
  said = hub(code)
  assert f"read {sorted(want.params)} True" in said.stdout, said
  assert "config.json" in Hub.sent and "model.safetensors" in Hub.sent
  assert not {"README.md", "pytorch_model.bin"} & {*Hub.sent}
  sent = len(Hub.sent)
  assert "read" in hub(code).stdout and len(Hub.sent) == sent
  assert "read" in hub(code, HF_HUB_OFFLINE="1").stdout
  one = hub(
    "from big_contrastive.storage import paths;"
    "print(paths.local('hf://me/small/config.json', 'x').read_text())"
  )
  assert json.loads(one.stdout) == json.loads(
    (exported / "config.json").read_text()
  )


@pytest.mark.parametrize(
  ("url", "environment", "said"),
  [
    ("hf://me/none", {}, "expected a model on the Hub"),
    ("hf://me/small/none.json", {}, "expected a model on the Hub"),
    ("hf://me/small", {"HF_HUB_OFFLINE": "1"}, "in the cache"),
    ("hf://small", {}, "expected hf://OWNER/NAME"),
    ("hf://datasets/me/small", {}, "expected hf://OWNER/NAME"),
    ("hf://me/a b", {}, "expected a model on the Hub"),
  ],
)
def test_what_is_not_there_is_one_line(url, environment, said, hub):
  found = hub(READ.format(url=url), **environment).stdout
  assert f"--from = '{url}'; expected" in found and said in found
  assert found.count("\n") == 1


def test_a_revision_is_part_of_the_name(hub):
  assert "read" in hub(READ.format(url=f"hf://me/small@{REVISION}")).stdout


def test_nothing_is_written_there():
  with pytest.raises(errors.UserError, match="gs:// or s3://"):
    paths.at("hf://me/small", "--to")
