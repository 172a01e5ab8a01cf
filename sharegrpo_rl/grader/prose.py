"""Free prose: its sentences, the statement that announces the answer, and refusals. No gold is looked at here."""

from __future__ import annotations

import re

_MAX_CHARACTERS = 12_000  # of a response; the middle of a longer one is left out
_MAX_NEXT_LINE = 60  # an answer on the line after `the answer is:` is short
_MAX_ANNOUNCEMENTS = 16  # the last ones of a text that repeats itself
_MAX_TAIL = 400
_MAX_SENTENCES = 200
_LISTED = re.compile(r"^\W*\(?([A-Z]{1,2})\)[\s.:]*\S|^\W*([A-Z])[.)]\s+\S|^\d+\.\s*\(([A-Z])\)")
_CONTINUED = re.compile(
    r"\n\s*#*\s*(?:Question|Human|User|Problem|Q)\s*(?:\d+\s*)?:|\.\./|<\|(?:im_start|im_end|endoftext|eot_id)[^>]*\|>"
    r"|\[asy\]|\bHint: Please answer",
)
_SPACE_RUN = re.compile(r"[^\S\n]{3,}")
_LINE_RUN = re.compile(r"\n(?:[^\S\n]{0,2}\n){2,}")
_DISPLAY = re.compile(r"\s*(?:\\\[[^\]]{1,400}?\\\]|\$\$[^$]{1,400}\$\$)(?=[\s.])")
_COLON = re.compile(r":\s*\n+\s*(?=\S{1,80}\s*(?:\n|$))")
_SENTENCE = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!e\.g\.)(?<!i\.e\.)(?<!\bvs\.)\s+|(?<=[.!?]\$)\s+|(?<=[.!?]\$\$)\s+"
    r"|(?<=[.!?]\\[\])])\s+|\n+|(?<=[。！？])"
)
_CUE = re.compile(
    r"(?:(?P<final>\bfinal\s+(?:\w+\s+){0,2}(?:answer|value|result)|\*\*\s*answer)"
    r"|\b(?:correct|best)\s+(?!to\b|in\b|for\b)[a-z]+(?:\s+letter)?|\bright\s+(?:answer|option|choice|letter|one)"
    r"|\banswer|\boption\s+letter)"
    r"(?:\s+(?:to\s+(?:the|your|this)\s+question|to\s+choose|here))?\s*\**\s*"
    r"(?:(?:is|would\s+be|should\s+be|must\s+be|will\s+be|becomes)\b|:|=)"
    r"\s*(?:therefore|thus|then|indeed|clearly|given\s+by)?\s*,?\s*:?\s*\**\s*"
    r"|\ban\s+answer\s+of\s+"
    r"|(?:答案|选项)\s*(?:应该|应)?\s*(?:是|为|选|:|：)+\s*"
    r"|(?:所以|因此|故|应|应该|正确)\s*(?:选(?!项)择?|答案)\s*(?:是|为|:|：)?\s*",
    re.IGNORECASE,
)
_NO_ANSWER_FOLLOWS = re.compile(r"(?:e\.g\.|i\.e\.|not\b|based\b|in\b|that\b)", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\b(?:can(?:no|')t|cannot|can not|unable|impossible|not possible|insufficient|isn't enough|don't have"
    r"|not (?:be )?(?:determined|definitively|provided|given|specified|enough|sufficient|listed|in the options|an option"
    r"|available)"
    r"|(?:do(?:es)? not|doesn't) (?:provide|specify|contain|have enough|have any|give|include|mention|say|state)"
    r"|whether"
    r"|needs? more|more information|unknown|undefined|N/A|sorry|apologi[sz]e|please provide"
    r"|without (?:more|additional|further|any|knowing|seeing|specific)"
    r"|without the (?:table|image|data|context|function|specific)|none of the options|no (?:diagram|image|context))\b"
    r"|无法|不确定",
    re.IGNORECASE,
)


def response_text(text: str) -> str:
    """The response without what a model goes on to invent after its answer (new questions, prompt echoes, drawings)."""
    if len(text) > _MAX_CHARACTERS:
        text = text[: _MAX_CHARACTERS // 4] + "\n" + text[-3 * _MAX_CHARACTERS // 4 :]
    text = _LINE_RUN.sub("\n\n", _SPACE_RUN.sub("  ", text.replace("\r\n", "\n")))
    for match in _CONTINUED.finditer(text):
        if text[: match.start()].strip():
            return text[: match.start()].rstrip()
    return text.strip()


def _one_line(block: re.Match[str]) -> str:
    return " " + " ".join(block.group().split()) + " "


def sentences(text: str) -> list[str]:
    """Sentences and lines in order, without empty ones; displayed mathematics belongs to the sentence that it ends.

    Of very many, which no answer has, the ones in the middle are left out.
    """
    text = _COLON.sub(": ", _DISPLAY.sub(_one_line, text))
    parts = [part.strip() for part in _SENTENCE.split(text) if part and part.strip()]
    return parts if len(parts) <= _MAX_SENTENCES else parts[: _MAX_SENTENCES // 4] + parts[-3 * _MAX_SENTENCES // 4 :]


def announcements(text: str) -> list[tuple[str, bool, int]]:
    """What follows each `the answer is` on its line or the next: (tail, said to be final, place in the text)."""
    found = []
    for match in list(_CUE.finditer(text))[-_MAX_ANNOUNCEMENTS:]:
        tail = text[match.end() : match.end() + _MAX_TAIL].lstrip(" \t\r\n*#>")
        line = tail.partition("\n")[0].strip()
        if "\n" in match.group() and len(line) > _MAX_NEXT_LINE:
            continue
        if line and not _NO_ANSWER_FOLLOWS.match(line):
            found.append((line, match.group("final") is not None, match.start()))
    return found


def without_listed_options(text: str) -> str:
    """The text up to a list of two options or more on which it ends: listing options answers nothing."""
    lines = text.rstrip().split("\n")
    while len(lines) > 1 and not re.search(r"\w", lines[-1]):
        lines.pop()
    end = len(lines)
    while end > 0 and (_LISTED.match(lines[end - 1]) or (end < len(lines) and not lines[end - 1].strip())):
        end -= 1
    listed = [match for line in lines[end:] if (match := _LISTED.match(line))]
    letters = {next(group for group in match.groups() if group) for match in listed}
    return "\n".join(lines[:end]) if len(letters) >= 2 else text


def refuses(text: str) -> bool:
    """Whether the text says that it cannot answer."""
    return _REFUSAL.search(text) is not None


def first_clause(text: str) -> str:
    """Up to the end of the first sentence; decimal points and `A.` do not end one."""
    parts = sentences(text)
    return parts[0] if parts else ""
