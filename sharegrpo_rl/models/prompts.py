"""From chat messages and pictures to token ids and pixels: the only place where templates and resizing happen."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from math import sqrt
from threading import Lock
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from PIL import Image

from sharegrpo_rl.data.images import in_threads, within
from sharegrpo_rl.data.messages import chat_messages
from sharegrpo_rl.data.types import PixelInput, Prompt
from sharegrpo_rl.errors import UserError, did_you_mean
from sharegrpo_rl.models.vision import UNSCALED, PixelCodes

logger = logging.getLogger(__name__)
PIXELS = "pixel_values"
Picture = NDArray[np.uint8]
_FORMAT_TAG = re.compile(
    r"</?(?:think|answer)>", re.IGNORECASE
)  # of answer formats; some tokenizers mark them as special
_OPENED = re.compile(r"<think>\s*\Z", re.IGNORECASE)
# How a thought begins (a token, and what always follows it) and ends in models that have tokens of their own for it:
# Gemma 4, Magistral, Kimi, Seed-OSS, Cohere.
_THOUGHT_MARKS = (
    ("<|channel>", "thought\n", "<channel|>"),
    ("[THINK]", "", "[/THINK]"),
    ("◁think▷", "", "◁/think▷"),
    ("<seed:think>", "", "</seed:think>"),
    ("<|START_THINKING|>", "", "<|END_THINKING|>"),
)
_OURS = frozenset({"messages", "add_generation_prompt", "tools", "documents"})  # variables of templates that we set
# What a processor makes of the text; the rest belongs to the pictures.
_TEXT_SIDE = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels"})
_EDGES = ("shortest_edge", "longest_edge")  # what image processors of Qwen's kind call the fewest and the most pixels
WIDEST = 200  # Qwen's image processors refuse pictures with one side longer than this many times the other


@dataclass(frozen=True)
class PromptSettings:
    """The text around the question, and the limits of a prompt."""

    system_prompt: str = ""
    format_prompt: str = ""
    max_prompt_tokens: int = 1024
    min_pixels: int | None = None  # of a picture, as the model sees it; None: as the checkpoint's processor has it
    max_pixels: int | None = None
    escape_special_tokens: bool = False  # in the question: write them so that the tokenizer reads plain text
    chat_template_kwargs: Mapping[str, bool | int | float | str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Question:
    """A question as an environment shows it: text, pictures [H, W, 3], and a key for each (equal keys = equal pictures)."""

    text: str
    pictures: tuple[Picture, ...] = ()
    keys: tuple[str, ...] = ()


class SharedPictures:
    """Processed pictures by key: each is made by the thread that asks first, and the others wait for it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._made: dict[str, Future[PixelInput]] = {}

    def get(self, key: str, make: Callable[[], PixelInput]) -> PixelInput:
        """The picture of this key; raises what its making raised."""
        with self._lock:
            is_first = key not in self._made
            future = self._made.setdefault(key, Future())
        if is_first:
            try:
                future.set_result(make())
            except BaseException as error:  # for whoever waits, too
                future.set_exception(error)
        return future.result()


class PromptEncoder:
    """Encodes questions with a model's own processor (or tokenizer, for a text-only model)."""

    def __init__(self, processor: Any, settings: PromptSettings) -> None:
        self.processor = processor
        self.settings = settings
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.image_processor = getattr(processor, "image_processor", None)
        self.image_token: str | None = getattr(processor, "image_token", None)

    def encode(
        self, questions: Sequence[Question], check_length: bool = True, shared: SharedPictures | None = None
    ) -> list[Prompt]:
        """One prompt for each question, each distinct picture processed once. UserError where one is too long.

        shared: of several calls at once, in threads.
        """
        if self.has_grids:
            pixels = self._process_pictures(questions, shared or SharedPictures())
            prompts = [self._grid_prompt(q, [pixels[k] for k in _keys(q)]) for q in questions]
        else:
            prompts = [self._coded(self._processor_prompt(q, self.picture_inputs(q))) for q in questions]
        for prompt in prompts if check_length else ():
            self._check_length(prompt)
        return prompts

    def token_ids(self, question: Question) -> NDArray[np.int64]:
        """Ids of the question's prompt, of any length."""
        if self.has_grids:
            pixels = self._process_pictures([question], SharedPictures())
            return self._grid_prompt(question, [pixels[k] for k in _keys(question)]).input_ids
        return self._processor_prompt(question, self.picture_inputs(question)).input_ids

    def picture_tokens(self, question: Question, prompt: Prompt) -> int:
        """How many tokens of a question's prompt its pictures take, with what some processors write around their rows."""
        unexpanded = self.tokenizer(self.template(question), add_special_tokens=False)["input_ids"]  # one for a picture
        return len(prompt.input_ids) - len(unexpanded) + len(question.pictures)

    def token_bound(self, text: str, num_images: int) -> int | None:
        """An upper bound on a prompt's length without running the tokenizer; None where the processor gives none.

        A token is at least one byte of text; `most_image_tokens` bounds a picture.
        """
        if num_images and not self.has_grids:
            return None
        length = self._frame_bytes + len(text.encode())
        if not num_images:
            return length
        side = self.image_processor.patch_size * self.image_processor.merge_size  # type: ignore[union-attr]
        picture = most_image_tokens(side, *self._pixel_range)
        return length + num_images * (picture + 3)

    def fits(self, text: str, sizes: Sequence[tuple[int, int]]) -> bool | None:
        """Is the prompt of a question with pictures of these sizes (width, height) at most `max_prompt_tokens` long?

        Pixels are not looked at. None where the processor does not tell a picture's tokens from its size.
        """
        if sizes and not self._tells_by_size:
            return None
        pictures, limit = sum(self._tokens_of_size(*size) for size in sizes), self.settings.max_prompt_tokens
        # Without the tokenizer: a token is a byte of text or more.
        if self._frame_bytes + len(text.encode()) + pictures + 3 * len(sizes) <= limit:
            return True
        if pictures > limit:
            return False
        unexpanded = self.template(Question(text), len(sizes))
        return len(self.tokenizer(unexpanded, add_special_tokens=False)["input_ids"]) - len(sizes) + pictures <= limit

    @cached_property
    def _tells_by_size(self) -> bool:
        """Does the processor tell a picture's number of tokens from its size? Tried on two pictures."""
        if not self.has_grids or not hasattr(self.image_processor, "get_number_of_image_patches"):
            return False
        pictures = [np.zeros((*shape, 3), np.uint8) for shape in ((56, 84), (700, 93))]
        grids = [self._processed(p, self.picture_limits)["image_grid_thw"] for p in pictures]
        merged = self.image_processor.merge_size**2  # type: ignore[union-attr]
        return [self._tokens_of_size(p.shape[1], p.shape[0]) for p in pictures] == [
            int(g.prod()) // merged for g in grids
        ]

    def _tokens_of_size(self, width: int, height: int) -> int:
        fewest, most = self.picture_limits["size"].values()
        # By either of the two names that processors have for them.
        limits = {**self.picture_limits, "min_pixels": fewest, "max_pixels": most}
        patches = self.image_processor.get_number_of_image_patches(height, width, limits)  # type: ignore[union-attr]
        return int(patches) // self.image_processor.merge_size**2  # type: ignore[union-attr]

    @cached_property
    def _frame_bytes(self) -> int:
        return len(self.template(Question("")).encode())

    def template(self, question: Question, num_pictures: int | None = None) -> str:
        """The chat template's text, image placeholders not yet expanded.

        num_pictures: where the question's pictures are not at hand.
        """
        s, num_pictures = self.settings, len(question.pictures) if num_pictures is None else num_pictures
        text = self.escape(question.text) if s.escape_special_tokens else question.text
        messages = chat_messages(text, num_pictures, s.system_prompt, s.format_prompt)
        if self.image_processor is None:
            if num_pictures:
                raise UserError(
                    "the model is text-only and the question has an image; choose a vision-language model (key: model)"
                )
            messages[-1] = _as_text(messages[-1])
        if s.system_prompt.strip() and self._system_is_text:
            messages[0] = _as_text(messages[0])
        return self._apply_template(messages)

    @cached_property
    def _system_is_text(self) -> bool:
        """Does the template take a system message as a string, not as a list of parts? Whichever it shows as it is.

        Others print the list itself, leave the message out, or fail. UserError where neither form is shown.
        """
        marker = "It's a 'line'\nand another"  # printed in a list, quotes and line end would be escaped
        messages = chat_messages("Why?", 0, marker, "")
        if self.image_processor is None:
            messages[-1] = _as_text(messages[-1])
        failure: UserError | None = None
        for is_text in (False, True):
            try:
                text = self._apply_template([_as_text(messages[0]) if is_text else messages[0], messages[1]])
            except UserError as error:
                failure = failure or error
            else:
                if text.count(marker) == 1:
                    return is_text
        raise failure or UserError(
            "system_prompt: the model's chat template does not show a system message; leave it empty, and put its text into "
            "format_prompt"
        )

    def _apply_template(self, messages: list[dict[str, Any]]) -> str:
        """The model's own template. UserError, with the template's words, where it is missing or refuses the messages."""
        if not any(getattr(part, "chat_template", None) for part in (self.processor, self.tokenizer)):
            raise UserError(
                "model: it has no chat template (a base model?); choose an instruction-tuned one, or save a template with "
                "its processor"
            )
        variables = self._template_variables
        try:
            return self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **variables)
        except (TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            if messages[0]["role"] == "system":
                self._apply_template(messages[1:])  # raises where the template fails without a system message too
                raise UserError(
                    f"system_prompt: the model's chat template refuses a system message ({words}); leave it empty, and put "
                    "its text into format_prompt"
                ) from error
            raise UserError(f"model: its chat template fails ({words}); correct the template") from error

    @cached_property
    def _template_variables(self) -> dict[str, bool | int | float | str]:
        """`chat_template_kwargs`; UserError where one is no variable of the model's template, which would ignore it."""
        given = dict(self.settings.chat_template_kwargs)
        if not given:
            return {}
        template = getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        texts = template.values() if isinstance(template, dict) else [template]
        names = {name for text in texts for name in _variables(text)} - _OURS
        for name in given:
            if name not in names:
                raise UserError(
                    f"chat_template_kwargs.{name}: the model's chat template has no such variable; "
                    + did_you_mean(name, names, "leave it out")
                )
        return given

    @cached_property
    def opening(self) -> str:
        """What the chat template itself writes of the response: `<think>` and the white space after it, or nothing."""
        match = _OPENED.search(self._in_tags(self.template(Question(""))))
        return match.group() if match else ""

    @cached_property
    def _thought_marks(self) -> tuple[str, str, str] | None:
        """The model's own marks of a thought; None where it has none."""
        own = self.tokenizer.get_added_vocab()
        return next((marks for marks in _THOUGHT_MARKS if marks[0] in own and marks[2] in own), None)

    def _in_tags(self, text: str) -> str:
        """The text with `<think>` and `</think>` for the model's own marks."""
        if self._thought_marks is None:
            return text
        begin, word, end = self._thought_marks
        return text.replace(begin + word, "<think>").replace(end, "</think>")

    def in_own_marks(self, text: str) -> str:
        """The text with the model's own marks of a thought for `<think>` and `</think>`: what it is to be taught."""
        if self._thought_marks is None:
            return text
        begin, word, end = self._thought_marks
        return text.replace("<think>", begin + word).replace("</think>", end)

    def special_tokens(self, text: str) -> list[str]:
        """Special tokens of the model that a text would be read as; tags of answer formats do not count."""
        return self._special.findall(text) if self._special is not None else []

    def escape(self, text: str) -> str:
        """The text with a space inside every special token, so that it is read as plain text."""
        return self._special.sub(lambda m: f"{m.group()[0]} {m.group()[1:]}", text) if self._special else text

    @cached_property
    def _special(self) -> re.Pattern[str] | None:
        names = {str(token) for token in self._special_ids.values()}
        names |= {str(t) for t in (self.image_token, getattr(self.processor, "video_token", None)) if t}
        found = sorted((n for n in names if len(n) > 1 and not _FORMAT_TAG.fullmatch(n)), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, found))) if found else None

    @cached_property
    def _special_ids(self) -> dict[int, str]:
        """id -> text of every special token, those of answer formats among them."""
        added = {i: str(t) for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        return added | dict(zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True))

    def _check_length(self, prompt: Prompt) -> None:
        if len(prompt.input_ids) > self.settings.max_prompt_tokens:
            raise UserError(
                f"a prompt has {len(prompt.input_ids)} tokens, more than max_prompt_tokens = {self.settings.max_prompt_tokens} "
                f"(it begins {prompt.text[:60]!r}); {self.make_room}"
            )

    def _process_pictures(self, questions: Sequence[Question], shared: SharedPictures) -> dict[str, PixelInput]:
        for question in questions:
            _check_shapes(question)
        distinct = {k: p for q in questions for k, p in zip(_keys(q), q.pictures, strict=True)}

        def process(key: str) -> PixelInput:
            return shared.get(key, lambda: self._process_picture(key, distinct[key], self.picture_limits))

        return dict(zip(distinct, in_threads(process, list(distinct)), strict=True))

    @cached_property
    def has_grids(self) -> bool:
        """Does each picture's grid tell its number of tokens, as in Qwen's processors? Others expand placeholders themselves.

        Tried on one picture: the processor's own prompt must be ours.
        """
        if not hasattr(self.image_processor, "merge_size"):
            return False
        question = Question("?", (np.zeros((56, 84, 3), np.uint8),))
        try:
            limits = {"size": dict(zip(_EDGES, self._own_pixels, strict=True))}
            ours = self._grid_prompt(question, [PixelInput("", self._processed(question.pictures[0], limits))])
            theirs = self._processor_prompt(question, {"images": [[Image.fromarray(question.pictures[0])]], **limits})
        except UserError:  # of the template: whoever asks a question with a picture is told
            return True
        except (ValueError, TypeError, LookupError, AttributeError):
            return False
        return ours.input_ids.tolist() == theirs.input_ids.tolist()

    @cached_property
    def _pixel_range(self) -> tuple[int, int]:
        """Fewest and most pixels of a picture as the model sees it, where the processor knows such limits: the run's or its own.

        UserError where the run gives one of them, on the wrong side of the checkpoint's other.
        """
        own, s = [pixels // self._frames for pixels in self._own_pixels], self.settings
        fewest, most = s.min_pixels or own[0], s.max_pixels or own[1]
        if fewest > most:
            key, other = ("max_pixels", "min_pixels") if s.max_pixels else ("min_pixels", "max_pixels")
            raise UserError(
                f"{key}: {most if s.max_pixels else fewest} is beyond the checkpoint's own {other} = "
                f"{fewest if s.max_pixels else most}; give {other} too"
            )
        return fewest, most

    @cached_property
    def fingerprint(self) -> str | None:
        """Digest of everything that a prompt's length depends on but the question; None where it cannot be told."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is None:
            return None
        template = getattr(self.processor, "chat_template", None) or self.tokenizer.chat_template
        images = self.image_processor.to_json_string() if self.image_processor is not None else ""
        parts = (backend.to_str(), str(template), images, repr(self.settings))
        return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    @property
    def _own_pixels(self) -> list[int]:
        """Fewest and most pixels as the checkpoint's processor has them; LookupError or TypeError where it has no such limits."""
        return [int(self.image_processor.size[edge]) for edge in _EDGES]  # type: ignore[union-attr]

    @cached_property
    def _frames(self) -> int:
        """How often the processor counts a picture's pixels against its limits: GLM's takes a picture for a film of two frames.

        Measured on a picture of four times the area that it is limited to.
        """
        patch = self.image_processor.patch_size  # type: ignore[union-attr]
        edge = 16 * patch * self.image_processor.merge_size  # type: ignore[union-attr]
        limits = {"size": dict(zip(_EDGES, (patch**2, edge**2), strict=True))}
        made = self._processed(np.zeros((2 * edge, 2 * edge, 3), np.uint8), limits)
        return max(1, round(edge**2 / (int(made["image_grid_thw"].prod()) * patch**2)))

    @cached_property
    def picture_limits(self) -> dict[str, Any]:
        """What the processor is told of `min_pixels` and `max_pixels`, where it knows such limits."""
        if not self.has_grids:
            return {}
        return {"size": dict(zip(_EDGES, (pixels * self._frames for pixels in self._pixel_range), strict=True))}

    def picture_inputs(self, question: Question) -> dict[str, Any]:
        """What the model's own processor is given of a question's pictures; one that knows no limits gets them in that size."""
        pictures, s = [Image.fromarray(p) for p in question.pictures], self.settings
        if not self.has_grids:
            pictures = [within(p, s.min_pixels or 1, s.max_pixels or p.width * p.height) for p in pictures]
        return {"images": [pictures], **self.picture_limits}

    @property
    def make_room(self) -> str:
        """How longer questions fit, in words for a message."""
        raise_limit, most = f"raise max_prompt_tokens = {self.settings.max_prompt_tokens}", self.settings.max_pixels
        if self.image_processor is None:
            return raise_limit
        if most is not None:
            return f"{raise_limit}, or lower max_pixels = {most}"
        own = f" below the model's own {self._pixel_range[1]}" if self.has_grids else ""
        return f"{raise_limit}, or set max_pixels{own}"

    def _process_picture(self, key: str, picture: Picture, limits: Mapping[str, Any]) -> PixelInput:
        """One at a time: each of the processor's steps holds a copy of everything it gets."""
        if (codes := self._pixel_codes) is None:
            return PixelInput(key, self._processed(picture, limits))
        out = self._processed(picture, {**limits, **UNSCALED})
        return PixelInput(key, {**out, PIXELS: codes.coded(out[PIXELS].astype(np.uint8, copy=False))})

    def _processed(self, picture: Picture, options: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """What the image processor makes of one picture."""
        # As a PIL image: the processor would mistake an array of height 1 or 3 for one with channels first.
        out = self.image_processor([Image.fromarray(picture)], return_tensors="np", **options)  # type: ignore[misc]
        return {name: np.asarray(out[name]) for name in (PIXELS, "image_grid_thw")}

    @cached_property
    def _pixel_codes(self) -> PixelCodes | None:
        """How the processor's pixels are kept in a quarter of their bytes; None where they are no function of bytes."""

        def process(picture: Picture, options: Mapping[str, Any]) -> Any:
            if self.has_grids:
                return self._processed(picture, options)[PIXELS]
            text, pictures = self.template(Question("", (picture,))), [[Image.fromarray(picture)]]
            return self.processor(text=[text], images=pictures, return_tensors="np", **options)[PIXELS]

        try:
            codes = PixelCodes.learned(process)
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            codes = None
            logger.debug("%s: %s", type(self.image_processor).__name__, error)
        if codes is None:
            logger.warning("pictures are kept in float32: %s does not scale bytes", type(self.image_processor).__name__)
        return codes

    def _grid_prompt(self, question: Question, images: list[PixelInput]) -> Prompt:
        text = self.template(question)
        token = self.image_token
        if images:
            assert token is not None
            pieces = text.split(token)
            if len(pieces) != len(images) + 1:
                raise UserError(
                    f"the prompt has {len(pieces) - 1} image placeholders for {len(images)} images: {question.text[:60]!r}"
                )
            merged = self.image_processor.merge_size**2  # type: ignore[union-attr]
            counts = [int(i.tensors["image_grid_thw"].prod()) // merged for i in images]
            text = pieces[0] + "".join(token * n + piece for n, piece in zip(counts, pieces[1:], strict=True))
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return Prompt(np.asarray(ids, np.int64), tuple(images), text)

    def _processor_prompt(self, question: Question, pictures: Mapping[str, Any]) -> Prompt:
        text = self.template(question)
        if not question.pictures:
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return Prompt(np.asarray(ids, np.int64), (), text)
        out = self.processor(text=[text], add_special_tokens=False, return_tensors="np", **pictures)
        tensors = {k: np.asarray(v) for k, v in out.items() if k not in _TEXT_SIDE}
        known = getattr(self.image_processor, "model_input_names", ())
        for name, tensor in tensors.items():
            if tensor.shape[:2] == out["input_ids"].shape and name not in known:
                raise UserError(
                    f"model: its processor gives {name} for each token of a prompt, which is not supported; choose another one"
                )
        # These processors may cut one picture into several crops: all pictures of a prompt travel together.
        image = PixelInput("+".join(_keys(question)), tensors)
        shown = tuple(np.asarray(picture) for picture in pictures["images"][0])
        return Prompt(np.asarray(out["input_ids"][0], np.int64), (image,), text, shown)

    def _coded(self, prompt: Prompt) -> Prompt:
        """The prompt with its pixels in codes, where these give back exactly what the processor has made."""
        if not any(PIXELS in image.tensors for image in prompt.images) or self._pixel_codes is None:
            return prompt
        coded = [(image, self._pixel_codes.code(image.tensors[PIXELS])) for image in prompt.images]
        images = [i if c is None else PixelInput(i.key, {**i.tensors, PIXELS: c}) for i, c in coded]
        return replace(prompt, images=tuple(images))

    def decode(self, token_ids: Sequence[int] | NDArray[np.int64]) -> str:
        """The text of a completion, special tokens left out; tags of answer formats stay, special or not.

        A thought in marks of the model's own reads as one in `<think>` tags.
        """
        if len(self._hidden_ids) == len(self._special_ids):
            return self._in_tags(self.tokenizer.decode(token_ids, skip_special_tokens=True))
        shown = [int(i) for i in token_ids if int(i) not in self._hidden_ids]
        return self._in_tags(self.tokenizer.decode(shown, skip_special_tokens=False))

    @cached_property
    def _hidden_ids(self) -> frozenset[int]:
        """Ids that decoding leaves out."""
        marks = self._thought_marks or ()
        return frozenset(i for i, t in self._special_ids.items() if not _FORMAT_TAG.fullmatch(t) and t not in marks)


def _variables(template: str) -> set[str]:
    """What a chat template reads without having set it."""
    from jinja2 import meta
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # transformers' own extension of the language, which it keeps to itself: blocks that mark what the assistant said
    plain = re.sub(r"\{%-?\s*(?:end)?generation\s*-?%\}", "", template)
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    return meta.find_undeclared_variables(environment.parse(plain))


def most_image_tokens(side: int, min_pixels: int, max_pixels: int) -> int:
    """The most tokens that Qwen's resizing makes of any picture; `side`: pixels of a token's edge.

    Beyond the area limits: a narrow picture's short edge is at least one token, and an enlarged one is rounded up.
    """
    smallest, largest = min_pixels / side**2, max_pixels / side**2
    narrow = sqrt(WIDEST * largest)
    enlarged = smallest + sqrt(smallest) * (sqrt(WIDEST) + 1 / sqrt(WIDEST)) + 1
    return int(max(largest, narrow, enlarged))


def _check_shapes(question: Question) -> None:
    for height, width, _ in (p.shape for p in question.pictures):
        if max(height, width) > WIDEST * min(height, width):
            raise UserError(
                f"a picture of {width} x {height} pixels is narrower than the model accepts (aspect ratio above {WIDEST}); "
                "crop it or leave the question out"
            )


def _keys(question: Question) -> tuple[str, ...]:
    if len(question.keys) == len(question.pictures):
        return question.keys
    return tuple(picture_key(p) for p in question.pictures)


def picture_key(picture: Picture) -> str:
    """Digest of a picture's pixels."""
    return blake2b(picture.tobytes() + str(picture.shape).encode(), digest_size=16).hexdigest()


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its parts, all of text, joined to one string."""
    return {**message, "content": "".join(part["text"] for part in message["content"])}


def load_processor(path: str) -> Any:
    """Processor of a vision-language model, or tokenizer of a text-only one; UserError where neither can be loaded."""
    from transformers import AutoConfig, AutoProcessor, AutoTokenizer

    try:
        sees = takes_pictures(AutoConfig.from_pretrained(path))
        return (AutoProcessor if sees else AutoTokenizer).from_pretrained(path)
    except (ImportError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"model: cannot load the processor of {path!r} ({reason}); give a Hugging Face folder or name"
        ) from error


def takes_pictures(config: Any) -> bool:
    """Does transformers have the model as one of pictures and text? UserError where it has it as a text model that sees:
    such a model takes its pictures in a way of its own."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return True
    if getattr(config, "vision_config", None) is not None:
        raise UserError(
            f"model: {config.model_type} sees, but transformers has it as a text model (CausalLM), and its way of taking "
            "pictures is not supported; choose a model of AutoModelForImageTextToText"
        )
    return False
