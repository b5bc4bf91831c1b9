"""One thing wrong in a good file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ODD = (None, True, -1, 0, 1e308, 2**70, "", "x", "\x00", [], {}, [1], {"a": None}, "../..", float("nan"))
JUNK = (b"", b"[]", b"null", b"3", b'"x"', b"\xff\xfe", b"{}", b"\x00" * 100, b"[" * 100_000)


def paths(tree: Any, prefix: tuple = ()) -> Iterator[tuple]:
    """Every key of nested mappings, and of lists the first."""
    items = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:1] if isinstance(tree, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


def changed(tree: Any, draw: st.DrawFn) -> Any:
    """One value of a JSON tree is another one, or missing; an empty tree is another value."""
    known = list(paths(tree))
    if not known:
        return draw(st.sampled_from(ODD))
    *above, last = draw(st.sampled_from(known))
    place = tree
    for key in above:
        place = place[key]
    if draw(st.booleans()):
        place[last] = draw(st.sampled_from(ODD))
    else:
        del place[last]
    return tree


def flipped(raw: bytes, draw: st.DrawFn) -> bytes:
    place = draw(st.integers(0, min(len(raw), draw(st.sampled_from((20, 2000, len(raw))))) - 1))
    return raw[:place] + bytes([raw[place] ^ (1 << draw(st.integers(0, 7)))]) + raw[place + 1 :]
