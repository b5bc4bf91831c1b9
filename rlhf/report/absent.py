"""What the page cannot show, and why: a reader must not take a missing chart for a quiet one."""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.report.collect import Run, StageRun
from rlhf.report.headline import wall_per_stage
from rlhf.report.transcripts import Group
from rlhf.report.words import STAGES, Text

_CHARTED = ("pretrain", "sft", "reward", "ppo")


def absences(run: Run, groups: Sequence[Group], has_gold: bool) -> Sequence[Text]:
    """One sentence per thing that is absent, in the order of the pipeline."""
    per_stage = [line for stage in run.stages for line in _of_stage(stage)]
    return [*_missing_stages(run), *per_stage, *_evaluation(run, has_gold), *_transcripts(groups), *_costs(run)]


def _missing_stages(run: Run) -> list[Text]:
    missing = [label for name, label in STAGES.items() if run.stage(name) is None]
    if not missing:
        return []
    return [Text(f"Stages that are not in this directory: {', '.join(label.en for label in missing)}.",
                 f"此目录中没有的阶段：{'、'.join(label.zh for label in missing)}。")]


def _of_stage(stage: StageRun) -> list[Text]:
    label = STAGES.get(stage.stage, Text(stage.name, stage.name))
    found = []
    if not stage.finished:
        found.append(Text(f"{label.en} has not finished: its numbers are those logged so far.",
                          f"{label.zh}尚未完成：显示的是目前已记录的数值。"))
    if stage.stage in _CHARTED and stage.metrics().empty:
        found.append(Text(f"{label.en} logged no metrics, so it has no curves.",
                          f"{label.zh}没有记录指标，因此没有曲线。"))
    return found


def _evaluation(run: Run, has_gold: bool) -> list[Text]:
    if run.stage("evaluate") is None:
        return [Text("Without an evaluation there is no comparison on held-out prompts; run stage evaluate for it.",
                     "没有评测，无法在留出提示上对比；请运行 evaluate 阶段。")]
    if not has_gold:
        return [Text("These prompts have no gold checker: what improves is judged by the reward model alone.",
                     "这些提示没有真实分检查器：好坏仅由奖励模型判断。")]
    return []


def _transcripts(groups: Sequence[Group]) -> list[Text]:
    if not any(len(group) for group in groups):
        return [Text("No transcripts were kept.", "没有保存对话样本。")]
    return [Text(f"The browser holds {len(group)} of {group.total} prompts of stage {group.source}, evenly spaced.",
                 f"浏览器收录 {group.source} 阶段 {group.total} 条提示中均匀抽取的 {len(group)} 条。")
            for group in groups if len(group) < group.total]


def _costs(run: Run) -> list[Text]:
    known = wall_per_stage(run)
    without = [stage.name for stage in run.stages if stage.name not in known]
    found = []
    if "wall_s" not in run.summary or "peak_pss_gib" not in run.summary:
        found.append(Text("Wall time and peak memory of the whole run: summary.json does not hold them (yet).",
                          "整个运行的耗时与内存峰值：summary.json 中（尚）没有。"))
    if without:
        found.append(Text(f"Wall time was not recorded for: {', '.join(without)}.",
                          f"未记录耗时的阶段：{'、'.join(without)}。"))
    return found
