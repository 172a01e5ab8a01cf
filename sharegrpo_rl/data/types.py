"""The values that pass between the parts of the package; frozen, without behaviour but to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

KeySteps: TypeAlias = tuple[tuple[str, ...], ...]  # steps of a good solution, each as its equivalent phrasings


class ImageSource(Protocol):
    """One image of a question, decoded only on demand: a frozen dataclass with these three is enough."""

    @property
    def name(self) -> str:
        """What an error message calls it: a path inside the data set, or the row and column."""

    def open(self) -> Image.Image:
        """The picture as RGB; UserError (naming the image) where it is missing, truncated, too large or outside."""

    def fingerprint(self) -> str:
        """Digest of the content: equal pictures have equal fingerprints, so that each is encoded once."""


@dataclass(frozen=True)
class SeedQuestion:
    """One row of a data set. `variants` are other wordings with the same answer; wording 0 is `question` itself."""

    id: str
    question: str
    answer: str
    images: tuple[ImageSource, ...] = ()
    variants: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer_type: str | None = None  # numeric, true_false, yes_no, multiple_choice, word; None = tell from the answer
    unit: str | None = None
    precision: float | None = None
    solution: str | None = None  # a worked reference solution: the target of supervised fine-tuning
    key_steps: KeySteps = ()
    task: str = ""  # names its curve where a run has several tasks
    subtask: str = ""  # kind of question, for accuracy by kind; the answer type where a data set names none
    transforms: tuple[str, ...] | None = None  # image transforms that keep the answer; None = decided by the word rule
    extra: dict[str, Any] = field(default_factory=dict)  # the row's other columns, handed to user rewards
    system: str = ""  # the row's own system turn, which every wording begins with
    notes: tuple[str, ...] = ()  # what was converted while the row was read (`data/rows.py`)
    rewards: Mapping[str, float] | None = None  # weights of its set in a mixture; None = the run's

    @property
    def wordings(self) -> tuple[str, ...]:
        """All wordings, the original first."""
        return (self.question, *self.variants)


class QuestionBank(Protocol):
    """A split of a data set with random access; rows are read on demand."""

    name: str
    split: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> SeedQuestion: ...


@dataclass(frozen=True)
class Slot:
    """Slot 0..m-1 of a question's group: which wording, and which image transform (None = untouched)."""

    slot: int
    variant_index: int
    transform: str | None = None
    transform_seed: int = 0


@dataclass(frozen=True)
class SlotRequest:
    """What the driver asks an env runner for: `num_generations` completions of one slot of one question.

    `group` counts the groups of an iteration: a small data set may bring the same question twice.
    """

    group: int
    question_index: int
    slot: Slot
    num_generations: int
    sampling_seed: int


@dataclass(frozen=True, eq=False)
class CodedArray:
    """A float32 array of pixels in a quarter of its bytes: what a processor makes of 8-bit pictures has 256 values a channel.

    It reads as the array that it stands for (`np.asarray`), bit for bit.
    """

    codes: NDArray[np.uint8]
    levels: NDArray[np.float32]  # [channels, 256]: the values of the codes
    stride: int  # the channel of element e, in C order, is (e // stride) % channels
    blanks: NDArray[np.int64]  # [n, 2] spans of elements that are 0 whatever their code: padding

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def ndim(self) -> int:
        return self.codes.ndim

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + self.levels.nbytes + self.blanks.nbytes

    def __len__(self) -> int:
        return len(self.codes)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        planes = self.codes.reshape(-1, len(self.levels), self.stride)
        decoded = np.empty(planes.shape, np.float32)
        for channel, levels in enumerate(self.levels):
            decoded[:, channel] = levels[planes[:, channel]]
        for start, end in self.blanks:
            decoded.reshape(-1)[start:end] = 0
        return decoded.reshape(self.shape) if dtype is None else decoded.reshape(self.shape).astype(dtype)


@dataclass(frozen=True)
class PixelInput:
    """One image as its processor hands it to the model, by argument name (Qwen: pixel_values, image_grid_thw)."""

    key: str  # equal keys = equal pixels
    tensors: dict[str, Any]  # arrays, pixels as CodedArray where that is exact


@dataclass(frozen=True)
class Prompt:
    """A prompt after template and tokenizer, image placeholders expanded: ids [P].

    `pictures` [H, W, 3]: what a processor made `images` of that expands the placeholders itself. An engine with a processor
    of its own starts from them, and from `text`, whose placeholders are not expanded.
    """

    input_ids: NDArray[np.int64]
    images: tuple[PixelInput, ...] = ()
    text: str = ""
    pictures: tuple[NDArray[np.uint8], ...] = ()


@dataclass(frozen=True)
class Completion:
    """What the policy produced: ids [T] (the end token included unless truncated) and the sampler's log-probs [T]."""

    token_ids: NDArray[np.int64]
    sampler_logprobs: NDArray[np.float32]
    text: str
    truncated: bool = False


@dataclass(frozen=True)
class Group:
    """All episodes of one seed question, `[V][N]` (a group's slots may be fewer than m where transforms ran out)."""

    group: int
    question_id: str
    question_index: int
    slots: tuple[Slot, ...]
    prompts: tuple[Prompt, ...]
    completions: tuple[tuple[Completion, ...], ...]
    rewards: NDArray[np.float64]
    reward_parts: dict[str, NDArray[np.float64]]
    subtask: str = ""
    task: str = ""
    weights_version: int = 0  # of the weights that sampled it
    errors: tuple[tuple[str | None, ...], ...] = ()  # [V][N] of the grader; () = there were none

    @property
    def accuracies(self) -> NDArray[np.float64]:
        """Raw accuracy [V, N], before weights: what selection and the valid-advantage ratio look at."""
        return self.reward_parts["accuracy"]


@dataclass(frozen=True)
class PromptPack:
    """One prompt and every completion trained under it (G of them), with credit fixed before any cut."""

    group: int  # packs of one group stay in one minibatch
    slot: int
    prompt: Prompt
    completions: tuple[Completion, ...]
    advantages: NDArray[np.float64]  # [G]
    native: NDArray[np.bool_]  # [G] sampled from this prompt (True) or shared from a sibling variant
    old_logprobs: tuple[NDArray[np.float32], ...] | None = None  # G arrays [T_g]; None = the learner computes them
    sampled: bool = (
        True  # by the policy; False for targets of supervised training, which have no sampler to compare with
    )
