"""Charts and last numbers of the stages before PPO: losses of training and validation, and the reward's accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf.report.chart import Axes, Chart, Line, PlainChart, has
from rlhf.report.transcripts import number
from rlhf.report.words import LANGUAGES, STAGES, Text

if TYPE_CHECKING:
    import pandas

_LOSS_NOTE = Text(
    "Training loss and, where it was measured, validation loss. Validation rising while training falls is overfitting.",
    "训练损失与验证损失。训练损失下降而验证损失上升，就是过拟合。",
)
_REWARD_NOTE = Text(
    "−log σ(r_chosen − r_rejected); a coin scores ln 2 ≈ 0.693.",
    "−log σ(r_chosen − r_rejected)；随机猜测为 ln 2 ≈ 0.693。",
)


def stage_charts(stage: str, rows: pandas.DataFrame) -> Sequence[Chart]:
    """Charts of `pretrain`, `sft` or `reward` from the stage's metrics; a chart without numbers is absent."""
    label = STAGES[stage]
    charts = (
        PlainChart(
            f"{stage}-loss", Text(f"{label.en}: loss", f"{label.zh}：损失"),
            _REWARD_NOTE if stage == "reward" else _LOSS_NOTE,
            (Line("loss", "training", "train", smooth=True), *_validation(rows, "validation_loss")),
            Axes("loss (nats)"),
        ),
        PlainChart(
            f"{stage}-accuracy", Text(f"{label.en}: accuracy", f"{label.zh}：准确率"),
            Text("Share of pairs in which the chosen response scores higher; chance is 0.5.",
                 "被选回答得分更高的偏好对所占比例；随机为 0.5。"),
            (Line("accuracy", "training", "train", smooth=True), *_validation(rows, "validation_accuracy")),
            Axes("accuracy"),
        ),
        PlainChart(
            f"{stage}-margin", Text(f"{label.en}: margin", f"{label.zh}：分差"),
            Text("Mean score of the chosen response minus that of the rejected one.", "被选回答与被拒回答的平均分差。"),
            (Line("margin", "training", "train", smooth=True), Line("validation_margin", "validation", "validation")),
            Axes("score"),
        ),
        PlainChart(
            f"{stage}-rate", Text(f"{label.en}: learning rate and gradient norm", f"{label.zh}：学习率与梯度范数"),
            Text("A gradient norm that keeps growing asks for a lower learning rate.",
                 "梯度范数持续增大时，应降低学习率。"),
            (Line("learning_rate", "learning rate", "c3"), Line("grad_norm", "gradient norm", "c5", right=True)),
            Axes("learning rate", "gradient norm", right_from_zero=True),
        ),
    )
    drawn = (chart(rows) for chart in charts)
    return [chart for chart in drawn if chart is not None]


def _validation(rows: pandas.DataFrame, column: str) -> list[Line]:
    """The line over all validation data, then one per language where it was measured apart."""
    prefix = f"{column}_"
    languages = sorted(name.removeprefix(prefix) for name in rows.columns if name.startswith(prefix))
    colours = ("c2", "c7", "c8", "c3")
    apart = [
        Line(prefix + language, LANGUAGES[language].en if language in LANGUAGES else language,
             colours[index % len(colours)], dash="dot")
        for index, language in enumerate(languages)
    ]
    return [Line(column, "validation", "validation"), *apart]


def last_numbers(stage: str, rows: pandas.DataFrame, results: Mapping[str, Any]) -> list[tuple[Text, str]]:
    """Last training and best validation numbers as words, and what the stage published beside them."""
    found: list[tuple[Text, float | None]] = []
    if has(rows, "loss"):
        found.append((Text("last training loss", "最后训练损失"), float(rows["loss"].dropna().iloc[-1])))
    if has(rows, "validation_loss"):
        best = float(rows["validation_loss"].min())
        found.append((Text("best validation loss", "最佳验证损失"), best))
        if stage != "reward":
            found.append((Text("its perplexity", "对应困惑度"), math.exp(min(best, 700))))
    if has(rows, "validation_accuracy"):
        found.append((Text("best validation accuracy", "最佳验证准确率"), float(rows["validation_accuracy"].max())))
    return [(name, f"{value:.4g}") for name, value in [*found, *_published(results)] if value is not None]


def _published(results: Mapping[str, Any]) -> list[tuple[Text, float | None]]:
    """Perplexity per language, and what "the longer response is better" would reach on the same pairs."""
    table = results.get("perplexity_by_language")
    languages = table if isinstance(table, Mapping) else {}
    found = []
    for language, value in languages.items():
        name = LANGUAGES.get(language, Text(language, language))
        found.append((Text(f"perplexity, {name.en}", f"困惑度，{name.zh}"), number(value)))
    longer = number(results.get("longer_is_better_accuracy"))
    return [*found, (Text("“longer is better” reaches", "“越长越好”可达"), longer)]
