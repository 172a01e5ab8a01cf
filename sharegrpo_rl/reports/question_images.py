"""The images of test questions, read again from the run's own environment."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from sharegrpo_rl.envs.registry import make_env
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.reports.run_reading import Run

LONGEST_SHOWN = 320  # pixels
SMALLEST_SHOWN = 112  # smaller pictures are enlarged by whole factors


def question_images(run: Run, question_ids: Sequence[str]) -> tuple[dict[str, list[str]], str]:
    """PNG images as base64 by question id, and why there are none where the data cannot be read any more."""
    config = run.params["config"]
    try:
        env = make_env(
            run.params["env"],
            config["env_config"],
            split="test",
            rewards=config["rewards"],
            answer_format=config["answer_format"],
            check=False,
        )
        found = {}
        for question in question_ids:
            observation, _ = env.reset(options={"question_id": question})
            found[question] = [png(Image.fromarray(pixels)) for pixels in observation["images"]]
    except UserError as error:
        return {}, f"The images are not shown, because the data could not be read: {error}"
    return found, ""


def png(image: Image.Image) -> str:
    """A PNG as base64, large enough to be seen and small enough for a page."""
    image.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN))
    factor = max(1, -(-SMALLEST_SHOWN // max(image.size)))
    if factor > 1:
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode("ascii")
