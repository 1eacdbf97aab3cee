"""Tables that are joined, filtered and made into captions by templates."""

import csv
import io
import json

from fuzzing_truth import Case, Truth, text

from big_contrastive.data.sources import table


def case(rng, root) -> Case:
  """Rows have a kind, of which another table has the name."""
  kinds = rng.sample([0, 3, 12, -1, "a b", "007", "x", "NA", "é"], 5)
  names = {kind: text(rng, rng.choice(["", '"'])) for kind in kinds}
  rows = [(f"{i}.png", rng.choice(kinds)) for i in range(rng.randint(1, 8))]
  (root / "i").mkdir()
  for name, _ in rows:
    (root / "i" / name).write_bytes(f"image {name}".encode())
  wrong = rng.choice(list(_NAMED)) if rng.random() < 0.4 else ""
  wanted = rng.sample(kinds, rng.randint(1, 4)) if rng.random() < 0.6 else kinds
  there = [row for row in rows if row[1] in wanted]
  if wrong == "a kind of no name":
    names.pop(rows[0][1])
  captions = ["name", "a {name}", "name|so {name}", "{name}, {name}"]
  given = {"caption": rng.choice(captions)}
  if wanted is not kinds or wrong == "no such kind":
    chosen = "|".join(rng.choice(_spelt(kind, "csv")) for kind in wanted)
    given["where"] = "kind=" + (
      "nowhere" if wrong == "no such kind" else chosen
    )
  own = _write(rng, root / "t", [{"image": n, "kind": k} for n, k in rows])
  pairs = [{"kind": k, "name": n} for k, n in names.items()]
  if wrong == "two names of a kind":
    pairs.append({"kind": rng.choice(list(names)), "name": "another"})
  other = _write(rng, root / "k", rng.sample(pairs, len(pairs)))
  column = "kid" if wrong == "no such column" else "kind"
  given |= {"join": f"{other}:{column}", "id": "kind"}
  records = []
  for name, kind in there if not wrong else []:
    parts = given["caption"].split("|")
    parts = ["{name}" if part == "name" else part for part in parts]
    said = [part.replace("{name}", names[kind]) for part in parts]
    records.append((f"image {name}".encode(), tuple(said), kind, None))
  refused = bool(wrong) or not there
  return Case(
    f"{given}, {wrong or 'right'}",
    lambda: table.source(captions=own, images=str(root / "i"), **given),
    [] if refused else [Truth(records, 0)], refused,
    (_NAMED[wrong],) if wrong else (),
  )  # fmt: skip


# And what errors name.
_NAMED = {
  "a kind of no name": "join: ", "two names of a kind": "join: ",
  "no such kind": "where", "no such column": "join: column",
}  # fmt: skip


def _spelt(kind, form: str) -> list:
  """The same kind, as one program or another writes it."""
  if isinstance(kind, str):
    return [kind, f" {kind}"]
  return [f"{kind}", f"{kind}.0"] + [kind, float(kind)] * (form == "jsonl")


def _write(rng, path, rows: list[dict]) -> str:
  """A table in one of the forms; each row may spell its kind otherwise."""
  form = rng.choice(["csv", "tsv", "jsonl"])
  rows = [r | {"kind": rng.choice(_spelt(r["kind"], form))} for r in rows]
  full = path.with_suffix(f".{form}")
  if form == "jsonl":
    full.write_text("\n".join(json.dumps(row) for row in rows))
    return str(full)
  file = io.StringIO()
  between = "," if form == "csv" else "\t"
  writer = csv.DictWriter(file, list(rows[0]), delimiter=between)
  writer.writeheader()
  writer.writerows(rows)
  full.write_bytes(file.getvalue().encode())
  return str(full)
