"""The prompts. A change of wording changes the version, which is stored with the data made with it."""

from __future__ import annotations

from collections.abc import Sequence

from sharegrpo_rl.data.messages import IMAGE_MARK

REWRITE_VERSION = "rewrite-1"
KEY_STEPS_VERSION = "key-steps-1"
SOLVE_VERSION = "solve-1"
SHOWN_MARK = "[IMAGE]"  # vision-language servers expect a picture for each `<image>`

_REWRITE = """Say a question in {count} other ways.
Somebody who reads only your version{and_sees} must arrive at exactly the answer of the original.

- Vary words and sentence structure, and make your versions differ from each other, too.
- Copy every number, unit, formula, variable and point name as it stands.{options}{images}
- Ask for the same thing, in the same form of answer, in the same language.
- Leave out nothing, add nothing, give no hint and no answer.

The question:
{question}
{before}
Reply with a JSON list of {count} strings and nothing else."""

_OPTIONS = "\n- Copy the answer options with their letters, in their order."
_IMAGES = (
    "\n- Where the original speaks of an image, figure or the like, your versions do so too. Keep every [IMAGE] mark."
)

_KEY_STEPS = """Below stands a worked solution of a problem.
List the key steps that a correct line of thought cannot do without:
intermediate quantities, relations, equations, names of the rules used.

- Give each step as a list. Its first entry is copied from the solution letter by letter:
  a number, an equation, or a phrase of at most 3 words.
- After it, in the same list, put other forms in which somebody might write the same thing, where there are any:
  0.5 and 1/2, 3 x 4 and 3*4, "right-angled triangle" and "right triangle".
- In the order of the solution, each step once, at most {most} steps.
- Leave out the final answer, descriptions of the image, and filler.

The problem:
{question}

The solution:
{solution}

Reply with a JSON list of lists of strings and nothing else."""

_SOLVE = "{question}\n\nThink it through briefly, then give the final answer inside \\boxed{{}}."


def rewrite_prompt(
    question: str, count: int, *, has_images: bool, has_options: bool, kept: Sequence[str], refused: Sequence[str]
) -> str:
    """Asks for `count` rewordings; `kept` are there already, `refused` are earlier ones, each with what was wrong."""
    before = ""
    if kept:
        before += "\nThese versions exist already, write others:\n" + "\n".join(f"- {text}" for text in kept) + "\n"
    if refused:
        before += "\nThese were not good enough:\n" + "\n".join(f"- {text}" for text in refused) + "\n"
    return _REWRITE.format(
        count=count,
        and_sees=" and sees the picture" if has_images else "",
        options=_OPTIONS if has_options else "",
        images=_IMAGES if has_images else "",
        question=shown(question),
        before=shown(before),
    )


def key_steps_prompt(question: str, solution: str, most: int) -> str:
    """Asks for the key steps of a reference solution, each with equivalent forms."""
    return _KEY_STEPS.format(question=shown(question), solution=shown(solution), most=most)


def solve_prompt(question: str) -> str:
    """Asks for the answer in a box; `<image>` marks stay, as the images come with it."""
    return _SOLVE.format(question=question)


def shown(text: str) -> str:
    """The text as the model reads it where no image comes with it."""
    return text.replace(IMAGE_MARK, SHOWN_MARK)


def restored(text: str) -> str:
    """What the model wrote, with our marks."""
    return text.replace(SHOWN_MARK, IMAGE_MARK)
