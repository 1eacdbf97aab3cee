"""Numbers as a reader wants them."""

import math


def shown(value: float) -> str:
  """Returns a value with four significant digits, or fewer if these are zeros;
  a whole number as it is."""
  if not math.isfinite(value):
    return "not finite"
  if value == int(value) and abs(value) < 1e15:
    return f"{int(value):,}"
  if not 1e-4 <= abs(value) < 1e15:
    return short(f"{value:.3e}")
  # After rounding: 9.9999 is 10.00, not 10.000.
  exponent = int(f"{abs(value):.3e}".partition("e")[2])
  text = f"{value:,.{max(0, 3 - exponent)}f}"
  return text.rstrip("0").rstrip(".") if "." in text else text


def tick(value: float) -> str:
  """Returns a round number in few characters: 0, 0.25, 20k, 1.5M, 1e-5."""
  for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
    if 10 * min(scale, 1e3) <= abs(value) < 1e12 and abs(value) >= scale:
      return f"{value / scale:.6g}{unit}"
  return short(f"{value:.6g}")


def short(text: str) -> str:
  """Returns "1.200e-05" as "1.2e-5"; what has no exponent as it is."""
  mantissa, e, exponent = text.partition("e")
  if "." in mantissa:
    mantissa = mantissa.rstrip("0").rstrip(".")
  return f"{mantissa}e{int(exponent)}" if e else text


def size(count: int) -> str:
  """Returns a number of bytes: 12 kB, 3.4 MB."""
  return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def counted(count: int, noun: str) -> str:
  """Returns "1 run", "2 runs"."""
  return f"{count:,} {noun}{'s' * (count != 1)}"
