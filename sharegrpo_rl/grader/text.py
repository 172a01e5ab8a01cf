"""One spelling for an answer: Unicode, LaTeX dress and plain text brought to the same characters."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

# ---- Where an answer stands in a response: the thinking part, answer tags, and boxes. Every scan is linear.

_THINK_OPEN, _THINK_CLOSE = "<think>", "</think>"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")
_PLACEHOLDER = re.compile(r"\\(?:phantom|hspace)\s*\{[^{}]*\}|\\(?:square|Box|quad|qquad|cdots|ldots|dots|_)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_RIVAL = re.compile(
    r"[^a-zA-Z\d]*(?:\d|[A-H](?![A-Za-z]))(?:\\[a-zA-Z]+|[^\w\\]|[\d_]|\b(?:[A-H]|or|and|maybe|not|to|but|possibly|vs|is|it|the|answer|because|since)\b)*",
    re.IGNORECASE,
)
_MAX_BOXES = 64
_MAX_BOX_CHARACTERS = 8_000


def after_thinking(text: str) -> str:
    """What follows the last `</think>`; all of the text where nothing was thought; "" where the thought never ends."""
    end = text.rfind(_THINK_CLOSE)
    if end >= 0:
        return text[end + len(_THINK_CLOSE) :]
    return "" if _THINK_OPEN in text else text


def tagged(text: str) -> list[str]:
    """Contents of the `<answer>` parts in order; an answer that was never closed is not one."""
    if "</answer>" not in text.lower():
        return []
    return [match.group(1).strip() for match in _ANSWER.finditer(text)]


def unboxed(answer: str) -> str:
    """The content of the one box in an answer part, where nothing beside it could be another answer; else all of it."""
    found = boxes(answer)
    match = _BOX.search(answer)
    if len(found) != 1 or match is None or not match.group().endswith("{"):
        return answer
    end = closing_brace(answer, match.end())
    sides = [answer[: match.start()], answer[end + 1 :] if end is not None else ""]
    return answer if any(_RIVAL.fullmatch(side) and "=" not in side for side in sides) else found[0]


def unclosed_answer(text: str) -> str | None:
    """What follows an `<answer>` that the response never closed."""
    start = text.lower().rfind("<answer>")
    return text[start + len("<answer>") :].strip() if start >= 0 and "</answer>" not in text[start:].lower() else None


def boxes(text: str) -> list[str]:
    """Contents of the outermost boxes in order; nested ones unwrapped; an unclosed one runs to its line's end."""
    found: list[str] = []
    position = 0
    while len(found) < _MAX_BOXES and (match := _BOX.search(text, position)):
        if match.group().endswith("{"):
            end = closing_brace(text, match.end())
            stop = end if end is not None else _line_end(text, match.end())
            content, position = text[match.end() : stop], stop + (end is not None)
        else:  # \boxed 5
            content, position = text[match.end() : match.end() + 1], match.end() + 1
        found.append(_unnest(content.strip()))
    return [content for content in found if _PLACEHOLDER.sub("", content).strip(" .{}$?_")]


def _unnest(content: str) -> str:
    """`\\boxed{\\boxed{5}}` holds 5."""
    for _ in range(8):
        match = re.fullmatch(r"\$?\s*\\(?:boxed|fbox)\s*\{(.*)\}\s*\$?", content, re.DOTALL)
        if match is None:
            return content
        content = match.group(1).strip()
    return content


def closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one before `start`; escaped braces do not count."""
    depth = 1
    for match in _BRACE.finditer(text, start, min(len(text), start + _MAX_BOX_CHARACTERS)):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


def _line_end(text: str, start: int) -> int:
    end = text.find("\n", start)
    return min(len(text) if end < 0 else end, start + 2_000)


MAX_ANSWER_CHARACTERS = 2_000  # nobody's final answer is longer; longer text is never parsed

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
_SUPERSCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_VULGAR = re.compile(r"(\d)?\s*([¼½¾⅐-⅞])")
_SIGNS = str.maketrans(
    {
        "−": "-",
        "–": "-",
        "—": "-",
        "‐": "-",
        "‑": "-",
        "·": "*",
        "⋅": "*",
        "∙": "*",
        "×": "*",
        "✕": "*",
        "÷": "/",
        "⁄": "/",
        "∕": "/",
        "º": "°",
        "˚": "°",
        "掳": "°",  # a degree sign read in the wrong encoding
        "≤": "<=",
        "≥": ">=",
        "≠": "!=",
        "‘": "'",
        "’": "'",
        "“": '"',
        "”": '"',
        "、": ",",
        "。": ".",
        "∞": "\\infty ",
        "π": "\\pi ",
        "∪": "\\cup ",
        "∈": "\\in ",
        "≈": "\\approx ",
        "△": "triangle ",
        "∆": "triangle ",
        "\u00a0": " ",
        "\u200b": "",
        "\ufeff": "",
    }
)
_NO_SPACE = re.compile(r"\\!|(?<=\d)\\[,;: ](?=\d{3}(?!\d))")  # 1,\!234 and 1\,234 are one number
_SPACES = re.compile(r"\\[,;:! ]|\\q?quad(?![a-zA-Z])|\\(?:thinspace|hspace\{[^{}]*\})|(?<!\\)~")
_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|boldsymbol|bigl|bigr|Bigl|Bigr|big|Big)(?![a-zA-Z])|\\[()\[\]]|\$"
)
_DRESS = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mathbf|mathit|mathsf|operatorname|mbox|hbox|bm|rm|bf|it|boxed|fbox"
    r"|underline|emph)\s*\{([^{}]*)\}"
)
_OLD_DRESS = re.compile(r"\\(?:rm|bf|it|cal)(?![a-zA-Z])\s*")
_WORDS = [
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


def superscripts_to_powers(text: str) -> str:
    """`cm²` -> `cm^{2}`."""
    return _SUPERSCRIPT_RUN.sub(lambda run: "^{" + "".join(_SUPERSCRIPTS[c] for c in run.group()) + "}", text)


def _vulgar_to_fraction(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match.group(2)).partition("⁄")
    return f"{match.group(1) or ''}\\frac{{{top}}}{{{bottom}}}"


def plain_unicode(text: str) -> str:
    """Compatibility characters, signs and spaces in their ASCII or LaTeX spelling; null bytes and controls dropped."""
    text = superscripts_to_powers(_VULGAR.sub(_vulgar_to_fraction, text))
    text = unicodedata.normalize("NFKC", text).translate(_SIGNS)
    return "".join(c if c.isprintable() else " " for c in text)


def _undressed(match: re.Match[str]) -> str:
    content = match.group(1)
    return content if content.isdigit() else f" {content} "  # \\text{00}\\text{6} is one number


@lru_cache(maxsize=8192)
def canonical(text: str) -> str:
    """The answer without dollar signs, styling macros and spacing macros; one spelling of roots, fractions, signs."""
    text = _EMPHASIS.sub(r"\1", plain_unicode(text[: MAX_ANSWER_CHARACTERS + 1]))
    currency = re.search(r"^\s*(?:\\?\$)\s*\d[\d,.]*\s*$", text)
    text = _NO_SPACE.sub("", _ESCAPED.sub(r"\\", text))
    text = _SPACES.sub(" ", _DROPPED.sub(" ", text.replace("\\$", "") if "\\$" in text else text))
    for _ in range(4):  # styling nests a few levels deep at most; each pass is linear
        text, count = _DRESS.subn(_undressed, text)
        if not count:
            break
    text = _OLD_DRESS.sub(" ", text)
    for pattern, replacement in _WORDS:
        text = pattern.sub(replacement, text)
    text = _REPEATING.sub(_repeating_to_fraction, _GLUED.sub(r" \1 ", text))
    text = re.sub(r"\s+", " ", text).strip().strip("*_`").strip()
    if currency is None:
        text = re.sub(r"(?<=[^.])\.$", "", text)
    return re.sub(
        r"[;,:?]+$|(?<=[a-z])!+$", "", text.rstrip(".") if not re.search(r"\d\.$", text) else text[:-1]
    ).strip()


_REPEATING = re.compile(r"(?<![\d.])(\d{0,9})\.(\d{0,9})\\(?:overline|bar|dot)\{(\d{1,9})\}(?!\d)")


def _repeating_to_fraction(match: re.Match[str]) -> str:
    """`0.1\\overline{6}` as a fraction."""
    whole, fixed, repeated = match.groups()
    bottom = 10 ** len(fixed) * (10 ** len(repeated) - 1)
    top = int((whole or "0") + fixed + repeated) - int((whole or "0") + fixed)
    return f"\\frac{{{top}}}{{{bottom}}}"


_EMPHASIS = re.compile(r"\*\*([^*\n]{1,200})\*\*")
_GLUED = re.compile(r"(?<=[\d)\]}])(or|and)(?=[A-Z(\[{\d\\])")  # 1orx=2
_ESCAPED = re.compile(r"\\\\(?=(?:text|frac|boxed|left|right|sqrt|pi|mathrm)\b)")  # a macro escaped twice
_LOOSE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")  # the space between two numbers stays
_NEEDLESS_BRACES = re.compile(r"(?<=[\^_])\{(-?\w+)\}|(?<![\}a-zA-Z])\{(\w)\}(?!\{)|^\{([^{}]*)\}$")


def squeezed(text: str) -> str:
    """`canonical` without spaces and needless braces, in lower case: where these are equal, so are the answers."""
    plain = _LOOSE.sub("", canonical(text)).casefold()
    return _NEEDLESS_BRACES.sub(lambda match: next(group for group in match.groups() if group is not None), plain)


_ARTICLES = {"a", "an", "the", "is", "are", "was", "be", "it", "its", "of", "to", "at", "in", "on"}
_SYNONYMS = {"more": "greater", "larger": "greater", "bigger": "greater", "fewer": "less", "smaller": "less"}
_TOKEN = re.compile(r"[^\W_]+(?:'[a-z]+)?")
_LABEL_A = re.compile(r"(?<=[a-z] )A(?![^\W_])|(?<![^\W_])A(?=\s*(?:$|[^\w\s])|\s+(?:and|or|is)\b)")


def content_words(text: str) -> tuple[str, ...]:
    """Lower-case words and numbers in order, without articles and small verbs; a label `A` is no article."""
    plain = canonical(text)
    labels = {match.start() for match in _LABEL_A.finditer(plain)}
    found = ((match.start(), match.group().casefold()) for match in _TOKEN.finditer(plain))
    return tuple(_SYNONYMS.get(word, word) for place, word in found if word not in _ARTICLES or place in labels)


# ---- Answers that have several names: the empty set, all real numbers, a limit that does not exist.

_NAMES = {
    "the empty set": {
        "\\emptyset",
        "\\varnothing",
        "∅",
        "{}",
        "\\{\\}",
        "empty set",
        "null set",
        "no solution",
        "no solutions",
    }
    | {"no real solution", "no real solutions"},
    "the real numbers": {
        "\\mathbb{R}",
        "\\mathbf{R}",
        "ℝ",
        "all real numbers",
        "all reals",
        "real numbers",
        "(-\\infty,\\infty)",
    },
    "no value": {"dne", "does not exist", "not exist"},
}
_BY_NAME = {name.replace(" ", "").casefold(): answer for answer, names in _NAMES.items() for name in names}


def well_known(text: str) -> str | None:
    """Which of these the whole text is; None for any other."""
    for spelling in (text.strip("$ ."), canonical(text).removeprefix("the ").removeprefix("The ")):
        if (answer := _BY_NAME.get("".join(spelling.split()).casefold())) is not None:
            return answer
    return None


# ---- Yes and no, true and false.

_yes_no_WORDS = {
    "yes": True,
    "true": True,
    "correct": True,
    "是": True,
    "no": False,
    "false": False,
    "incorrect": False,
    "否": False,
}
_FIRST = re.compile(
    r"^(yes|no|true|false)\b(?!\s+(?:one|more|other|matter|change|effect)|\s*,?\s*\(?(?:or|and|maybe|vs)\b|\s*[/&|~=])",
    re.IGNORECASE,
)
_ANY = re.compile(r"\b(yes|no|true|false)\b", re.IGNORECASE)


def parse_boolean(text: str, *, verbose: bool = False) -> bool | None:
    """True for yes/true, False for no/false, else None; `verbose` also reads `No, it is not` and `the answer is no`."""
    plain = canonical(text).strip(" .!\"'()*").casefold()
    if plain in _yes_no_WORDS:
        return _yes_no_WORDS[plain]
    if not verbose:
        return None
    said = {word.casefold() for word in _ANY.findall(plain)}
    if len({_yes_no_WORDS[word] for word in said}) > 1:
        return None
    if first := _FIRST.match(plain):
        return _yes_no_WORDS[first.group(1).casefold()]
    if answer := re.search(r"\b(?:answer|it|this|statement)\s+is:?\s+[\"'(*]*(yes|no|true|false)\b", plain):
        return _yes_no_WORDS[answer.group(1)]
    return None
