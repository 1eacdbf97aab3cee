"""Which file a name of a config is."""

import pathlib

import pytest

from big_contrastive.config import errors, files

MINE = "def get_config(argument):\n  return {'seed': 7}\n"


@pytest.fixture
def empty(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


@pytest.mark.parametrize("name", ["siglip", "configs/siglip.py"])
def test_a_config_of_the_package_is_found_anywhere(name, empty, capsys):
  config = files.load_config(f"{name}:smoke", ["--config.seed=3"])
  assert (config["seed"], config["total"]) == (3, "8 steps")
  taken = files.SHIPPED / "configs" / "siglip.py"
  assert capsys.readouterr().err == f"config: {taken}\n"


@pytest.mark.parametrize("name", ["siglip", "configs/siglip.py"])
def test_what_lies_here_comes_first(name, empty, capsys):
  mine = pathlib.Path("configs/siglip.py")
  mine.parent.mkdir()
  mine.write_text(MINE)
  assert files.load_config(name, []) == {"seed": 7}
  said = "" if name == str(mine) else "config: configs/siglip.py\n"
  assert capsys.readouterr().err == said


def test_a_config_elsewhere_may_use_what_the_shipped_ones_share(empty):
  text = "from configs import common\n" + MINE
  pathlib.Path("mine.py").write_text(text.replace("7", "common.WIDTH['B']"))
  assert files.load_config("mine.py", []) == {"seed": 768}


@pytest.mark.parametrize(
  ("name", "near"),
  [
    ("sigl", "configs/siglip.py"), ("configs/sigl.py", "configs/siglip.py"),
    ("mime", "configs/mine.py"), ("setup.py", ""), ("../configs/siglip.py", ""),
  ],
)  # fmt: skip
def test_a_name_without_a_file_is_one_line(name, near, empty):
  pathlib.Path("configs").mkdir()
  pathlib.Path("configs/mine.py").write_text(MINE)
  with pytest.raises(errors.UserError, match=f"--config = .{name}") as e:
    files.load_config(name, [])
  assert near in str(e.value)
