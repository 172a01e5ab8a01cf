"""`evaluate --export`: the predictions of an evaluation in another tool's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharegrpo_rl.data.benchmarks.layout import LAYOUTS
from sharegrpo_rl.envs.multimodal_qa import MultimodalQAEnv
from sharegrpo_rl.errors import UserError
from sharegrpo_rl.evaluation.exports import export_predictions
from sharegrpo_rl.evaluation.protocol import Protocol
from sharegrpo_rl.evaluation.report import EvaluationRecord
from sharegrpo_rl.tune.evaluate_options import EvaluateOptions


def check_export(options: EvaluateOptions, env_config: Mapping[str, Any]) -> None:
    """UserError where the format cannot hold what would be evaluated; asked before any question is."""
    name = f"--export {options.export}"
    if not env_config.get("benchmark"):
        raise UserError(f"{name}: only a published benchmark can be scored elsewhere; name it with --benchmark")
    if options.export == "vlmevalkit" and not str(env_config["data"]).endswith(".tsv"):
        raise UserError(f"{name}: needs the benchmark's own TSV file as --data, whose columns it keeps")
    if options.blind:
        raise UserError(f"{name}: answers to swapped images are no benchmark result; leave out --blind")


def export(
    records: Sequence[EvaluationRecord], env: MultimodalQAEnv, options: EvaluateOptions, model: Path, protocol: Protocol
) -> list[Path]:
    """Files in OUT/export, named after the model and the benchmark."""
    assert options.out is not None
    assert options.export is not None
    layout = LAYOUTS[protocol["benchmark"]]
    own = layout.lmms_task if options.export == "lmms-eval" else Path(str(protocol["env_config"]["data"])).stem
    name = options.export_name or own or layout.name
    model_name = model.resolve().name if model.name != "export" else model.resolve().parent.name
    folder = options.out / "export"
    return export_predictions(records, env.bank, options.export, folder=folder, model=model_name, name=name)
