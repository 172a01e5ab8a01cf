"""Where a completion has its answer: the answer formats, their sections, and the spans of tags and boxes.

A format is strict: the thinking comes first and once, the answer follows once, neither is empty, and nothing stands
outside them (in `boxed`, prose may surround the one box). `steps` has sections under `###` headings, as R1-VL's models
write it: `### Image Description:`, `### Rationales:`, `### Step 1:` to `### Step K:`, `### The final answer is:`; a line
`### Let's think step by step.` may precede the first step, and white space never matters. Every scan is linear.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from typing import NamedTuple, Protocol

from sharegrpo_rl.errors import UserError


class AnswerFormat(Protocol):
    """How a completion is laid out."""

    @property
    def name(self) -> str:
        """The value of `answer_format` in a config."""

    @property
    def instruction(self) -> str:
        """The sentence that asks a model for this layout."""

    @property
    def opening(self) -> str:
        """The tag that a completion of this layout begins with, which a chat template may already have written; or ""."""

    def matches(self, text: str) -> bool:
        """Whether the text has exactly this layout."""

    def extract(self, text: str) -> str | None:
        """The answer span; None where the layout gives none, or gives several."""

    def render(self, thought: str, answer: str, steps: Sequence[str] = ()) -> str:
        """A well-formed completion, for supervised targets; layouts without steps ignore `steps`."""


@dataclass(frozen=True)
class ThinkAnswer:
    """`<think>thought</think><answer>answer</answer>`."""

    name: str = "think_answer"
    opening: str = "<think>"
    instruction: str = (
        "Reason about the question inside <think> and </think>. "
        "Then give only the final answer inside <answer> and </answer>."
    )

    def matches(self, text: str) -> bool:
        parts = _split_at_tags(text, ["<think>", "</think>", "<answer>", "</answer>"])
        if parts is None:
            return False
        before, thought, between, answer, after = parts
        return bool(thought and answer) and not (before or between or after)

    def extract(self, text: str) -> str | None:
        answers = set(tagged_answers(after_thinking(text))) - {""}
        return unboxed(answers.pop()) if len(answers) == 1 else None

    def render(self, thought: str, answer: str, steps: Sequence[str] = ()) -> str:
        return f"<think>{thought}</think><answer>{answer}</answer>"


@dataclass(frozen=True)
class Boxed:
    """`<think>thought</think> ... \\boxed{answer} ...`."""

    name: str = "boxed"
    opening: str = "<think>"
    instruction: str = (
        "Reason about the question inside <think> and </think>. Then give the final answer inside \\boxed{}."
    )

    def matches(self, text: str) -> bool:
        parts = _split_at_tags(text, ["<think>", "</think>"])
        if parts is None:
            return False
        before, thought, answer = parts
        if before or not thought or len(boxes(answer)) != 1 or answer.count("\\boxed") != 1:
            return False
        brace = answer.find("{", answer.index("\\boxed"))
        return brace >= 0 and _closing_brace(answer, brace + 1) is not None

    def extract(self, text: str) -> str | None:
        answers = set(boxes(after_thinking(text)))
        return answers.pop() if len(answers) == 1 else None

    def render(self, thought: str, answer: str, steps: Sequence[str] = ()) -> str:
        return f"<think>{thought}</think>\\boxed{{{answer}}}"


@dataclass(frozen=True)
class Steps:
    """Sections for what is seen, what matters, each step and the answer."""

    name: str = "steps"
    opening: str = ""
    instruction: str = (
        "Answer in sections under these headings, in this order. "
        "### Image Description: what the image shows. ### Rationales: what the question depends on. "
        "### Step 1: the first step of the reasoning; a heading ### Step k: for each further step. "
        "### The final answer is: the answer alone."
    )

    def matches(self, text: str) -> bool:
        """Complete and in order, with nothing before the first heading."""
        preamble, parts = sections(text)
        return not preamble and is_complete_and_ordered(parts)

    def extract(self, text: str) -> str | None:
        """The final answer; None where there is none, or where several differ."""
        answers = set(final_sections(text))
        return answers.pop() if len(answers) == 1 else None

    def render(self, thought: str, answer: str, steps: Sequence[str] = ()) -> str:
        """A well-formed completion. A thought in this layout keeps its sections and gets the answer.

        Otherwise, with `steps`, the thought becomes the image description; without, its step sections (or else its
        lines) become the steps.
        """
        description, rationales = "I look at the picture.", "What the picture shows answers the question."
        if self.matches(thought):
            parts = sections(thought)[1]
            description, rationales = parts[0].body, parts[1].body
            steps = [section.body for section in parts if section.title == "step"]
        elif steps:
            description = thought
        else:
            steps = [body for body in step_texts(thought) if _is_visible(body)] or thought.splitlines()
        description, rationales, *steps = (_HEADING.sub("", text).strip() for text in (description, rationales, *steps))
        return "\n".join(
            [
                f"### Image Description: {description}",
                f"### Rationales: {rationales}",
                *(f"### Step {number}: {body}" for number, body in enumerate(filter(_is_visible, steps), 1)),
                f"### The final answer is: {answer}",
            ]
        )


ANSWER_FORMATS: dict[str, AnswerFormat] = {form.name: form for form in (ThinkAnswer(), Boxed(), Steps())}


def find_format(name: str) -> AnswerFormat:
    """The format of that name; UserError where there is none."""
    if name not in ANSWER_FORMATS:
        raise UserError(f"answer_format {name!r} is unknown; choose one of {', '.join(ANSWER_FORMATS)}")
    return ANSWER_FORMATS[name]


_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)


def _split_at_tags(text: str, tags: list[str]) -> list[str] | None:
    """Texts before, between and after the tags, where the text holds exactly these tags in this order."""
    if [match.group().lower() for match in _TAG.finditer(text)] != tags:
        return None
    return [part.strip() for part in _TAG.split(text)]


# ---- Sections under `###` headings.

_HEADING = re.compile(r"(?<!#)###(?!#)")
_TITLE = re.compile(
    r"\s*+(?:(?:(?P<description>Image\s++Description)|(?P<rationales>Rationales)|(?P<step>Step)\s++(?P<number>[0-9]{1,6})"
    r"|(?P<answer>The\s++final\s++answer\s++is))\s*+:|(?P<lead_in>Let['’]s\s++think\s++step\s++by\s++step)[.:]?)"
)
_MAX_SECTIONS = 2_000


@dataclass(frozen=True)
class Section:
    """`title` is description, rationales, lead_in, step, answer, or "" for any other heading; `number` counts steps."""

    title: str
    number: int
    body: str


def sections(text: str) -> tuple[str, list[Section]]:
    """The text before the first heading, and the sections in order, their bodies stripped.

    Headings beyond the first 2,000 belong to the last section.
    """
    edges = [*(match.start() for match in islice(_HEADING.finditer(text), _MAX_SECTIONS)), len(text)]
    return text[: edges[0]].strip(), [_section(text, start + 3, end) for start, end in pairwise(edges)]


def _section(text: str, start: int, end: int) -> Section:
    title = _TITLE.match(text, start, end)
    if title is None:
        return Section("", 0, text[start:end].strip())
    name = "step" if title["step"] else str(title.lastgroup)
    return Section(name, int(title["number"] or 0), text[title.end() : end].strip())


def is_complete_and_ordered(parts: Sequence[Section]) -> bool:
    """Description, rationales, steps 1..K (K > 0) and the answer, each once, in this order, none empty; nothing else."""
    titles = [section.title for section in parts]
    if "lead_in" in titles:
        if titles.count("lead_in") > 1 or titles.index("lead_in") != 2 or parts[2].body:
            return False
        parts = [*parts[:2], *parts[3:]]
        del titles[2]
    num_steps = len(parts) - 3
    return (
        num_steps > 0
        and titles == ["description", "rationales", *["step"] * num_steps, "answer"]
        and [section.number for section in parts[2:-1]] == [*range(1, num_steps + 1)]
        and all(_is_visible(section.body) for section in parts)
    )


def step_texts(text: str) -> Iterator[str]:
    """Bodies of the `### Step k:` sections in order, whatever their numbers."""
    return (section.body for section in sections(text)[1] if section.title == "step")


def final_sections(text: str) -> list[str]:
    """Bodies of the `### The final answer is:` sections, a lone box opened; empty ones left out."""
    bodies = (section.body for section in sections(text)[1] if section.title == "answer" and _is_visible(section.body))
    return [boxed[0] if len(boxed := boxes(body)) == 1 else body for body in bodies]


def _is_visible(text: str) -> bool:
    """Whether anything can be seen in the text: invisible characters fill no section."""
    return any(character.isprintable() and not character.isspace() for character in text)


# ---- Spans: the thinking, answer tags, and boxes.

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?=[^\s{]))")
_NESTED_BOX = re.compile(r"\$?\s*\\(?:boxed|fbox)\s*\{(.*)\}\s*\$?", re.DOTALL)
_PLACEHOLDER = re.compile(r"\\(?:phantom|hspace)\s*\{[^{}]*\}|\\(?:square|Box|quad|qquad|cdots|ldots|dots|_)")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_RIVAL = re.compile(
    r"[^a-zA-Z\d]*(?:\d|[A-H](?![A-Za-z]))(?:\\[a-zA-Z]+|[^\w\\]|[\d_]|\b(?:[A-H]|or|and|maybe|not|to|but|possibly|vs|is|it|the|answer|because|since)\b)*",
    re.IGNORECASE,
)
_MAX_BOXES = 64
_MAX_BOX_CHARACTERS = 8_000
_MAX_UNCLOSED_CHARACTERS = 2_000


def after_thinking(text: str) -> str:
    """The text after the last `</think>`; all of it without a thought; "" where the thought never ends."""
    _, close, rest = text.rpartition("</think>")
    if close:
        return rest
    return "" if "<think>" in text else text


def tagged_answers(text: str) -> list[str]:
    """Contents of the closed `<answer>` parts, in order."""
    if "</answer>" not in text.lower():
        return []
    return [match.group(1).strip() for match in _ANSWER.finditer(text)]


def unclosed_answer(text: str) -> str | None:
    """The text after an `<answer>` that is never closed."""
    start = text.lower().rfind("<answer>")
    return text[start + len("<answer>") :].strip() if start >= 0 and "</answer>" not in text[start:].lower() else None


def boxes(text: str) -> list[str]:
    """Contents of the outermost boxes in order; nested ones unwrapped; an unclosed one runs to its line's end."""
    contents: list[str] = []
    position = 0
    while len(contents) < _MAX_BOXES and (match := _BOX.search(text, position)):
        start = match.end()
        if not match.group().endswith("{"):  # \boxed 5
            content, position = text[start : start + 1], start + 1
        elif (end := _closing_brace(text, start)) is not None:
            content, position = text[start:end], end + 1
        else:
            line_end = text.find("\n", start)
            position = min(len(text) if line_end < 0 else line_end, start + _MAX_UNCLOSED_CHARACTERS)
            content = text[start:position]
        contents.append(_unnested(content.strip()))
    return [content for content in contents if _PLACEHOLDER.sub("", content).strip(" .{}$?_")]


def unboxed(answer: str) -> str:
    """The content of the one box in an answer part, if nothing next to it could be another answer; else all of it."""
    contents, match = boxes(answer), _BOX.search(answer)
    if len(contents) != 1 or match is None or not match.group().endswith("{"):
        return answer
    end = _closing_brace(answer, match.end())
    sides = (answer[: match.start()], answer[end + 1 :] if end is not None else "")
    return answer if any(_RIVAL.fullmatch(side) and "=" not in side for side in sides) else contents[0]


@lru_cache(maxsize=4096)
def gold_answer(gold: str) -> str:
    """The answer inside a ground truth that is a solution with boxes; otherwise the ground truth itself."""
    contents = boxes(gold)
    return ", ".join(contents) if contents else gold.strip()


def _unnested(content: str) -> str:
    """`\\boxed{\\boxed{5}}` holds 5."""
    for _ in range(8):
        match = _NESTED_BOX.fullmatch(content)
        if match is None:
            return content
        content = match.group(1).strip()
    return content


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one before `start`; escaped braces do not count."""
    depth = 1
    for match in _BRACE.finditer(text, start, min(len(text), start + _MAX_BOX_CHARACTERS)):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return None


# ---- What stands around an answer: words that announce it, marks of a turn, HTML, JSON.


_OPTION_NOUN = (  # between a cue and a letter: `the answer is option B`
    r"(?:(?:(?:die|der|la|l'|a|o|the)\s*)?(?:option|opción|opção|letra|lettre|lettera|buchstabe|вариант|选项|選択肢|विकल्प"
    r"|phương án|câu|pilihan)\s*(?=[(（]?[A-Z][^\w]|[(（]?[A-Z]$|[(（]?[A-Z](?:です|だ|で)))?"
)


class Cue(NamedTuple):
    """What leads to an answer: the pattern, and words of which one is in every text that it matches."""

    words: tuple[str, ...]
    pattern: re.Pattern[str]


def _pattern(words: str, pattern: str) -> Cue:
    return Cue(tuple(words.split("|")), re.compile(f"(?:{pattern}){_OPTION_NOUN}", re.IGNORECASE))


def _cue(nouns: str, beside: str, leads: str, *, also: str = "") -> Cue:
    """One of the nouns, with adjectives before or behind it, and a verb, a colon or `=` that leads to the answer."""
    return _pattern(
        re.sub(r"\(\?.*?\)", "", nouns) + also,
        rf"(?<!\w)(?:(?:{beside})\s+){{0,3}}(?:{nouns})(?:\s+(?:{beside})){{0,3}}\s*[*_]*\s*"
        rf"(?:(?:{leads})(?!\w)\s*:?|[:=：]|-(?=\s)|(?=\(?[A-H]\)?\W*$))\s*[*_]*\s*",
    )


CUES: dict[str, Cue] = {
    "English": _pattern(
        "answer|final|correct|best|right|option|selected|chosen|choice|i",
        r"(?:(?P<final>\bfinal\s+(?:\w+\s+){0,2}(?:answer|value|result)|(?:\*\*|__)\s*answer)"
        r"|\b(?:correct|best)\s+(?!to\b|in\b|for\b)[a-z]+(?:\s+letter)?|\bright\s+(?:answer|option|choice|letter|one)"
        r"|\banswer|\boption\s+letter)"
        r"(?:\s+(?:to\s+(?:the|your|this)\s+question|to\s+choose|here))?\s*(?:\([^()\n]{1,40}\)\s*)?(?:\*|__)*\s*"
        r"(?:(?:is|would\s+be|should\s+be|must\s+be|will\s+be|becomes)\b|:|=|-(?=\s*\(?[A-Za-z]\)?\W*(?:\n|$)))"
        r"\s*(?:therefore|thus|then|indeed|clearly|given\s+by)?\s*,?\s*:?\s*(?:\*|__)*\s*"
        r"|\bmy\s+(?:choice|pick|selection)\s*(?:(?:is|would\s+be)\b|:|-)\s*"
        r"|\ban\s+answer\s+of\s+|\b(?:selected|chosen)(?:\s+(?:option|choice|answer))?\s*:\s*(?:\*|__)*\s*"
        r"|\bI(?:'d|'ll|'m|\s+would|\s+will|\s+am)?\s+(?:choose|select|pick|go(?:ing)?\s+with)\s+(?:option\s+)?"
        r"(?=\(?[B-Zb-z]\)?\s*(?:[.,;\n]|$))",
    ),
    "German": _cue(r"antwort|ergebnis|lösung(?=\s)", "richtige|korrekte|endgültige|finale", "ist|lautet|wäre"),
    "French": _cue("réponse|résultat", "bonne|correcte|exacte|finale|final", "est|serait"),
    "Spanish": _cue("respuesta|resultado|opción correcta", "correcta|final", "es|sería"),
    "Portuguese": _cue("resposta|resultado|alternativa correta|opção correta", "correta|certa|final", "é|seria"),
    "Italian": _cue("risposta|risultato", "corretta|giusta|esatta|finale", "è|sarebbe"),
    "Dutch": _cue("antwoord", "juiste|correcte|uiteindelijke", "is|luidt"),
    "Polish": _cue("odpowiedź|odpowiedzią|wynik", "poprawna|prawidłowa|ostateczna|poprawną", "to|jest"),
    "Swedish, Danish, Norwegian": _cue("svar|svaret", "rätt|rätta|korrekta|rigtige|riktige", "är|er"),
    "Czech, Slovak": _cue("odpověď|odpoveď|výsledek", "správná|správna|konečná", "je"),
    "Romanian": _cue("răspuns|răspunsul", "corect|final", "este|e"),
    "Ukrainian": _cue("відповідь", "правильна|остаточна", "це|є|—|–"),
    "Greek": _cue("απάντηση", "σωστή|τελική", "είναι"),
    "Hebrew": _cue("התשובה|תשובה", "הנכונה|הסופית", "היא"),
    "Persian": _cue("پاسخ|جواب", "صحیح|درست|نهایی", "برابر است با"),
    "Thai": _pattern("คำตอบ", r"คำตอบ(?:ที่ถูกต้อง)?\s*(?:คือ|:)\s*"),
    "Turkish": _cue("cevap|yanıt|sonuç", "doğru|nihai", "şudur"),
    "Indonesian": _cue("jawaban|jawabannya", "yang|benar|tepat|akhir", "adalah|ialah"),
    "Russian": _cue("ответ|ответом", "правильный|верный|правильным|окончательный|итоговый", "это|является|будет|—|–"),
    "Vietnamese": _cue(
        "đáp án|phương án|đáp số|kết quả|câu trả lời|chọn(?: đáp án| phương án| câu)?",
        "đúng|chính xác|cuối cùng|cần tìm|cần chọn",
        "là|chọn|(?=\\s*[A-H](?!\\w))",
        also="|chọn",
    ),
    "Arabic": _cue("الإجابة|الاجابة|الجواب|إجابة", "الصحيحة|الصحيح|النهائية|النهائي", "هي|هو"),
    "Hindi": _pattern(
        "उत्तर|जवाब|विकल्प",
        r"(?:(?:सही|अंतिम)\s+)?(?:उत्तर|जवाब|विकल्प)\s*(?:है\s*)?(?:[:=-]\s*|(?=[^\s\u0900-\u097f]))[*_]*\s*",
    ),
    "Japanese": _pattern(
        "答|正解", r"(?:【\s*(?:答え?|正解|解答)\s*】\s*[:：]?|(?:答え|正解|解答|回答)\s*(?:は|:|：))\s*[:：、]?\s*"
    ),
    "Korean": _pattern("정답|답", r"(?:정답|답안|답변|(?<![가-힣])답)\s*(?:은|는|:|：|】)\s*[:：]?\s*"),
    "Chinese": _pattern(
        "答案|选|正确",
        r"[【\[]\s*(?:正确|最终|参考)?答案\s*[】\]]\s*[:：]?\s*(?:故?选择?\s*)?"
        r"|正确的(?:选项|答案)?\s*是\s*|我选择?\s*(?=[A-H])|(?:答案|选项)\s*(?:应该|应)?\s*(?:(?:是|为|选(?!项)择?)\s*[:：]?|[:：]\s*(?:选(?!项)择?)?)\s*"
        r"|(?:所以|因此|故|应|应该|正确|本题)\s*(?:选(?!项)择?|答案)\s*(?:是|为|:|：)?\s*",
    ),
    "a heading": _pattern("answer", r"(?:^|(?<=\n))[#*_ ]{0,6}(?:final\s+)?answer[*_ ]*:?[*_ ]*\n\s*"),
    "the last line of a solution": _pattern("####", r"(?:^|(?<=\n))####\s*(?=[^\n]{1,60}\s*$)"),
}
"""What leads to an answer, by language. A new language is one line."""
_LEAD_IN = re.compile(
    r"^[\s*_#>]*(?:(?:so|thus|hence|therefore|also|daher|donc|portanto|por tanto|quindi|поэтому|vậy"
    r"|所以|因此|よって|したがって|따라서|इसलिए)\s*[,，、]?\s*)?(?:(?!no\s|not\s|non\s)[^\W\d_]{1,3}\s+)?"
    r"(?:(?:(?:final|correct)\s+)*(?:answer|result|solution)\s*[*_]*\s*(?:is\b|:|=)(?!=)[\s:*_]*"
    r"|(?:最终)?\s*(?:答案|结果)\s*[是为:：]+\s*|"
    + "|".join(cue.pattern.pattern for language, cue in CUES.items() if language != "English")
    + ")",
    re.IGNORECASE,
)
COPULA_BEHIND = re.compile(r"\s*(?:번)?(?:(?:です|でした|である|だ|입니다|이다|예요|이에요|है|हैं)\s*[।。.!]*|।)\s*$")
_OPENING_MARK = re.compile(r"<s>|<bos>|<\|(?:begin_of_text|startoftext|assistant)\|>|<eo[he]>", re.IGNORECASE)
_CLOSING_MARK = re.compile(
    r"</s>|<eo[as]>|<end_of_turn>|\[/?INST\]|<｜end▁of▁sentence｜>"
    r"|<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|end)[^>|]{0,20}\|>",
    re.IGNORECASE,
)
_HTML_TAG = re.compile(
    r"</?(?:b|i|u|em|strong|p|br|span|div|code|font|center|mark|small|big|tt|h[1-6])(?:\s[^<>]{0,80})?/?>",
    re.IGNORECASE,
)
_JSON_KEYS = {"answer", "final_answer", "final answer", "finalanswer", "answer_choice", "choice", "option", "result"}
_MAX_JSON_CHARACTERS = 2_000


def announcing(text: str) -> list[re.Match[str]]:
    """Every cue in a text, in order; of cues that overlap the first."""
    lower = text.lower()
    cues = [cue.pattern for cue in CUES.values() if any(word in lower for word in cue.words)]
    found = sorted(
        (match for cue in cues for match in cue.finditer(text)), key=lambda match: (match.start(), -match.end())
    )
    kept: list[re.Match[str]] = []
    for match in found:
        if not kept or match.start() >= kept[-1].end():
            kept.append(match)
    return kept


def without_marks(text: str) -> str:
    """The text without the marks that models and templates put around a turn; what follows the end of one is cut off."""
    text = _OPENING_MARK.sub("\n", text)
    parts = (part for part in _CLOSING_MARK.split(text) if part.strip())
    return next(parts, "") if _CLOSING_MARK.search(text) else text


def undressed(answer: str) -> str:
    """An answer without what stands around it: marks of a turn, HTML, JSON, `Answer:` before it and `です` behind it."""
    text = _HTML_TAG.sub(" ", unicodedata.normalize("NFC", without_marks(answer))).strip()
    value = json_answer(text)
    text = text if value is None else value
    bare = _LEAD_IN.sub("", text, count=1).strip()
    if text[: len(text) - len(bare)].count("**") % 2:
        bare = re.sub(r"\*\*(?=\.?$)", "", bare)
    return COPULA_BEHIND.sub("", bare) or text or answer


def json_answer(text: str) -> str | None:
    """The answer in `{"answer": "D"}`, or the items of `["a", "b"]`; None for anything else."""
    text = re.sub(r"^```(?:json)?|```$", "", text.strip()).strip()
    if len(text) > _MAX_JSON_CHARACTERS or text[:1] + text[-1:] not in ("{}", "[]") or '"' not in text:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, as most texts in brackets
        return None
    if isinstance(value, dict):
        named = [item for name, item in value.items() if name.lower() in _JSON_KEYS]
        value = named[0] if len(named) == 1 else None
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | int | float) for item in items):
        return None
    return ", ".join(str(item).lower() if isinstance(item, bool) else str(item) for item in items)
