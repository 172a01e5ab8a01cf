"""One spelling for an answer: Unicode, LaTeX styling and plain text brought to the same characters."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_ANSWER_CHARACTERS = 2_000  # nobody's final answer is longer; longer text is never parsed


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """The answer without dollar signs, styling macros and spacing macros; one spelling of roots, fractions, signs."""
    text = _EMPHASIS.sub(r"\1", plain_unicode(text[: MAX_ANSWER_CHARACTERS + 1]))
    is_amount = _DOLLAR_AMOUNT.search(text) is not None
    text = _NUMBER_SPACE.sub("", _ESCAPED_TWICE.sub(r"\\", text))
    text = _SPACE_MACRO.sub(" ", _DROPPED.sub(" ", text.replace("\\$", "")))
    for _ in range(4):  # styling nests a few levels deep at most; each pass is linear
        text, count = _STYLED.subn(_without_style, text)
        if not count:
            break
    text = _OLD_STYLE.sub(" ", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _REPEATING.sub(_repeating_to_fraction, _GLUED_WORD.sub(r" \1 ", text))
    text = re.sub(r"\s+", " ", text).strip().strip("*_`").strip()
    if not is_amount:
        text = re.sub(r"(?<=[^.])\.$", "", text)
    text = text[:-1] if re.search(r"\d\.$", text) else text.rstrip(".")
    return re.sub(r"[;,:?]+$|(?<=[a-z])!+$", "", text).strip()


def normalized(text: str) -> str:
    """`canonical` without spaces and needless braces, in lower case: where these are equal, so are the answers."""
    plain = _LOOSE_SPACE.sub("", canonical(text)).casefold()
    return _NEEDLESS_BRACES.sub(lambda match: next(group for group in match.groups() if group is not None), plain)


def content_words(text: str) -> tuple[str, ...]:
    """Lower-case words and numbers in order, without articles and small verbs; a label `A` is no article."""
    plain = canonical(text)
    labels = {match.start() for match in _LABEL_A.finditer(plain)}
    words = ((match.start(), match.group().casefold()) for match in _TOKEN.finditer(plain))
    return tuple(_SYNONYMS.get(word, word) for start, word in words if word not in _ARTICLES or start in labels)


def plain_unicode(text: str) -> str:
    """Compatibility characters, signs and spaces in their ASCII or LaTeX spelling; null bytes and controls dropped."""
    text = _SUPERSCRIPT_RUN.sub(_superscript_to_power, _VULGAR.sub(_vulgar_to_fraction, text))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    return "".join(c if c.isprintable() else " " for c in text)


def _superscript_to_power(run: re.Match[str]) -> str:
    """`cm²` -> `cm^{2}`."""
    return "^{" + "".join(_SUPERSCRIPTS[c] for c in run.group()) + "}"


def _vulgar_to_fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match.group(2)).partition("⁄")
    return f"{match.group(1) or ''}\\frac{{{top}}}{{{bottom}}}"


def _without_style(match: re.Match[str]) -> str:
    content = match.group(1)
    return content if content.isdigit() else f" {content} "  # \\text{00}\\text{6} is one number


def _repeating_to_fraction(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a fraction."""
    integer, fixed, repeated = match.groups()
    bottom = 10 ** len(fixed) * (10 ** len(repeated) - 1)
    top = int((integer or "0") + fixed + repeated) - int((integer or "0") + fixed)
    return f"\\frac{{{top}}}{{{bottom}}}"


_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUPERSCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_VULGAR = re.compile(r"(\d)?\s*([¼½¾⅐-⅞])")
_SIGNS = str.maketrans(
    dict.fromkeys("−–—‐‑", "-")
    | dict.fromkeys("·⋅∙×✕", "*")
    | dict.fromkeys("÷⁄∕", "/")
    | dict.fromkeys("º˚掳", "°")  # the last is a degree sign read in the wrong encoding
    | dict.fromkeys("‘’", "'")
    | dict.fromkeys("“”", '"')
    | dict.fromkeys("△∆", "triangle ")
    | dict.fromkeys("\u200b\ufeff", "")
    | {"≤": "<=", "≥": ">=", "≠": "!=", "、": ",", "。": ".", "\u00a0": " "}
    | {"∞": "\\infty ", "π": "\\pi ", "∪": "\\cup ", "∈": "\\in ", "≈": "\\approx "}
)
_NUMBER_SPACE = re.compile(r"\\!|(?<=\d)\\[,;: ](?=\d{3}(?!\d))")  # 1,\!234 and 1\,234 are one number
_SPACE_MACRO = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|\\(?:thinspace|hspace\{[^{}]*\})|(?<!\\)~")
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|boldsymbol|bigl|bigr|Bigl|Bigr|big|Big)(?![a-zA-Z])|\\[()\[\]]|\$"
)
_STYLED = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|operatorname|mbox|hbox|bm|rm|bf|it|boxed|fbox"
    r"|underline|emph)\s*\{([^{}]*)\}"
)
_OLD_STYLE = re.compile(r"\\(?:rm|bf|it|cal)(?![a-zA-Z])\s*")
_SPELLINGS = [
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"\\frac\s*(\{[^{}]*\})\s*(\d)"), r"\\frac\1{\2}"),
    (re.compile(r"\\sqrt\s*(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"(?:√|(?<![a-zA-Z\\])sqrt)\s*(?=[{(\[])"), r"\\sqrt"),
    (re.compile(r"√\s*(\d+(?:\.\d+)?|[a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"\\sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])", re.IGNORECASE), r"\\pi "),
    (re.compile(r"(?<![a-zA-Z\\])(?:(?:positive|plus)\s+)?infinity(?![a-zA-Z])", re.IGNORECASE), r"\\infty "),
    (re.compile(r"(?<![a-zA-Z\\])(?:negative|minus)\s+\\infty", re.IGNORECASE), r"-\\infty"),
    (re.compile(r"\\(?:measured)?angle(?![a-zA-Z])\s*"), "∠"),
    (re.compile(r"\\triangle(?![a-zA-Z])\s*"), "triangle "),
    (re.compile(r"\\parallel(?![a-zA-Z])"), "∥"),
    (re.compile(r"\\perp(?![a-zA-Z])"), "⊥"),
    (re.compile(r"\\(?:times|cdot|ast|bullet)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\(?:leq?|leqslant)(?![a-zA-Z])"), "<="),
    (re.compile(r"\\(?:geq?|geqslant)(?![a-zA-Z])"), ">="),
    (re.compile(r"\\neq?(?![a-zA-Z])"), "!="),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\^\s*(?:\\circ(?![a-zA-Z])|\{\s*\\circ\s*\}|°)|\\degrees?(?![a-zA-Z])"), "°"),
    (re.compile(r"(?<=[\d}])\s*\\circ(?![a-zA-Z])"), "°"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([%$€£#&_{}])"), r"\1"),
    (re.compile(r"\*\*(?=\S)"), "^"),
    (re.compile(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)"), "*"),  # 7.4 x 10^5
    *(
        (re.compile(rf"(?<=[\d)])\s+{word}\s+(?=-?[\d(])"), sign)
        for word, sign in [("plus", "+"), ("minus", "-"), ("times", "*"), (r"divided\s+by", "/")]
    ),
]
_DOLLAR_AMOUNT = re.compile(r"^\s*(?:\\?\$)\s*\d[\d,.]*\s*$")
_REPEATING = re.compile(r"(?<![\d.])(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot)\{(\d{1,9})\}(?!\d)")
_EMPHASIS = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_GLUED_WORD = re.compile(r"(?<=[\d)\]}])(or|and)(?=[A-Z(\[{\d\\])")  # 1orx=2
_ESCAPED_TWICE = re.compile(r"\\\\(?=(?:text|frac|boxed|left|right|sqrt|pi|mathrm)\b)")  # a macro escaped twice
_LOOSE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # the space between two numbers stays
_NEEDLESS_BRACES = re.compile(r"(?<=[\^_])\{(-?\w+)\}|(?<![\}a-zA-Z])\{(\w)\}(?!\{)|^\{([^{}]*)\}$")
_ARTICLES = {"a", "an", "the", "is", "are", "was", "be", "it", "its", "of", "to", "at", "in", "on"}
_SYNONYMS = {"more": "greater", "larger": "greater", "bigger": "greater", "fewer": "less", "smaller": "less"}
_TOKEN = re.compile(r"[^\W_]+(?:'[a-z]+)?")
_LABEL_A = re.compile(r"(?<=[a-z] )A(?![^\W_])|(?<![^\W_])A(?=\s*(?:$|[^\w\s])|\s+(?:and|or|is)\b)")
