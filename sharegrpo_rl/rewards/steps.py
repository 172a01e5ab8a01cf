"""StepGRPO's rewards (R1-VL): which key steps the reasoning contains (StepRAR), and whether it is in order (StepRVR).

With `rewards: {accuracy: 1.0, key_steps: 0.1, step_validity: 1.0}` the total is StepRAR + StepRVR: 1 + 0.1 k for a right
answer, 0.1 k for a wrong one, 0 without an answer, and 1 more for valid reasoning. The `_released` rewards behave as
the authors' code does, its gaps included.

Key steps are matched by whole words and numbers, so that 3 is not found in 13: text and phrase are brought to the same
tokens, and a phrase matches where its tokens appear in sequence within one step. Letter case, plural endings, LaTeX
styling, list marks and the spelling of a number (0.5, 1/2, 50 %, .50, 12 and twelve) do not matter. The authors' code
looks for substrings instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from sharegrpo_rl.grader import (
    find_format,
    is_complete_and_ordered,
    plain_unicode,
    replace_number_words,
    sections,
    step_texts,
)

KeySteps = Sequence[Sequence[str]]
"""Each key step as its equivalent phrasings."""

_RELEASED_STEP = re.compile(r"### Step (\d+):\s*+")
_RELEASED_ANSWER = "### The final answer is:"
_RELEASED_HEADINGS = ("### Image Description:", "### Rationales:", "### Step 1:", _RELEASED_ANSWER)


def key_steps_reward(
    completions: Sequence[str],
    *,
    key_steps: Sequence[KeySteps | None],
    answer_format: str = "steps",
    **columns: Any,
) -> list[float | None]:
    """Share of the row's key steps found in the steps; 0 where the row has none or the completion no answer."""
    form = find_format(answer_format)
    return [
        matched_share(step_texts(text), steps) if steps and form.extract(text) is not None else 0.0
        for text, steps in zip(completions, key_steps, strict=True)
    ]


def step_validity_reward(
    completions: Sequence[str], *, truncated: Sequence[bool] | None = None, **columns: Any
) -> list[float | None]:
    """1 where every section is there, filled, once and in logical order, and nothing was cut off; else 0."""
    return [
        float(not is_truncated and is_complete_and_ordered(sections(text)[1]))
        for text, is_truncated in zip(completions, truncated or [False] * len(completions), strict=True)
    ]


def key_steps_released_reward(
    completions: Sequence[str], *, key_steps: Sequence[KeySteps | None], **columns: Any
) -> list[float | None]:
    """Released code's share of key steps: substrings, with or without an answer."""
    return [
        substring_share(_released_steps(text), steps) if steps else 0.0
        for text, steps in zip(completions, key_steps, strict=True)
    ]


def step_validity_released_reward(completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Released code's validity: bodies may be empty, sections before or behind the steps, the answer missing."""
    return [float(_released_validity(text)) for text in completions]


def _released_steps(text: str) -> list[str]:
    """The text after each `### Step k:`, up to the next line that begins with `###`."""
    bodies, position = [], 0
    while heading := _RELEASED_STEP.search(text, position):
        end = text.find("\n###", heading.end())
        position = end if end >= 0 else len(text)
        bodies.append(text[heading.end() : position])
    return bodies


def _released_validity(text: str) -> bool:
    if not all(heading in text for heading in _RELEASED_HEADINGS):
        return False
    steps = list(_RELEASED_STEP.finditer(text))
    if not text.strip().endswith(_RELEASED_ANSWER) and text.index(_RELEASED_ANSWER) < steps[-1].end():
        return False
    # Python reads no longer numbers; no count is as high
    return all(len(step[1]) <= 4_000 and int(step[1]) == number for number, step in enumerate(steps, 1))


# ---- Matching of key steps.

_MAX_CHARACTERS = 50_000  # of a completion's steps: beyond any limit on completion tokens
_MAX_DIGITS = 40
_STOP = "."  # ends a sentence or a step: no phrase reaches across

_SYMBOLS = {"∠": "angle", "△": "triangle", "Δ": "triangle", "∆": "triangle", "⊥": "perpendicular", "∥": "parallel"}
_SYMBOLS |= {"∼": "similar", "∽": "similar", "≅": "congruent", "≌": "congruent", "⊙": "circle", "√": "sqrt"}
_SYMBOL_TABLE = str.maketrans({sign: f" {word} " for sign, word in _SYMBOLS.items()})
_MACROS = {"times": "*", "cdot": "*", "ast": "*", "div": "/", "circ": "°", "degree": "°", "degrees": "°"}
_MACROS |= {"perp": "perpendicular", "sim": "similar", "cong": "congruent", "odot": "circle"}
_MACROS |= {"le": "<=", "leq": "<=", "ge": ">=", "geq": ">=", "ne": "!=", "neq": "!="}
_MACROS |= dict.fromkeys(
    ["text", "mathrm", "mathbf", "textbf", "left", "right", "quad", "qquad", "overline", "boxed"], ""
)
_MACRO = re.compile(r"\\(?:([A-Za-z]{1,20})|([^A-Za-z]))")
_FRACTION = re.compile(r"\\[dtc]?frac\s{0,9}\{([^{}]{1,60})\}\s{0,9}\{([^{}]{1,60})\}")
_STYLING = str.maketrans({**dict.fromkeys("${}`", " "), **dict.fromkeys("'\"’‘“”")})
_EMPHASIS = re.compile(r"\*\*|__")
_ITEM = re.compile(r"^[^\S\n]*+(?:[0-9]{1,3}[.)](?=\s)|(?=[-*•]\s))", re.MULTILINE)  # of a list
_HAN = re.compile(r"([\u3040-\u30ff\u4e00-\u9fff])")  # written without spaces: each character is a word
_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=[A-Za-z]{3})|(?<=[0-9])-(?=[a-z]{3})")  # right-angled; AB-CD is a difference
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z])_(?=[A-Za-z0-9])")
_DEGREES = re.compile(r"(?<=[0-9])\s*+\^?\s*+(?:°|degrees?\b)", re.IGNORECASE)
_IMPLICIT = re.compile(r"(?<=[0-9])\s*+\*\s*+(?=[A-Za-z(])")  # 5*sqrt(3) is 5 sqrt(3)
_ROOT = re.compile(r"\bsqrt\s*+\(\s*+([A-Za-z0-9.]{1,40})\s*+\)", re.IGNORECASE)

_NUMBER = r"[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])(?:\.[0-9]++)?|[0-9]++(?:\.[0-9]++)?|\.[0-9]++"
_TOKEN = re.compile(
    r"(?P<ordinal>[0-9]++(?:st|nd|rd|th)\b)"
    rf"|(?P<top>{_NUMBER})(?:\s*+/\s*+(?P<bottom>{_NUMBER})(?!\s*+/))?(?P<percent>\s*+(?:%|percent\b))?"
    r"|(?P<word>[^\W\d_][^\W_]*+)"
    r"|(?P<sign><=|>=|!=|[-+*/^=<>()\[\]|])"
    r"|(?P<stop>[.;!?])",
    re.IGNORECASE,
)
_PLURALS = (("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("ies", "y"))


@dataclass(frozen=True)
class _Form:
    """Tokens between spaces, as they are and without plural endings."""

    exact: str
    folded: str

    def holds(self, phrase: _Form) -> bool:
        """Word for word, or with plural endings taken off on both sides; a phrase without tokens is nowhere."""
        return phrase.exact != "" and (phrase.exact in self.exact or phrase.folded in self.folded)


def matched_share(step_texts: Iterable[str], key_steps: KeySteps) -> float:
    """Matched key steps / all key steps, each counted once; 0 where there are none."""
    if not key_steps:
        return 0.0
    text = _form_of_steps(step_texts)
    matched = sum(any(text.holds(_form_of_phrase(phrase)) for phrase in phrasings) for phrasings in key_steps)
    return matched / len(key_steps)


def substring_share(step_texts: Iterable[str], key_steps: KeySteps) -> float:
    """The share as released code counts it: a phrasing is found wherever its characters appear, in any case."""
    text = " ".join(step_texts).lower()
    matched = sum(any(phrase.lower() in text for phrase in phrasings) for phrasings in key_steps)
    return matched / len(key_steps) if key_steps else 0.0


def _form_of_steps(step_texts: Iterable[str]) -> _Form:
    tokens, remaining = [_STOP], _MAX_CHARACTERS
    for text in step_texts:
        tokens += [*_tokens(_ITEM.sub(" . ", text[:remaining])), _STOP]
        remaining -= min(remaining, len(text))
    return _form(tokens)


@lru_cache(maxsize=32_768)
def _form_of_phrase(phrase: str) -> _Form:
    tokens = _tokens(phrase[:_MAX_CHARACTERS])
    kept = [i for i, token in enumerate(tokens) if token != _STOP]
    return _form(tokens[kept[0] : kept[-1] + 1]) if kept else _Form("", "")


def _form(tokens: list[str]) -> _Form:
    return _Form(f" {' '.join(tokens)} ", f" {' '.join(map(_singular, tokens))} ")


def _tokens(text: str) -> list[str]:
    """Words in lower case, numbers by their value, signs and sentence ends; commas, colons and quotes are left out."""
    text = _plain(text)
    tokens: list[str] = []
    after_value = negative = False
    for match in _TOKEN.finditer(text):
        kind, token = match.lastgroup, match.group()
        if kind == "word" or kind == "ordinal":
            tokens.append(token.casefold())
            after_value = False
        elif kind == "sign":
            negative = token == "-" and _belongs_to_number(text, match, after_value)
            after_value = token in (")", "]")
            if negative:
                continue
            tokens.append(token)
        elif kind == "stop":
            tokens.append(_STOP)
            after_value = False
        else:
            value = _value(match["top"], match["bottom"], match["percent"] is not None)
            tokens.append(f"-{value}" if negative else value)
            after_value = True
        negative = False
    return tokens


def _belongs_to_number(text: str, minus: re.Match[str], after_value: bool) -> bool:
    """Whether `-` is the sign of the number that follows it: `x = -3`, but not `5 - 3`, `5 -3`, `x-3`."""
    start, end = minus.span()
    follows = end < len(text) and (text[end].isdigit() or text[end] == ".")
    return follows and not after_value and not (start and text[start - 1].isalnum())


def _plain(text: str) -> str:
    """The text without styling, with words for symbols, digits for number words, and no degree signs after numbers."""
    if not text.isascii():
        text = _HAN.sub(r" \1 ", plain_unicode(text.translate(_SYMBOL_TABLE)))
    if "\\" in text:
        text = _MACRO.sub(_macro, _FRACTION.sub(r" \1/\2 ", text))
    text = _EMPHASIS.sub(" ", text).replace("{,}", ",").translate(_STYLING)
    text = _SUBSCRIPT.sub("", _HYPHEN.sub(" ", text))
    text = _IMPLICIT.sub(" ", _DEGREES.sub(" ", text))
    text = _ROOT.sub(r" sqrt \1 ", text)
    return replace_number_words(text, keep=("one",))  # `one` is more often no number: that one


def _macro(match: re.Match[str]) -> str:
    name, sign = match.groups()
    if name is None:
        return sign if sign in "%$#&_{}" else " "
    return f" {_MACROS.get(name, name)} "


@lru_cache(maxsize=16_384)
def _value(top: str, bottom: str | None, percent: bool) -> str:
    """The number's value in lowest terms; very long ones are left alone."""
    if len(top) > _MAX_DIGITS or (bottom is not None and len(bottom) > _MAX_DIGITS):
        return f"{top}/{bottom}" if bottom else top
    value = Fraction(top.replace(",", ""))
    if bottom is not None:
        below = Fraction(bottom.replace(",", ""))
        if below == 0:
            return f"{top}/{bottom}"
        value /= below
    return str(value / 100 if percent else value)


@lru_cache(maxsize=16_384)
def _singular(token: str) -> str:
    """`circles` -> `circle`. Short words keep their ending: they may be names of points (PQRS)."""
    if len(token) < 5 or not token.endswith("s") or token.endswith(("ss", "us", "is")):
        return token
    plural, single = next((pair for pair in _PLURALS if token.endswith(pair[0])), ("s", ""))
    return token.removesuffix(plural) + single
