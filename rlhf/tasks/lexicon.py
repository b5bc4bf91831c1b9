"""The words of the small world: pairs of an English and a Chinese word, by category."""

from __future__ import annotations

LANGUAGES = ("zh", "en")

CATEGORIES: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "animal": ("动物", (("cat", "猫"), ("dog", "狗"), ("horse", "马"), ("fish", "鱼"), ("bird", "鸟"))),
    "fruit": ("水果", (("apple", "苹果"), ("pear", "梨"), ("peach", "桃子"), ("grape", "葡萄"), ("lemon", "柠檬"))),
    "colour": ("颜色", (("red", "红色"), ("blue", "蓝色"), ("green", "绿色"), ("white", "白色"), ("black", "黑色"))),
    "vehicle": ("交通工具", (("car", "汽车"), ("bus", "公交"), ("train", "火车"), ("ship", "轮船"), ("plane", "飞机"))),
}

_ENGLISH_FIRST = [pair for _, pairs in CATEGORIES.values() for pair in pairs]
_KINDS = [(english, chinese) for english, (chinese, pairs) in CATEGORIES.items() for _ in pairs]
_COLUMN = {"en": 0, "zh": 1}


def words(lang: str) -> list[str]:
    """Every word of a language, in a fixed order."""
    return [pair[_COLUMN[lang]] for pair in _ENGLISH_FIRST]


def translation(word: str, lang: str) -> str:
    """The word of the other language; raises ValueError for an unknown one."""
    return _ENGLISH_FIRST[words(lang).index(word)][1 - _COLUMN[lang]]


def kind_of(word: str, lang: str) -> str:
    """The name, in the same language, of the category of a word; raises ValueError for an unknown one."""
    return _KINDS[words(lang).index(word)][_COLUMN[lang]]


def kinds(lang: str) -> list[str]:
    """The names of the categories."""
    return sorted({kind[_COLUMN[lang]] for kind in _KINDS})


def other(lang: str) -> str:
    """The other language."""
    return "zh" if lang == "en" else "en"
