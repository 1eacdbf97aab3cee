"""Reads the header of a JPEG, marker by marker (ITU T.81, annex B)."""

_START = 0xFF  # The first byte of every marker.
_SOF0, _LAST = 0xC0, 0xFE  # The first and the last marker with a length.
_DHT, _JPG, _DAC = 0xC4, 0xC8, 0xCC  # In the range of frames, but not frames.
_RST0, _EOI = 0xD0, 0xD9  # Markers from the first to the second: no length.
_SOS = 0xDA
_APP1, _APP14 = 0xE1, 0xEE  # EXIF and XMP; Adobe's.
_ADOBE = 14  # The least number of bytes of Adobe's note.


def plain(jpeg: bytes) -> int:
  """Returns the number of pixels of a JPEG in gray or three colors.

  Returns 0 if it may be rotated (EXIF, XMP), or has other colors. It takes a
  twelfth of the time that PIL takes to open the image.

  Args:
    jpeg: begins with the marker SOI.
  """
  pixels, at = 0, 2
  while at + 9 < len(jpeg) and jpeg[at] == _START:
    marker, length = jpeg[at + 1], (jpeg[at + 2] << 8) + jpeg[at + 3]
    if marker == _SOS:  # No decoder looks for notes after it.
      return pixels
    if marker == _APP14 and length < _ADOBE:  # PIL refuses it.
      return 0
    if marker == _APP1 or not _SOF0 <= marker <= _LAST:
      return 0
    if _RST0 <= marker <= _EOI:
      return 0
    if marker < _RST0 and marker not in (_DHT, _JPG, _DAC):
      high, low, wide, side, colors = jpeg[at + 5 : at + 10]
      simple = colors in (1, 3)
      pixels = ((high << 8) + low) * ((wide << 8) + side) if simple else 0
    at += 2 + length
  return 0
