"""XMP packets of drone photos: a small reader of the text, attribute and element form, tolerant of broken XML."""

from __future__ import annotations

import html
import math
import re

_ATTRIBUTE = re.compile(r"""([A-Za-z][\w.-]*):([A-Za-z][\w.-]*)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_ELEMENT = re.compile(r"<([A-Za-z][\w.-]*):([A-Za-z][\w.-]*)(?:\s[^<>]*)?>([^<>]*)</\1:\2\s*>")
_LIST = re.compile(
    r"<([A-Za-z][\w.-]*):([A-Za-z][\w.-]*)(?:\s[^<>]*)?>\s*<rdf:(?:Seq|Bag|Alt)[^<>]*>(.*?)</rdf:(?:Seq|Bag|Alt)>", re.S
)
_ITEM = re.compile(r"<rdf:li[^<>]*>([^<>]*)</rdf:li>")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_RATIO = re.compile(r"\s*([-+]?\d{1,18})\s*/\s*(\d{1,18})\s*$")


class Xmp:
    """The simple properties of a packet. Makers use different prefixes for one name, so look-ups are by the name alone."""

    def __init__(self, packet: str) -> None:
        """packet: the XMP text; '' is an empty packet."""
        self._by_name: dict[str, list[tuple[str, str]]] = {}
        for prefix, name, body in _LIST.findall(packet):
            self._add(prefix, name, ",".join(item.strip() for item in _ITEM.findall(body)))
        for prefix, name, double, single in _ATTRIBUTE.findall(packet):
            if prefix not in ("xmlns", "rdf", "xml"):
                self._add(prefix, name, double or single)
        for prefix, name, body in _ELEMENT.findall(packet):
            if prefix != "rdf":
                self._add(prefix, name, body)

    def _add(self, prefix: str, name: str, value: str) -> None:
        self._by_name.setdefault(name.lower(), []).append((prefix.lower(), html.unescape(value).strip()))

    def text(self, *names: str) -> str:
        """The first of these properties that has a value, '' if none. 'Name' or 'prefix:Name'; case does not matter."""
        for wanted in names:
            prefix, _, name = wanted.lower().rpartition(":")
            for found, value in self._by_name.get(name, []):
                if value and (not prefix or prefix == found):
                    return value
        return ""

    def number(self, *names: str) -> float | None:
        """The first of these properties that begins with a finite number ('+39.80', '12/10' and '3.5 m' are)."""
        for name in names:
            value = as_number(self.text(name))
            if value is not None:
                return value
        return None

    def degrees(self, *names: str) -> float | None:
        """Like `number`, for latitudes and longitudes: also XMP's 'DDD,MM.mmmK' and 'DDD,MM,SSK' with K of N, S, E, W."""
        for name in names:
            value = _as_degrees(self.text(name))
            if value is not None:
                return value
        return None


def as_number(value: str) -> float | None:
    """The finite number a text begins with; None if it does not."""
    ratio = _RATIO.match(value)
    if ratio:
        return int(ratio[1]) / int(ratio[2]) if int(ratio[2]) else None
    found = _NUMBER.match(value.strip())
    if found is None:
        return None
    number = float(found[0])
    return number if math.isfinite(number) else None


def _as_degrees(value: str) -> float | None:
    value = value.strip()
    side = value[-1:].upper()
    if side and side in "NSEW":
        parts = [as_number(p) for p in value[:-1].split(",")]
        if any(p is None for p in parts):
            return None
        total = sum(float(p or 0.0) / 60.0**k for k, p in enumerate(parts))
        return -total if side in "SW" else total
    return as_number(value)
