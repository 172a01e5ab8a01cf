"""Answers in words: what announces them in other languages, verdicts, times and dates, words and phrases."""

from __future__ import annotations

import pytest

from sharegrpo_rl.grader import grade
from sharegrpo_rl.grader.formats import CUES

CHOICES = ["13 cm", "26 cm", "39 cm", "52 cm"]
ANNOUNCED = {
    "English": ["Therefore, the answer (a letter) is {}.", "The correct option is {}.", "I would choose {}."],
    "German": ["Die richtige Antwort ist {}.", "Antwort: {}", "Die Lösung lautet **{}**."],
    "French": ["La bonne réponse est {}.", "Réponse : {}", "La réponse correcte est ({})."],
    "Spanish": ["La respuesta correcta es {}.", "Respuesta: {}", "La respuesta final es la: {}"],
    "Portuguese": ["A resposta correta é {}.", "Resposta: {}", "Resposta final: ({})"],
    "Italian": ["La risposta corretta è {}.", "Risposta: {}"],
    "Dutch": ["Het juiste antwoord is {}.", "Antwoord: {}"],
    "Polish": ["Poprawna odpowiedź to {}.", "Odpowiedź: {}"],
    "Swedish, Danish, Norwegian": ["Rätt svar är {}.", "Svar: {}", "Svaret er {}."],
    "Czech, Slovak": ["Správná odpověď je {}.", "Odpověď: {}"],
    "Romanian": ["Răspunsul corect este {}.", "Răspuns: {}"],
    "Ukrainian": ["Правильна відповідь: {}", "Відповідь — {}."],
    "Greek": ["Η σωστή απάντηση είναι {}.", "Απάντηση: {}"],
    "Hebrew": ["התשובה הנכונה היא {}.", "תשובה: {}"],
    "Persian": ["پاسخ صحیح: {}"],
    "Thai": ["คำตอบคือ {}", "คำตอบที่ถูกต้องคือ {}"],
    "Turkish": ["Cevap: {}", "Doğru cevap: {}"],
    "Indonesian": ["Jawaban yang benar adalah {}.", "Jawaban: {}"],
    "Russian": ["Правильный ответ: {}.", "Ответ: {}", "Ответ — {}."],
    "Vietnamese": ["Đáp án đúng là {}.", "Đáp án: {}", "Vậy chọn đáp án {}.", "Đáp án cần chọn là {}."],
    "Arabic": ["الإجابة الصحيحة هي {}.", "الجواب: {}"],
    "Hindi": ["सही उत्तर {} है।", "उत्तर: {}", "इसलिए उत्तर है {}।"],
    "Japanese": ["答えは{}です。", "正解：{}", "したがって、正解は{}である。", "【答え】{}"],
    "Korean": ["정답은 {}입니다.", "정답: {}", "따라서 정답은 {}이다."],
    "Chinese": ["【答案】{}", "【答案】: {} <eoa>", "答案是{}。", "本题选{}。", "故选：{}"],
    "a heading": ["### Final Answer\n{}", "**Answer**\n\n{}"],
    "the last line of a solution": ["26 is twice 13.\n#### {}"],
}
TAKEN_BACK = [
    "उत्तर {} नहीं है।",
    "答えは{}ではありません。",
    "정답은 {}가 아닙니다.",
    "答案不是{}。",
    "Die Antwort ist nicht {}.",
]
TAKEN_BACK += ["La réponse n'est pas {}.", "Đáp án không phải là {}.", "Ответ: не {}.", "The answer is not {}."]


def score(response: str, gold: str, mode: str = "free", **known: object) -> float:
    verdict = grade(response, gold, extract=mode, **known)  # type: ignore[arg-type]
    assert verdict.error is None
    return verdict.score


def tagged(answer: str, gold: str, **known: object) -> float:
    return score(f"<think>so</think><answer>{answer}</answer>", gold, "answer", **known)


def test_every_cue_has_an_example() -> None:
    assert set(ANNOUNCED) == set(CUES)


@pytest.mark.parametrize("language", sorted(CUES))
def test_an_announced_letter_is_paid_where_it_is_right_and_nowhere_else(language: str) -> None:
    before = "First A, then B, then C and D were looked at. "
    for sentence in ANNOUNCED[language]:
        for said in "BCD":
            for gold in "BCD":
                for text in (sentence, (before if "\n" not in sentence else before.strip() + "\n") + sentence):
                    expected = float(said == gold)
                    assert score(text.format(said), gold, choices=CHOICES) == expected, (text, said, gold)
                    assert score(text.format(said), f"({gold})") == expected, (text, said, gold)


@pytest.mark.parametrize("language", sorted(CUES))
def test_an_announced_number(language: str) -> None:
    for sentence in ANNOUNCED[language]:
        if "{}" in sentence and not any(word in sentence for word in ("letter", "option", "choose", "chọn", "选")):
            assert score(sentence.format("47"), "47") == 1, sentence
            assert score(sentence.format("48"), "47") == 0, sentence
            if language not in ("a heading", "the last line of a solution"):
                assert tagged(sentence.format("47"), "47") == 1, sentence


@pytest.mark.parametrize("sentence", TAKEN_BACK)
def test_what_is_denied_is_not_announced(sentence: str) -> None:
    for letter in "BCD":
        assert score(sentence.format(letter), letter, choices=CHOICES) == 0
        assert tagged(sentence.format(letter), letter, choices=CHOICES) == 0


YES = [
    "Yes",
    "yeah.",
    "Y",
    "Yes, it does.",
    "Answer: yes",
    "True",
    "是的",
    "对",
    "正确",
    "はい",
    "네",
    "đúng",
    "ja",
    "oui",
    "sí",
]
YES += [
    "sim",
    "да",
    "نعم",
    "हाँ",
    "√",
    "✓",
    "The statement is true",
    "Yes it is",
    "yes because it fits",
    "是的，它是圆的",
]
NO = [
    "No",
    "nope",
    "N",
    "No, it does not.",
    "Answer: no",
    "False",
    "不是",
    "错",
    "错误",
    "いいえ",
    "아니요",
    "sai",
    "nein",
    "non",
]
NO += ["não", "нет", "لا", "नहीं", "×", "✗", "It is not true", "No it is not", "no: it is too short", "不是，它是方的"]
NEITHER = [
    "no clue",
    "no picture was given",
    "no one",
    "no more",
    "no way of telling",
    "no data",
    "yes or no",
    "no/yes",
    "да или нет",
]
NEITHER += [
    "I cannot tell",
    "No, I cannot say",
    "not sure",
    "no comment",
    "yes and no",
    "true or false",
    "unclear",
    "是或否",
    "No answer",
]


@pytest.mark.parametrize(
    ("gold", "right", "wrong"), [("yes", YES, NO), ("no", NO, YES), ("True", YES, NO), ("否", NO, YES)]
)
def test_verdicts(gold: str, right: list[str], wrong: list[str]) -> None:
    for choices in (None, ["yes", "no"]) if gold in ("yes", "no") else (None,):
        for answer in right:
            assert tagged(answer, gold, choices=choices) == 1, answer
        for answer in wrong + NEITHER:
            assert tagged(answer, gold, choices=choices) == 0, answer


def test_an_announced_verdict_stands_above_what_was_said_before() -> None:
    for said, other in (("Yes", "No"), ("No", "Yes")):
        response = f"{other}, one might think at first. Therefore, the answer (Yes or No) is {said}."
        assert (score(response, said), score(response, other)) == (1, 0)
        assert score("Therefore, the answer (Yes or No) is not certain.", said) == 0


MOMENTS = [
    (
        "21:45",
        ["21:45:00", "9:45 PM", "9:45 p.m.", "quarter to ten p.m.", "21 点 45 分"],
        ["9:45 AM", "21:54", "21:45:30"],
    ),
    ("7:00 AM", ["7 o'clock", "07:00", "7 a.m.", "7 in the morning", "seven o'clock"], ["7 PM", "8:00", "seven", "7"]),
    ("12:00 PM", ["noon", "midday", "12 noon", "12:00"], ["midnight", "12 AM"]),
    ("half past six", ["6:30", "at half past six", "6:30 pm"], ["6:00", "5:30", "7:30"]),
    (
        "May 9, 2011",
        ["5/9/2011", "9 May 2011", "2011-05-09", "May 9th, 2011", "2011年5月9日", "9.5.2011"],
        ["9/5/2011", "May 8, 2011"],
    ),
    (
        "August 21, 1998",
        ["8/21/1998", "21/8/1998", "21.08.1998", "1998/8/21", "Aug. 21, 1998"],
        ["8/12/1998", "August 1998"],
    ),
    ("2020年11月3日", ["November 3, 2020", "11/3/2020", "2020-11-3", "11月3日"], ["2020年3月11日", "November 4, 2020"]),
    ("Wednesday", ["Wed", "wed.", "on Wednesday", "星期三", "It is Wednesday."], ["Thu", "Tuesday", "Wed or Thu"]),
    ("October", ["Oct", "oct.", "in October", "It was October."], ["Nov", "Octopus", "October or May"]),
]


@pytest.mark.parametrize(("gold", "right", "wrong"), MOMENTS, ids=lambda value: str(value)[:20])
def test_times_and_dates(gold: str, right: list[str], wrong: list[str]) -> None:
    for answer in right:
        assert tagged(answer, gold) == 1, answer
    for answer in wrong:
        assert tagged(answer, gold) == 0, answer


WORDS = [
    ("fox", ["foxes", "a fox", "It's a fox."], ["ox", "foxy", "boxes", "No fox"]),
    ("berry", ["berries", "the berry"], ["bears", "berried"]),
    ("duchess", ["duchesses", "The duchess."], ["duches", "duke"]),
    ("prince", ["princes", "The prince"], ["princess", "print"]),
    (
        "under the chair",
        ["under the chair", "It is under the chair.", "under chairs"],
        ["on the chair", "the chair", "over the chair"],
    ),
    ("at the window", ["the window", "It's at the window"], ["in the window", "to the window"]),
    ("EF ⊥ GH", ["$EF \\perp GH$", "EF⊥GH"], ["EF ∥ GH", "EF GH", "EG ⊥ FH"]),
    ("△PQR ∽ △STU", ["△PQR∽△STU"], ["△PQR ≌ △STU", "△PQR △STU"]),
    ("X→Y", ["X → Y"], ["X←Y", "Y→X", "X Y"]),
    ("U.K.", ["UK", "the UK", "U.K"], ["US", "K.U."]),
    ("H_2SO_4", ["H2SO4", "H₂SO₄", "$\\mathrm{H_2SO_4}$", "H_{2}SO_{4}"], ["H2SO3", "H4SO2", "HSO"]),
    ("grey colour", ["gray color"], ["grown color"]),
    (
        "green",
        ["The hat is green.", "The hat's color is green", "green ones"],
        [
            "Neither hat is green",
            "No hat is green",
            "It is false that the hat is green",
            "I doubt that it is green",
            "Nothing is green",
            "It is hard to say whether it is green",
            "If it is green",
            "The hat isn't green",
            "greenish",
        ],
    ),
    ("绿色", ["是绿色", "它是绿色的", "绿色的"], ["不是绿色", "红色", "绿"]),
    ('["oak", "elm"]', ["oak, elm", '["oak", "elm"]', "elm and oak"], ["oak", "oak, ash"]),
]


@pytest.mark.parametrize(("gold", "right", "wrong"), WORDS, ids=lambda value: str(value)[:20])
def test_words(gold: str, right: list[str], wrong: list[str]) -> None:
    for answer in right:
        assert tagged(answer, gold) == 1, answer
    for answer in wrong:
        assert tagged(answer, gold) == 0, answer


SENTENCES = [
    ("War and Peace by Tolstoy", "War and Peace by Tolstoy"),
    ("$h(t)=\\frac{k}{t}$ for some $k>0$", "$h(t)=\\frac{k}{t}$ for some $k>0$"),
    ("Đáp án đúng là B. (4, 0, 2).", "B. (4, 0, 2)"),
    ("### Answer\nC. n = 7", "C. n = 7"),
]  # fmt: skip


@pytest.mark.parametrize(("response", "gold"), SENTENCES)
def test_a_gold_may_be_a_whole_sentence(response: str, gold: str) -> None:
    assert score(response, gold) == 1
    assert (
        score(response.replace("Peace", "Love").replace("k>0", "k<0").replace("2)", "3)").replace("7", "8"), gold) == 0
    )


def test_an_option_written_out_is_read_by_its_letter_where_the_question_lists_options() -> None:
    question = "How many sides has it?\nA. 5\nB. 6\nC. 7"
    assert tagged("B", "B. 6", question=question) == 1
    assert tagged("6", "B. 6", question=question) == tagged("(B) 6", "B. 6", question=question) == 1
    for wrong in ("A", "5", "A. 6", "B. 5", "B or C"):
        assert tagged(wrong, "B. 6", question=question) == 0, wrong


@pytest.mark.parametrize(
    ("response", "right", "wrong"),
    [
        ("The answer is not 15 but 51.", "51", "15"),
        ("The correct answer is not C, but rather A.", "A", "C"),
        ("My choice - d", "D", "C"),
        ("The whole trip takes 3 hours and 15 minutes.", "3.25 hours", "15 minutes"),
    ],
)
def test_what_is_put_right_and_what_is_chosen(response: str, right: str, wrong: str) -> None:
    assert grade(response, right).score == 1
    assert grade(response, wrong).score == 0
