"""A few hundred texts at which tokenizers of different make would differ."""

import random
import unicodedata

_CHOSEN = [
  "", " ", "\n\t ", "A PHOTO OF  a Cat!", "don't stop 42 times, I'M we'Re",
  "naïve café Zürich ÅNGSTRÖM", "cafe\u0301 e\u0301 a\u0300\u0301\u0302",
  "ﬁne ﬂow ½ ² ™ …", "ｆｕｌｌ　ｗｉｄｔｈ", "“curly” ‘quotes’ – dash",
  "猫在雪地里", "日本語のテキスト カタカナ", "한국어 문장", "שלום עולם",
  "مرحبا بالعالم", "हिन्दी में", "ΟΔΥΣΣΕΥΣ ΣΣ Σ", "İstanbul Iı",
  "ſtraſſe STRASSE ß ẞ 'ſ", "🦄🦄", "👩‍👩‍👧‍👦 family 🇩🇪 ❤️",
  "&amp; &lt;b&gt; &amp;amp;quot; &#39; &eacute;", "<p>html</p>", "a_b__c_ _d",
  "a\0b\x01c\x07d\x1be\x7f", "\x1cfoo\x1dbar\x1e\x1f baz",
  " leading, trailing ",
  "\x85next\u2028line\u2029par", "\u200bzero\u200dwidth\ufeff",
  "nbsp\u00a0here\u3000there", "schÃ¶n â€œmojibakeâ€\x9d", "\ufffd", "ǅ ǈ",
  "!@#$%^&*()_+-=[]{}|;':\",./<>?", "12345 67 8.9 ½ ٣ Ⅷ", "▁under▁score",
  "http://a.b/c?d=e&f=g", "tab\tand\r\nnewline", "\u0301", "𝒜𝓁𝓅𝒽𝒶", "x" * 76,
  "x " * 80, "a" * 10_000, "word " * 2000, "猫" * 10_000,
]  # fmt: skip
_PIECES = "the cat Dog's 猫 naïve _ & &amp; 42 é 🦄 , . ! ' \" - ( \t \n ß Ü İ"
_BLOCKS = [
  (1, 0x24F), (0x370, 0x1FFF), (0x2000, 0x2FFF), (0x4E00, 0x4FFF),
  (0x1F300, 0x1F6FF),
]  # fmt: skip


def texts() -> list[str]:
  """Returns the same texts each time."""
  r = random.Random(0)
  pieces = [*_PIECES.split(" ")]
  joined = [
    "".join(r.choice(pieces) + r.choice(["", " "]) for _ in range(n))
    for n in r.choices(range(1, 40), k=300)
  ]
  anything = [
    "".join(_character(r) for _ in range(n))
    for n in r.choices(range(1, 30), k=100)
  ]
  return _CHOSEN + joined + anything


def _character(r: random.Random) -> str:
  """A character that is as old as CLIP: whether a newer one is a letter is a
  matter of each library's edition of Unicode."""
  while True:
    character = chr(r.randint(*r.choice(_BLOCKS)))
    old = unicodedata.ucd_3_2_0.category(character) != "Cn"
    if old or 0x1F300 <= ord(character) < 0x1F600:
      return character
