"""Duplicates, against their plain definitions."""

import json
import types

import numpy as np
import pyarrow as pa
import pytest
import test_embed
from test_shuffle import png

from big_contrastive import dedup, keep
from big_contrastive.config import errors
from big_contrastive.offline import duplicates, near, scoring, spill


def parts(*columns_of_parts, dtype="float32"):
  """What scoring.Parts has, of tables in memory."""
  tables = [pa.table(columns) for columns in columns_of_parts]
  ends = np.cumsum([len(t) for t in tables])

  def some(names):
    for table, end in zip(tables, ends, strict=True):
      yield int(end) - len(table), table.select(names)

  return types.SimpleNamespace(
    tables=some,
    records=int(ends[-1]),
    vectors=lambda column: scoring.embedded.floats(column, dtype),
  )


def test_keys_that_repeat_are_found_on_disk(tmp_path):
  rng = np.random.default_rng(0)
  values = rng.integers(0, 2**64, (300, 2), np.uint64)
  values[1] = values[0][0], values[1][1]  # Half the same is not the same.
  which = rng.integers(0, 300, 2000)
  some = spill.Spill(tmp_path, 8)
  for start in range(0, 2000, 300):
    block = which[start : start + 300]
    some.add(values[block], np.arange(start, start + len(block)))
  found = {}
  for firsts, others in some.repeated():
    found |= dict(zip(others.tolist(), firsts.tolist(), strict=True))
  want, seen = {}, {}
  for i, k in enumerate(which):
    if k in seen:
      want[i] = seen[k]
    seen.setdefault(k, i)
  assert found == want


def test_the_same_image_is_kept_once(small, tmp_path, monkeypatch, capsys):
  """By the commands: files of other names, and one that is bad."""
  (tmp_path / "model").symlink_to(small)
  values, lines = [7, 3, 7, 9, 3, 7], ["image\tname\tother\tkind"]
  for i, value in enumerate(values):
    (tmp_path / f"{i}.png").write_bytes(png(20, 24, value))
    lines.append(f"{i}.png\ta cat {i}\t\t0")
  (tmp_path / "3.png").write_bytes(b"no picture")
  (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
  test_embed.run(monkeypatch, tmp_path, tmp_path / "parts")
  out = tmp_path / "unique.npy"
  flags = ["--embedded", tmp_path / "parts", "--out", out, "--by", "content"]
  monkeypatch.setattr("sys.argv", ["dedup", *map(str, flags)])
  capsys.readouterr()
  dedup.run()
  assert np.load(out).tolist() == [0, 1]
  counts = {"records": 6, "bad": 1, "duplicates": 3, "kept": 2}
  assert json.loads(capsys.readouterr().out) == counts


def test_a_signature_estimates_what_two_texts_share():
  rng = np.random.default_rng(0)
  words = [f"word{i}" for i in range(60)]
  texts, exact = [], []
  for _ in range(200):
    one = rng.choice(words, 40).tolist()
    other = list(one)
    for at in rng.choice(40, rng.integers(0, 12), replace=False):
      other[at] = "another"
    a, b = map(duplicates.shingles, (" ".join(one), " ".join(other)))
    texts += [" ".join(one), " ".join(other)]
    exact.append(len(a & b) / len(a | b))
  some, found = duplicates.minhashes(texts)
  assert len(some) == 400
  estimated = (found[::2] == found[1::2]).mean(1)
  error = estimated - exact
  assert abs(error.mean()) < 0.01  # 200 estimates of 64 numbers each.
  assert error.std() < 0.07  # sqrt(J (1 - J) / 64) is at most 0.0625.


def test_captions_without_case_and_punctuation_are_the_same():
  one, two = "A Red, red Cat. On the mat!", "a red red cat on the mat"
  assert duplicates.shingles(one) == duplicates.shingles(two)
  assert duplicates.shingles("Cat") == {"cat"}
  assert duplicates.shingles("two cats") == {"two cats"}
  assert duplicates.shingles(" .,! ") == set()


def test_groups_of_captions_keep_their_first():
  long = "a photo of a small dog that runs over the green grass in the park"
  captions = [
    [long], ["something else entirely, on a table"], None, [long + " today"],
    [long.upper()], [], ["in a park"], [long + " today at noon"],
    ["In a park!"], ["!?"], ["!?"],
  ]  # fmt: skip
  column = pa.array(captions, pa.list_(pa.string()))
  cut = [{"captions": column[:5]}, {"captions": column[5:]}]
  found = duplicates.captions(parts(*cut), 0.8)
  assert np.flatnonzero(found).tolist() == [3, 4, 7, 8]
  exact = duplicates.captions(parts(*cut), 1.0)
  assert np.flatnonzero(exact).tolist() == [4, 8]


def unit(z):
  return (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("devices", [1, 8])
def test_what_is_close_to_one_before_goes(devices, mesh):
  rng = np.random.default_rng(0)
  n = 2600  # More than a block and two tiles.
  z = unit(rng.normal(size=(n, 6)))
  copies = rng.choice(np.arange(1, n), 300, replace=False)
  z[copies] = unit(z[copies - 1] + 0.01 * rng.normal(size=(300, 6)))
  found = near.repeats(near.Compare(mesh(devices)), z, 0.98)
  cosines = np.tril(z.astype(np.float64) @ z.T.astype(np.float64), -1)
  cosines[np.triu_indices(n)] = -1
  clear = np.abs(cosines.max(1) - 0.98) > 1e-6
  np.testing.assert_array_equal(found[clear], (cosines.max(1) > 0.98)[clear])
  assert clear.sum() > n - 3 and 300 < found.sum() < n


def plain(z, good, k, rounds, seed, threshold):
  """SemDeDup in float64: k-means, then pairs within a cluster."""
  numbers, z = np.flatnonzero(good), z[good].astype(np.float64)
  drawn = np.sort(
    np.random.default_rng(seed).choice(numbers, k, False, shuffle=False)
  )
  centers = z[np.isin(numbers, drawn)]
  for _ in range(rounds):
    which = (z @ centers.T).argmax(1)
    for c in range(k):
      if (which == c).any():
        total = z[which == c].sum(0)
        centers[c] = total / np.linalg.norm(total)
  cosines = z @ centers.T
  which, found = cosines.argmax(1), np.zeros(len(good), bool)
  for c in range(k):
    inside = np.flatnonzero(which == c)
    inside = inside[np.argsort(cosines[inside, c], kind="stable")]
    for at, i in enumerate(inside):
      if at and (z[inside[:at]] @ z[i]).max() > threshold:
        found[numbers[i]] = True
  return found


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_semdedup_is_its_plain_form_on_any_devices(devices, mesh):
  rng = np.random.default_rng(1)
  z = unit(rng.normal(size=(600, 8)))
  z[300:] = unit(z[:300] + 0.05 * rng.normal(size=(300, 8)))
  good = np.ones(600, bool)
  good[[5, 311]] = False

  def table(rows):
    flat = pa.array(z[rows].reshape(-1))
    mask = pa.array(~good[rows])
    return {"image": pa.FixedSizeListArray.from_arrays(flat, 8, mask=mask)}

  cut = parts(table(slice(0, 250)), table(slice(250, 600)))
  found = near.near(cut, good, mesh(devices), 0.97, 5, 4, 3)
  want = plain(z, good, 5, 4, 3, 0.97)
  np.testing.assert_array_equal(found, want)
  assert 150 < found.sum() < 300 and not found[~good].any()


def test_keep_takes_the_best_of_lists(tmp_path, monkeypatch, capsys):
  scores = np.arange(10, dtype=np.float32)
  (tmp_path / "scores").mkdir()
  np.save(tmp_path / "scores" / "scores.npy", scores)
  np.save(tmp_path / "a.npy", np.array([0, 1, 2, 3, 4, 9]))
  np.save(tmp_path / "b.npy", np.array([1, 2, 3, 4, 5, 9]))

  def run(*lists):
    flags = ["--scores", "scores", "--out", "kept.npy", "--fraction", "0.3"]
    monkeypatch.setattr(
      "sys.argv", ["keep", *flags, "--among", ",".join(lists)]
    )
    monkeypatch.chdir(tmp_path)
    keep.run()
    kept = np.load("kept.npy").tolist()
    (tmp_path / "kept.npy").unlink()
    return kept

  assert run("a.npy", "b.npy") == [3, 4, 9]
  np.save(tmp_path / "c.npy", np.array([11]))
  np.save(tmp_path / "d.npy", np.array([1.5]))
  for name in ("c.npy", "d.npy", "none.npy"):
    with pytest.raises(errors.UserError, match="--among = "):
      run(name)
  with pytest.raises(errors.UserError, match="3 of 10 records"):
    np.save(tmp_path / "e.npy", np.array([1, 2]))
    run("e.npy")
