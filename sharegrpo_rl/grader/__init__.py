"""The grader: `grade(response, gold, ...)` gives a Verdict, `check_truth(question)` refuses what cannot be graded.

This is its only door: other rooms import from here, never from the modules inside. Importing it loads neither torch nor
math-verify.
"""

from sharegrpo_rl.grader.choices import named_options
from sharegrpo_rl.grader.expressions import replace_number_words
from sharegrpo_rl.grader.formats import (
    ANSWER_FORMATS,
    AnswerFormat,
    after_thinking,
    find_format,
    is_complete_and_ordered,
    sections,
    step_texts,
    tagged_answers,
)
from sharegrpo_rl.grader.grade_file import grade_file, print_grades
from sharegrpo_rl.grader.grading import (
    EXTRACT_MODES,
    ExtractMode,
    Verdict,
    check_truth,
    failure,
    grade,
    grade_answer,
    make_key,
    question_key,
    truth_fault,
)
from sharegrpo_rl.grader.key import AnswerKey, Kind, errors_by_kind
from sharegrpo_rl.grader.numbers import Unit, parse_quantity, same_quantity, split_unit
from sharegrpo_rl.grader.symbolic import shared_pool
from sharegrpo_rl.grader.text import canonical, content_words, normalized, plain_unicode
from sharegrpo_rl.grader.words import letters_named, parse_boolean

__all__ = [
    "ANSWER_FORMATS",
    "EXTRACT_MODES",
    "AnswerFormat",
    "AnswerKey",
    "ExtractMode",
    "Kind",
    "Unit",
    "Verdict",
    "after_thinking",
    "canonical",
    "check_truth",
    "content_words",
    "errors_by_kind",
    "failure",
    "find_format",
    "grade",
    "grade_answer",
    "grade_file",
    "is_complete_and_ordered",
    "letters_named",
    "make_key",
    "named_options",
    "normalized",
    "parse_boolean",
    "parse_quantity",
    "plain_unicode",
    "print_grades",
    "question_key",
    "replace_number_words",
    "same_quantity",
    "sections",
    "shared_pool",
    "split_unit",
    "step_texts",
    "tagged_answers",
    "truth_fault",
]
