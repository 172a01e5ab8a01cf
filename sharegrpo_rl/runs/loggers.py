"""A run's rows as they leave for TensorBoard (with pictures of groups), Weights & Biases and MLflow."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sharegrpo_rl.data.types import Completion, Group, PromptPack, SeedQuestion
from sharegrpo_rl.errors import UserError, has_extra
from sharegrpo_rl.files import LOGGED_AS, storage_errors, write_atomically
from sharegrpo_rl.runs.run_file import PACKAGES

if TYPE_CHECKING:  # of an extra
    from torch.utils.tensorboard import SummaryWriter

# Clocks and bookkeeping that Tune leaves out of the curves too.
LEFT_OUT = {"training_iteration", "timestamp", "pid", "iterations_since_restore", "time_since_restore", "config"}
WIDTH, LEFT, MARGIN = 1000, 300, 12
LINE, FONT_SIZE = 18, 14
COMPLETIONS_SHOWN = 6  # of each variant
LINES_SHOWN = 4  # of each completion
FRAME = (200, 200, 200)
COLOURS = {"right": (0, 110, 40), "wrong": (170, 20, 20), "text": (20, 20, 20), "grey": (110, 110, 110)}


class TensorBoardLog:
    """TensorBoard events of one run; `first_step` hides what a killed process wrote for iterations that are run again.

    Without the package nothing is written, and `say` is told so.
    """

    def __init__(self, folder: Path, first_step: int, say: Callable[[str], None] = lambda _: None) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        if not has_extra("tensorboard"):
            say("no TensorBoard events are written: its package is missing (pip install 'sharegrpo-rl[tensorboard]')")
            return
        from torch.utils.tensorboard import SummaryWriter

        with storage_errors(folder):
            self._writer = SummaryWriter(str(folder), purge_step=first_step, max_queue=200)

    def scalars(self, tree: Mapping[str, Any], step: int) -> None:
        """All numbers of a result tree."""
        if self._writer is not None:
            with storage_errors(self._folder):
                for tag, value in flat_scalars(tree).items():
                    self._writer.add_scalar(tag, value, step)

    def groups(self, groups: Sequence[Group], question: Callable[[int], SeedQuestion], step: int) -> None:
        """A picture of each group: the question, its completions and rewards."""
        if self._writer is not None:
            with storage_errors(self._folder):
                for i, group in enumerate(groups):
                    picture = np.asarray(draw_group(group, question(group.question_index)))
                    self._writer.add_image(f"rollouts/question_{i}", picture, step, dataformats="HWC")

    def advantages(self, plain: Sequence[PromptPack], trained: Sequence[PromptPack], step: int) -> None:
        """Histograms of the advantages: as plain GRPO gives them, and as they were trained."""
        if self._writer is not None:
            with storage_errors(self._folder):
                for name, packs in (("before_sharing", plain), ("after_sharing", trained)):
                    if packs:
                        values = np.concatenate([pack.advantages for pack in packs])
                        self._writer.add_histogram(f"advantages/{name}", values, step)

    def flush(self) -> None:
        if self._writer is not None:
            with storage_errors(self._folder):
                self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def flat_scalars(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers of a nested result as `part/part/name`."""
    flat: dict[str, float] = {}
    for key, value in tree.items():
        if not prefix and key in LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            flat |= flat_scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{key}"] = float(value)
    return flat


@dataclass(eq=False)
class LoggedRun:
    """A run as Ray's callbacks see it: the part of Tune's Trial that they read."""

    name: str
    trial_id: str
    config: dict[str, Any]
    local_path: str
    experiment_dir_name: str

    def __str__(self) -> str:
        return self.name


class RunLoggers:
    """Ray's logger callbacks of one run. Made before anything else, so that a missing package or key shows at once."""

    def __init__(self, tables: Mapping[str, Mapping[str, Any]], say: Callable[[str], None]) -> None:
        self._say = say
        self._callbacks = {name: _make(name, options) for name, options in tables.items()}
        self._run: LoggedRun | None = None

    def start(self, folder: Path, params: Mapping[str, Any]) -> None:
        """Begin; a resumed run is continued where the service allows it. Starts Ray where it is not running."""
        if not self._callbacks:
            return
        import ray

        from sharegrpo_rl.learners.ray_start import start_or_join

        if not ray.is_initialized():
            start_or_join(include_dashboard=False, log_to_driver=False)
        config = {"run": params["run"], "env": params["env"], "seed": params["seed"], **params["config"]}
        path = folder.absolute()
        self._run = LoggedRun(path.name, _run_id(path), config, str(path), path.parent.name)
        for callback in self._callbacks.values():
            callback.log_trial_start(self._run)

    def row(self, row: Mapping[str, Any]) -> None:
        """One line of result.json."""
        if self._run is not None:
            for callback in self._callbacks.values():
                callback.log_trial_result(row["training_iteration"], self._run, dict(row))

    def end(self, *, failed: bool = False) -> None:
        """Let the services finish, and say what could not be sent."""
        if self._run is None:
            return
        for name, callback in self._callbacks.items():
            sending = list(getattr(callback, "_trial_logging_futures", {}).values())  # W&B's: an actor sends
            callback.log_trial_end(self._run, failed=failed)
            callback.on_experiment_end(trials=[self._run])
            for future in sending:
                self._report_failure(name, future)
        self._run = None

    def _report_failure(self, name: str, future: Any) -> None:
        import ray

        try:
            ray.get(future, timeout=0)
        except Exception as error:  # whatever the service's client raises: the run itself is complete
            lines = [line for line in str(error).strip().splitlines() if line.strip()]
            self._say(f"loggers.{name}: not everything was sent: {lines[-1] if lines else type(error).__name__}")


def _make(name: str, options: Mapping[str, Any]) -> Any:
    try:
        callback = _wandb(options) if name == "wandb" else _mlflow(options)
        callback.setup()
    except ImportError:
        package = PACKAGES[name]
        raise UserError(
            f"loggers.{name}: the package {package} is not installed; run pip install 'sharegrpo-rl[{name}]'"
        ) from None
    except ValueError as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"loggers.{name}: {first} (for W&B: `wandb login`, or mode: offline)") from None
    return callback


def _wandb(options: Mapping[str, Any]) -> Any:
    from ray.air.integrations.wandb import WandbLoggerCallback

    if options["mode"] == "offline":
        os.environ["WANDB_MODE"] = "offline"  # read by Ray's callback, which would ask for a key otherwise
    chosen = {key: options[key] for key in ("entity", "mode") if options[key] is not None}
    return WandbLoggerCallback(options["project"], options["group"], resume="allow", **chosen)


def _mlflow(options: Mapping[str, Any]) -> Any:
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    uri = options["tracking_uri"] or os.environ.get("MLFLOW_TRACKING_URI")
    return MLflowLoggerCallback(tracking_uri=uri, experiment_name=options["experiment_name"])


def _run_id(folder: Path) -> str:
    """The run's id at the services: drawn once and kept in its folder, so that a resumed run is the same one."""
    file = folder / LOGGED_AS
    if not file.exists():
        with storage_errors(file):
            write_atomically(file, uuid4().hex[:12])
    return file.read_text(encoding="utf-8").strip()


def draw_group(group: Group, question: SeedQuestion) -> Image.Image:
    """One picture of a group [H, WIDTH, RGB]: question and images on the left, completions with rewards on the right."""
    left = _left_lines(group, question)
    right = _right_lines(group, question)
    pictures = [_fit(source.open(), LEFT - 2 * MARGIN) for source in question.images]
    pictures_height = sum(p.height + MARGIN for p in pictures)
    height = 2 * MARGIN + max(pictures_height + LINE * len(left), LINE * len(right))
    page = Image.new("RGB", (WIDTH, height), "white")
    y = MARGIN
    for picture in pictures:
        page.paste(picture, (MARGIN, y))
        ImageDraw.Draw(page).rectangle((MARGIN - 1, y - 1, MARGIN + picture.width, y + picture.height), outline=FRAME)
        y += picture.height + MARGIN
    _write(page, left, MARGIN, y)
    _write(page, right, LEFT + MARGIN, MARGIN)
    return page


def _left_lines(group: Group, question: SeedQuestion) -> list[tuple[str, str]]:
    lines = [(line, "text") for line in textwrap.wrap(question.question, 36)[:12]]
    lines.append((f"answer: {question.answer}"[:36], "right"))
    lines.append((f"{group.subtask or question.subtask}  {group.question_id}"[:36], "grey"))
    return lines


def _right_lines(group: Group, question: SeedQuestion) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for index, slot in enumerate(group.slots):
        transform = f" [{slot.transform}]" if slot.transform else ""
        wording = " ".join(question.wordings[slot.variant_index].split())
        heading = f"variant {slot.variant_index}{transform}: {wording}"
        lines.append((textwrap.shorten(heading, 90, placeholder=" ..."), "grey"))
        completions = group.completions[index][:COMPLETIONS_SHOWN]
        for sample, completion in enumerate(completions):
            lines += _completion_lines(group, index, sample, completion)
        if left_out := len(group.completions[index]) - len(completions):
            lines.append((f"... and {left_out} more", "grey"))
    return lines


def _completion_lines(group: Group, variant: int, sample: int, completion: Completion) -> list[tuple[str, str]]:
    right = group.accuracies[variant, sample] >= 1
    text = " ".join(completion.text.split()) + (" [cut off]" if completion.truncated else "")
    wrapped = textwrap.wrap(text, 78) or ["(empty)"]
    head = f"{float(group.rewards[variant, sample]):+.2f}  {wrapped[0]}"
    lines = [head, *(f"       {line}" for line in wrapped[1:LINES_SHOWN])]
    return [(line, "right" if right else "wrong") for line in lines]


def _write(page: Image.Image, lines: list[tuple[str, str]], x: int, y: int) -> None:
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(FONT_SIZE)
    for number, (text, colour) in enumerate(lines):
        draw.text((x, y + number * LINE), text, fill=COLOURS[colour], font=font)


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Enlarged without smoothing (small pictures keep their pixels visible) or shrunk to at most `side`."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC)
