"""Commands on trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharegrpo_rl.cli.options import ImportOption


def evaluate(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL_OR_CHECKPOINT", help="an exported folder, a checkpoint, or an evaluation's --out"
        ),
    ],
    env: Annotated[str | None, typer.Option(help="questions of this environment instead of the model's own")] = None,
    data: Annotated[str | None, typer.Option(help="questions of this data set instead of the model's own")] = None,
    kinds: Annotated[
        str | None, typer.Option(metavar="KIND,KIND", help="kinds of question instead of the model's own")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="the layout of --data: mathvista, mmmu, pope, ...")] = None,
    hub_config: Annotated[str | None, typer.Option(help="configuration of a hub data set")] = None,
    split: Annotated[str, typer.Option(help="split to evaluate on")] = "test",
    limit: Annotated[
        int | None, typer.Option(min=1, help="the first N questions; by default 500, or all of a benchmark")
    ] = None,
    blind: Annotated[bool, typer.Option("--blind", help="swap the images: what does the text alone earn?")] = False,
    samples: Annotated[int, typer.Option(min=0, max=4096, help="sampled completions beside the greedy one")] = 0,
    temperature: Annotated[float, typer.Option(help="of the samples")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="seed of the samples")] = 0,
    extract: Annotated[
        str, typer.Option(help="where the answer stands: format (the model's own), auto, answer, boxed, free")
    ] = "format",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="keep predictions there; go on where stopped")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="B", help="compare with another model or --out folder")
    ] = None,
    export: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="write predictions for vlmevalkit or lmms-eval to score")
    ] = None,
    export_name: Annotated[str | None, typer.Option(help="that tool's name of the benchmark")] = None,
    read_scores: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="read that tool's result file into an --out folder's report"),
    ] = None,
    engine: Annotated[str, typer.Option(help="what generates: hf or vllm")] = "hf",
    batch: Annotated[int, typer.Option(min=1, help="questions at a time, and between two writes to --out")] = 128,
    max_prompt_tokens: Annotated[int | None, typer.Option(min=1, help="instead of the model's own limit")] = None,
    max_completion_tokens: Annotated[int | None, typer.Option(min=1, help="instead of the model's own limit")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="of an image, instead of the model's own")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    imports: ImportOption = None,
) -> None:
    """Accuracy of a trained model, greedy and sampled, with its own prompts, limits and answer format."""
    from sharegrpo_rl.tune.evaluate_command import run_evaluate
    from sharegrpo_rl.tune.evaluate_options import EvaluateOptions
    from sharegrpo_rl.user_code import import_user_files

    import_user_files(imports or [])
    options = EvaluateOptions(
        env=env,
        data=data,
        kinds=None if kinds is None else [kind.strip() for kind in kinds.split(",")],
        benchmark=benchmark,
        hub_config=hub_config,
        split=split,
        limit=limit,
        blind=blind,
        extract=extract,
        samples=samples,
        temperature=temperature,
        seed=seed,
        batch=batch,
        engine=engine,
        max_prompt_tokens=max_prompt_tokens,
        max_completion_tokens=max_completion_tokens,
        max_pixels=max_pixels,
        out=out,
        export=export,
        export_name=export_name,
    )
    run_evaluate(model, options, against=against, scores=read_scores or [], as_json=as_json)


def export(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint of a run: RUN/checkpoints/000123")],
    out: Annotated[Path, typer.Option(help="the Hugging Face folder to write")],
) -> None:
    """Write a checkpoint as a Hugging Face folder (adapters merged) with sharegrpo_rl.json beside the weights."""
    from sharegrpo_rl.tune.model_folder import export_checkpoint

    export_checkpoint(checkpoint, out)
    typer.echo(f"wrote {out}")
