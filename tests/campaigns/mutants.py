"""LightGBM texts that something happened to, or that somebody means harm with."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_NUMBERS = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.])")
_HUGE = (
    b"1e308",
    b"-1e308",
    b"1e999",
    b"nan",
    b"-inf",
    b"99999999999999999999",
    b"1e-400",
    b"2147483648",
    b"",
)
_COUNTS = (b"num_leaves", b"num_cat", b"max_feature_idx", b"num_class", b"num_tree_per_iteration", b"label_index",
           b"is_linear", b"shrinkage", b"leaf_count", b"internal_count")  # fmt: skip


def mutate(text: bytes, chance: random.Random) -> tuple[str, bytes]:
    """What was done, and the result, which differs from `text`."""
    while True:
        kind = chance.choice(list(_KINDS))
        result = _KINDS[kind](text, chance)
        # With sizes that fit, what was done reaches the parser of the tree.
        if kind != "truncated" and chance.random() < 0.7:
            result = _sizes_made_right(result)
        if result != text:
            return kind, result


def _truncated(text: bytes, chance: random.Random) -> bytes:
    return text[: chance.randrange(len(text))]


def _digit(text: bytes, chance: random.Random) -> bytes:
    at = chance.choice([match.start() for match in re.finditer(rb"\d", text)])
    return text[:at] + str(chance.randrange(10)).encode() + text[at + 1 :]


def _byte(text: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(text))
    return text[:at] + bytes([text[at] ^ 1 << chance.randrange(8)]) + text[at + 1 :]


def _count(text: bytes, chance: random.Random) -> bytes:
    """A number of something that isn't the number of it."""
    wrong = chance.choice((b"0", b"1", b"-1", b"2", b"14", b"16", b"1000000", b"2147483647"))
    return _in_line(text, chance.choice(_COUNTS), chance, lambda _: wrong)


def _child(text: bytes, chance: random.Random) -> bytes:
    """A node that is its own child, its ancestor's parent, or nobody's."""
    wrong = chance.choice(
        (b"0", b"1", b"2", b"-1", b"-16", b"-17", b"13", b"14", b"15", b"9999999", b"-9999999")
    )
    return _in_line(text, chance.choice((b"left_child", b"right_child")), chance, lambda _: wrong)


def _feature(text: bytes, chance: random.Random) -> bytes:
    wrong = chance.choice((b"0", b"3", b"4", b"5", b"-1", b"1000", b"1000000", b"2147483647"))
    return _in_line(text, b"split_feature", chance, lambda _: wrong)


def _huge(text: bytes, chance: random.Random) -> bytes:
    return _in_line(text, chance.choice((b"threshold", b"leaf_value", b"split_gain", b"leaf_weight")), chance,
                    lambda _: chance.choice(_HUGE))  # fmt: skip


def _decision(text: bytes, chance: random.Random) -> bytes:
    return _in_line(text, b"decision_type", chance, lambda _: str(chance.randrange(-2, 260)).encode())


def _leaf(text: bytes, chance: random.Random) -> bytes:
    """A change that only its answers show."""
    return _in_line(text, b"leaf_value", chance, lambda _: repr(chance.gauss(0, 0.01)).encode())


def _lines(text: bytes, chance: random.Random) -> bytes:
    """A line lost, doubled, or in another's place."""
    lines = text.split(b"\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    match chance.randrange(3):
        case 0:
            del lines[one]
        case 1:
            lines.insert(other, lines[one])
        case _:
            lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


_KINDS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": _truncated,
    "digit": _digit,
    "byte": _byte,
    "count": _count,
    "child": _child,
    "feature": _feature,
    "huge": _huge,
    "decision": _decision,
    "leaf": _leaf,
    "lines": _lines,
}


def _in_line(text: bytes, name: bytes, chance: random.Random, wrong: Callable[[bytes], bytes]) -> bytes:
    """One number, in one of the lines of that name, replaced."""
    found = list(re.finditer(rb"(?m)^" + name + rb"=(.*)$", text))
    if not found:
        return text
    line = chance.choice(found)
    numbers = list(_NUMBERS.finditer(line[1]))
    if not numbers:
        return text
    number = chance.choice(numbers)
    start = line.start(1) + number.start()
    return text[:start] + wrong(number[0]) + text[start + len(number[0]) :]


def _sizes_made_right(text: bytes) -> bytes:
    starts = [match.start() for match in re.finditer(rb"(?m)^Tree=", text)]
    end = text.find(b"end of trees")
    if not starts or end < starts[-1]:
        return text
    sizes = b" ".join(str(b - a).encode() for a, b in zip(starts, [*starts[1:], end], strict=True))
    return re.sub(rb"(?m)^tree_sizes=.*$", b"tree_sizes=" + sizes, text, count=1)
