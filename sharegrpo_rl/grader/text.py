"""One spelling for an answer: Unicode, LaTeX styling and plain text brought to the same characters."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_ANSWER_CHARACTERS = 2_000  # nobody's final answer is longer; longer text is never parsed


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """The answer without dollar signs, styling macros and spacing macros; one spelling of roots, fractions, signs."""
    text = _EMPHASIS.sub(r"\1", _without_tags(plain_unicode(text[: MAX_ANSWER_CHARACTERS + 1])))
    is_amount = _DOLLAR_AMOUNT.search(text) is not None
    text = _NUMBER_SPACE.sub("", _escaped_once(text))
    text = _SPACE_MACRO.sub(" ", _DROPPED.sub(" ", _SYSTEM.sub(_system_to_list, text).replace("\\$", "")))
    for _ in range(4):  # styling nests a few levels deep at most; each pass is linear
        text, count = _STYLED.subn(_without_style, text)
        if not count:
            break
    text = _OLD_STYLE.sub(" ", text)
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _DOTTED.sub(_repeating_to_fraction, _GLUED_WORD.sub(r" \1 ", text))
    text = _REPEATING.sub(_repeating_to_fraction, text)
    text = re.sub(r"\s+", " ", text).strip().strip("*_`").strip()
    if not is_amount:
        text = re.sub(r"(?<=[^.])\.$", "", text)
    if _GOES_ON.search(text):
        return text
    text = text[:-1] if re.search(r"\d\.$", text) else text.rstrip(".")
    return _LOOSE_END.sub("", text).strip()


@lru_cache(maxsize=8192)
def normalized(text: str) -> str:
    """`canonical` without needless spaces and braces, words in lower case: where these are equal, so are the answers.

    Letters and braces that carry meaning stay: `r-R`, `Aa`, `CO` keep their case, and `e^{2x}` is not `e^{2}x`.
    """
    plain = _LETTERS.sub(_in_lower_case_if_a_word, canonical(text))
    plain = _BARE_SCRIPT.sub(r"\1{\2}", _LOOSE_SPACE.sub("", plain))
    return _NEEDLESS_BRACES.sub(lambda match: next(group for group in match.groups() if group is not None), plain)


@lru_cache(maxsize=8192)
def content_words(text: str) -> tuple[str, ...]:
    """Words in lower case and numbers, in order, without articles and small verbs; a label `A` is no article."""
    plain = canonical(text)
    labels = {match.start() for match in LABEL_A.finditer(plain)}
    words = ((match.start(), match.group()) for match in _TOKEN.finditer(plain))
    words = ((start, word) for start, word in words if word.casefold() not in _ARTICLES or start in labels)
    return tuple(_SYNONYMS.get(word, word) for word in (lower_case(word) for _, word in words))


def lower_case(word: str) -> str:
    """The word in lower case, unless its case may carry meaning: `Aa`, `CO`, `NaCl`, `x`, `mW` stay as they are."""
    folded = word.casefold()
    if len(word) < 2 or not word.isalpha():
        return word
    if len(word) == 2 and word.isascii():
        return folded if folded in _SMALL_WORDS else word
    is_plain = word.islower() or word.isupper() or word.istitle()
    return folded if is_plain and not _PAIRS.fullmatch(folded) else word


def _in_lower_case_if_a_word(match: re.Match[str]) -> str:
    """Macros and short runs of letters next to a sign are mathematics."""
    letters, text = match.group(), match.string
    if letters.startswith("\\"):
        return letters
    neighbours = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
    is_product = len(letters) < 5 and any(sign in _NEXT_TO_LETTERS for sign in neighbours)
    return letters if is_product else lower_case(letters)


def plain_unicode(text: str) -> str:
    """Compatibility characters, signs and spaces in their ASCII or LaTeX spelling; null bytes and controls dropped."""
    text = _SUPERSCRIPT_RUN.sub(_superscript_to_power, _VULGAR.sub(_vulgar_to_fraction, text))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    return text if text.isascii() and text.isprintable() else "".join(map(_plain_character, text))


def _plain_character(character: str) -> str:
    """Digits of every script as ASCII, what cannot be printed as a space."""
    if character.isascii():
        return character if character.isprintable() else " "
    if (digit := unicodedata.decimal(character, None)) is not None:
        return str(digit)
    return character if character.isprintable() else " "


def _without_tags(text: str) -> str:
    """`<b>7</b>` and `\\color{red}{7}` as 7, `CO<sub>2</sub>` as CO_{2}."""
    text = _COLOR.sub("", text)
    if "<" not in text:
        return text
    return _TAG.sub("", _SUPERSCRIPT_TAG.sub(r"^{\1}", _SUBSCRIPT_TAG.sub(r"_{\1}", text)))


def _escaped_once(text: str) -> str:
    """`\\\\frac` is a macro whose backslash was escaped twice; the end of a row in a matrix is none."""
    if "\\\\begin" in text:
        text = text.replace("\\\\", "\\")
    pattern = _ESCAPED_MACRO if "\\begin" in text else _ESCAPED_TWICE
    return _ROW_GAP.sub(r"\\\\ ", pattern.sub(r"\\", text))


def _system_to_list(match: re.Match[str]) -> str:
    """`\\begin{cases} x=1 \\\\ y=2 \\end{cases}` as `x=1 , y=2`; what has columns is a matrix or defined by cases."""
    body = match["body"].replace("&=", "=").replace("=&", "=")
    return match.group() if "&" in body else " , ".join(filter(None, map(str.strip, body.split("\\\\"))))


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
    | dict(zip("٫٬٪", ".,%", strict=True))
    | {"≤": "<=", "⩽": "<=", "≦": "<=", "⩾": ">=", "≧": ">=", "≥": ">=", "≠": "!=", "、": ",", "。": ".", "\u00a0": " "}
    | {"∞": "\\infty ", "π": "\\pi ", "∪": "\\cup ", "∈": "\\in ", "≈": "\\approx "}
)
_NUMBER_SPACE = re.compile(
    r"(?<=,)\\!\s*(?=\d)|\\!|(?<=\d)\\[,;: ](?=\d{3}(?!\d))"
)  # 1,\!234 and 1\,234 are one number
_SPACE_MACRO = re.compile(r"(?<!\\)\\[,;:! ]|\\q?quad(?![a-zA-Z])|\\(?:thinspace|hspace\{[^{}]*\})|(?<!\\)~")
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
    (re.compile(r"\{([^{}]{1,60})\\over(?![a-z])([^{}]{1,60})\}"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\(?:[lc]?dots|cdots)(?![a-zA-Z])"), "..."),
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
_DOTTED = re.compile(r"(?<![\d.])(\d{0,9})\.(\d{0,6}?)(\d{1,3}?)\3{1,20}\.{3}")  # 0.1666...
_EMPHASIS = re.compile(r"(?<![\w)\]}*])\*\*(?=[^\s*])([^*\n]{1,200})\*\*")  # x**2 + y**2 holds none
_COLOR = re.compile(r"\\(?:text)?color\s*\{[^{}]{1,30}\}")
_SUPERSCRIPT_TAG = re.compile(r"<sup>([^<>]{1,40})</sup>", re.IGNORECASE)
_SUBSCRIPT_TAG = re.compile(r"<sub>([^<>]{1,40})</sub>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:b|i|u|em|strong|span|font|p|br|code|mark|sub|sup)(?:\s[^<>]{0,80})?\s*/?>", re.IGNORECASE)
_SYSTEM = re.compile(
    r"(?:\\left\s*\\\{\s*)?\\begin\{(?:cases|aligned|array|gathered)\}(?:\{[lcr|]{1,9}\})?"
    r"(?P<body>[^{}]*(?:\{[^{}]*\}[^{}]*){0,40})\\end\{(?:cases|aligned|array|gathered)\}(?:\s*\\right\s*\.)?"
)
_GLUED_WORD = re.compile(r"(?<=[\d)\]}])(or|and)(?=[A-Z(\[{\d\\])")  # 1orx=2
_ESCAPED_TWICE = re.compile(r"\\\\(?=[a-zA-Z]{2})")
_ESCAPED_MACRO = re.compile(r"\\\\(?=(?:text|d?frac|boxed|left|right|sqrt|pi|mathrm)\b)")
_ROW_GAP = re.compile(r"\\\\\s*\[-?[\d.]{1,6}\s*[a-z]{2}\]|\\cr(?![a-z])|\\newline(?![a-z])")  # \\[2pt]
_LOOSE_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # the space between two numbers stays
_BARE_SCRIPT = re.compile(r"([\^_])(-?\d+|[^\W\d_]|\\(?!frac|sqrt|d?frac)[a-zA-Z]+)")
_NEEDLESS_BRACES = re.compile(r"(?<![\}a-zA-Z^_])\{(\w)\}(?!\{)|^\{([^{}]*)\}$")
_LETTER = r"[^\W\d_]"
_GOES_ON = re.compile(r",\s*\.\.\.$")  # a list without an end
_LOOSE_END = re.compile(rf"[;,:?]+$|(?<={_LETTER}{{3}})!+$")
_LETTERS = re.compile(rf"\\?{_LETTER}+")
_NEXT_TO_LETTERS = set("+-*/^_=<>|(){}[]\\!'0123456789")
_PAIRS = re.compile(r"(?:(\w)\1){2,4}")  # AABB, rryy: genotypes
_TWO_LETTER_WORDS = (
    "ad ah ai am an as at be by do dj eu ex go he hi if in is it me my no of oh ok on or so to tv uk un up us we"
)
_SMALL_WORDS = set(_TWO_LETTER_WORDS.split())
_ARTICLES = {"a", "an", "the", "is", "are", "was", "be", "it", "its", "of", "to", "at", "in", "on"}
_SYNONYMS = {"more": "greater", "larger": "greater", "bigger": "greater", "fewer": "less", "smaller": "less"}
_TOKEN = re.compile(r"[^\W_]+(?:'[a-z]+)?")
LABEL_A = re.compile(r"(?<=[a-z] )A(?![^\W_])|(?<![^\W_])A(?=\s*(?:$|[^\w\s])|\s+(?:and|or|is)\b)")
