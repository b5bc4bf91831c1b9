"""Charts of a PPO run, from the rows of its `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rlhf.report.chart import Axes, Chart, Line, PlainChart, has, line_chart, stacked_chart
from rlhf.report.words import Text

if TYPE_CHECKING:
    import pandas

GAP_FLOOR = 1e-9
"""Nats; a gap of exactly 0 (bit-equal engines) is drawn here, because a logarithmic axis has no 0."""


def ppo_charts(rows: pandas.DataFrame) -> Sequence[Chart]:
    """Every chart for which the run logged numbers."""
    charts = (make(rows) for make in _CHARTS)
    return [chart for chart in charts if chart is not None]


def _scores(rows: pandas.DataFrame) -> Chart | None:
    reward = Line("reward/score", "reward (model)", "reward", right=has(rows, "reward/gold"), smooth=True)
    if not has(rows, "reward/gold"):
        title = Text("Reward score", "奖励分")
        note = Text("Mean over the responses of a step; there is no gold score beside it.",
                    "每步回答的平均奖励分；没有真实分可供对照。")
        return line_chart("ppo-scores", title, note, rows, (reward,), Axes("reward score"), wide=True)
    title = Text("Gold and reward scores", "真实分与奖励分")
    note = Text("Gold is what we want, reward is what PPO optimises: reward that rises while gold falls is hacking.",
                "真实分是目标，奖励分是 PPO 的优化对象。奖励上升而真实分下降，即为奖励作弊。")
    lines = (Line("reward/gold", "gold (0–100)", "gold", smooth=True), reward)
    return line_chart("ppo-scores", title, note, rows, lines, Axes("gold score", "reward score"), wide=True)


def _parts(rows: pandas.DataFrame) -> Chart | None:
    title = Text("Parts of the reward", "奖励的组成部分")
    note = Text("Mean score of each part over the responses that it scored, before its weight; dotted, the share of "
                "responses without a score.", "各部分对其所评回答的平均分（加权之前）；虚线为没有得分的回答比例。")
    names = [name for name in rows.columns if name.startswith("reward/part/")]
    if not names:
        return None
    lines = [
        Line(name, name.removeprefix("reward/part/"), f"c{1 + k % 6}", smooth=True) for k, name in enumerate(names)
    ]
    lines.append(Line("reward/failed_fraction", "without a score", "base", right=True, dash="dot"))
    return line_chart("ppo-parts", title, note, rows, lines, Axes("score", "fraction", right_from_zero=True))


def _gap(rows: pandas.DataFrame) -> Chart | None:
    title = Text("Sampler–learner gap", "采样器与学习器之差")
    note = Text("Difference of the two engines' log-probabilities for the same tokens, nats, logarithmic; "
                "the dotted line is 10⁻⁴, the bound in float32.",
                "两个引擎对相同词元的对数概率之差（nats，对数坐标）；虚线为 float32 的界限 10⁻⁴。")
    names = ("sync/logprob_gap_max", "sync/logprob_gap_mean")
    if not any(has(rows, name) for name in names):
        return None
    rows = rows.assign(**{name: rows[name].clip(lower=GAP_FLOOR) for name in names if name in rows}, _bound=1e-4)
    lines = (Line(names[0], "largest", "c5"), Line(names[1], "mean", "c2"), Line("_bound", "10⁻⁴", "base", dash="dot"))
    return line_chart("ppo-gap", title, note, rows, lines, Axes("nats", log=True))


def _phases(rows: pandas.DataFrame) -> Chart | None:
    title = Text("Time per phase", "各阶段耗时")
    note = Text("Seconds of each step, stacked; “other” is what the phases leave of the step.",
                "每步耗时（秒），堆叠显示；“other”为步内其余时间。")
    names = [name for name in ("rollout", "score", "experience", "update", "publish") if has(rows, f"time/{name}")]
    if not names:
        return None
    if has(rows, "time/step"):
        rest = rows["time/step"] - rows[[f"time/{name}" for name in names]].fillna(0).sum(axis=1)
        rows = rows.assign(**{"time/other": rest.clip(lower=0)})
        names.append("other")
    colours = {"rollout": "c1", "score": "c2", "experience": "c3", "update": "c4", "publish": "c5", "other": "base"}
    lines = [Line(f"time/{name}", name, colours[name]) for name in names]
    return stacked_chart("ppo-phases", title, note, rows, lines, Axes("seconds"), wide=True)


_CHARTS: tuple[Callable[[pandas.DataFrame], Chart | None], ...] = (
    _scores,
    _parts,
    PlainChart(
        "ppo-turns", Text("What the environment paid", "环境给出的奖励"),
        Text("Per episode, and how many responses an episode had.", "每个回合的总奖励，以及回合中的回答数。"),
        (Line("reward/turns", "paid", "gold", smooth=True),
         Line("rollout/turns", "responses", "c6", right=True, smooth=True)),
        Axes("reward", "responses", right_from_zero=True),
    ),
    PlainChart(
        "ppo-kl", Text("KL to the reference", "与参考模型的 KL"),
        Text("Nats per response: how far the policy has moved from SFT; the coefficient is the price of moving.",
             "每条回答的 KL（nats）：策略离 SFT 多远；系数是偏离的代价。"),
        (Line("kl/per_response", "KL per response", "ppo", smooth=True),
         Line("kl/coef", "coefficient", "c6", right=True, dash="dot")),
        Axes("nats per response", "coefficient", right_from_zero=True),
    ),
    PlainChart(
        "ppo-entropy", Text("Policy entropy", "策略熵"),
        Text("Nats per token. A fast fall to zero means that exploration has ended.",
             "每词元的熵（nats）。迅速降到零表示探索已停止。"),
        (Line("policy/entropy", "entropy", "c2", smooth=True),),
        Axes("nats per token"),
    ),
    PlainChart(
        "ppo-clip", Text("Clip fraction", "裁剪比例"),
        Text("Share of tokens whose probability ratio was clipped; above 0.3 the steps are too large.",
             "概率比被裁剪的词元比例；高于 0.3 说明步子过大。"),
        (Line("policy/clipfrac", "policy", "ppo", smooth=True), Line("value/clipfrac", "value", "c3", smooth=True)),
        Axes("fraction", from_zero=True),
    ),
    PlainChart(
        "ppo-approx-kl", Text("Approximate KL of an update", "单次更新的近似 KL"),
        Text("Between the policy before and after one update, nats per token.",
             "一次更新前后策略之间的 KL，每词元 nats。"),
        (Line("policy/approx_kl", "approx KL", "c5", smooth=True),),
        Axes("nats per token", from_zero=True),
    ),
    PlainChart(
        "ppo-explained-variance", Text("Explained variance of the critic", "价值网络的解释方差"),
        Text("1: values foretell the returns; 0: no better than their mean; below 0: worse than that.",
             "1 表示价值准确预测回报；0 等同于均值；低于 0 则更差。"),
        (Line("value/explained_variance", "explained variance", "c3", smooth=True),),
        Axes("explained variance"),
    ),
    PlainChart(
        "ppo-value-loss", Text("Value loss", "价值损失"),
        Text("Half the squared error of the critic, clipped.", "价值网络平方误差的一半（经裁剪）。"),
        (Line("value/loss", "value loss", "c3", smooth=True),),
        Axes("loss"),
    ),
    PlainChart(
        "ppo-policy-loss", Text("Policy loss and learning rate", "策略损失与学习率"),
        Text("The loss hovers round zero by construction; its level says little.",
             "该损失按定义在零附近波动，数值本身意义不大。"),
        (Line("policy/loss", "policy loss", "ppo", smooth=True),
         Line("policy/learning_rate", "learning rate", "c6", right=True, dash="dot")),
        Axes("loss", "learning rate", right_from_zero=True),
    ),
    PlainChart(
        "ppo-gradients", Text("Gradient norms", "梯度范数"),
        Text("Before clipping.", "裁剪之前。"),
        (Line("policy/grad_norm", "policy", "ppo", smooth=True),
         Line("value/grad_norm", "value", "c3", smooth=True)),
        Axes("norm"),
    ),
    PlainChart(
        "ppo-lengths", Text("Response length", "回答长度"),
        Text("Tokens. Length that grows with the reward may be all that the reward model likes.",
             "词元数。长度随奖励同涨，可能只是奖励模型偏爱长回答。"),
        (Line("response/length_mean", "mean", "ppo", smooth=True), Line("response/length_max", "longest", "c6")),
        Axes("tokens", from_zero=True),
    ),
    PlainChart(
        "ppo-truncated", Text("Truncated responses", "被截断的回答"),
        Text("Share of responses that met the length limit before they ended.", "在结束前达到长度上限的回答比例。"),
        (Line("response/truncated_fraction", "truncated", "c5", smooth=True),),
        Axes("fraction", from_zero=True),
    ),
    _gap,
    PlainChart(
        "ppo-throughput", Text("Throughput", "吞吐量"),
        Text("Response tokens per second over the whole step.", "整步平均每秒生成并训练的词元数。"),
        (Line("throughput/tokens_per_s", "tokens/s", "c4", smooth=True),),
        Axes("tokens per second", from_zero=True),
    ),
    _phases,
)
"""The charts in the order in which the page shows them: a function where something is computed."""
