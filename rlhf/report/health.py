"""A reading of a PPO run: each quantity good, worth a look, or bad, and what to do about it.

The limits are rules of thumb for PPO on language models; they colour a page and stop nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf.report.chart import has
from rlhf.report.words import Text

if TYPE_CHECKING:
    import pandas

GOOD, WATCH, BAD = "good", "watch", "bad"


@dataclass(frozen=True)
class Reading:
    """One quantity: its level, its value in words, and a remedy for when it is not good."""

    name: Text
    level: str
    value: Text
    remedy: Text


@dataclass(frozen=True)
class _Band:
    """A metric over the last quarter of a run: good up to `good`, bad from `bad`, either side of each other."""

    column: str
    name: Text
    good: float
    bad: float
    remedy: Text
    worst: bool = False

    def read(self, rows: pandas.DataFrame) -> Reading | None:
        if not has(rows, self.column):
            return None
        value = float(rows[self.column].max() if self.worst else last_quarter(rows[self.column]).mean())
        sign = 1 if self.bad > self.good else -1
        level = GOOD if sign * value <= sign * self.good else BAD if sign * value >= sign * self.bad else WATCH
        shown = f"{value:.3g}".replace("-", "−", 1) if value < 0 else f"{value:.3g}"
        return Reading(self.name, level, Text(shown, shown), self.remedy)


_BANDS = (
    _Band("sync/logprob_gap_max", Text("Sampler–learner gap, largest", "采样器与学习器最大差"), 1e-4, 0.2, Text(
        "Up to some hundredths is usual in bf16; in float32 a weight did not reach the engine, or the two compute "
        "different logits: check weight sync, temperature and padding.",
        "bf16 下百分之几属正常；float32 下说明有权重未同步或两边 logits 不同：检查权重同步、温度与填充。"), worst=True),
    _Band("policy/clipfrac", Text("Clip fraction", "裁剪比例"), 0.3, 0.5, Text(
        "Lower the policy's learning rate, or take fewer optimizer steps per rollout.",
        "降低策略学习率，或减少每批采样的优化步数。")),
    _Band("policy/approx_kl", Text("Approximate KL of an update", "单次更新近似 KL"), 0.03, 0.1, Text(
        "The update leaves the region in which its own data hold: lower the learning rate.",
        "更新超出数据可信范围：降低学习率。")),
    _Band("value/explained_variance", Text("Explained variance", "解释方差"), 0.2, 0.0, Text(
        "The critic does not foretell returns: raise its learning rate, warm it up, or check the reward's scale.",
        "价值网络无法预测回报：提高其学习率、先预热，或检查奖励尺度。")),
    _Band("policy/left_out", Text("Updates left out", "被跳过的更新"), 0, 1, Text(
        "Their loss or gradient was not finite: look at the batches in failures of the work directory.",
        "其损失或梯度非有限值：查看工作目录 failures 中保存的批次。"), worst=True),
    _Band("response/truncated_fraction", Text("Truncated responses", "被截断的回答"), 0.1, 0.5, Text(
        "Raise the length limit, or penalise responses without an end.", "提高长度上限，或惩罚未结束的回答。")),
)


def readings(rows: pandas.DataFrame) -> Sequence[Reading]:
    """Every reading for which the run logged numbers, over the last quarter of its steps."""
    if rows.empty:
        return ()
    checks: tuple[Callable[[pandas.DataFrame], Reading | None], ...] = (
        _hacking, _entropy, *(band.read for band in _BANDS))
    return [reading for check in checks if (reading := check(rows)) is not None]


def last_quarter(column: pandas.Series) -> pandas.Series:
    """The numbers of the last quarter of the steps, at least one."""
    column = column.dropna()
    return column.iloc[-max(1, len(column) // 4):]


def _hacking(rows: pandas.DataFrame) -> Reading | None:
    """Gold at the end against its best running mean, while the reward is higher than it was then."""
    if not (has(rows, "reward/gold") and has(rows, "reward/score")):
        return None
    span = max(1, len(rows) // 8)
    gold = rows["reward/gold"].rolling(span, min_periods=span).mean()
    reward = rows["reward/score"].rolling(span, min_periods=span).mean()
    best = gold.idxmax()
    fall, rise = float(gold[best] - gold.iloc[-1]), float(reward.iloc[-1] - reward[best])
    level = GOOD if fall < 3 or rise <= 0 else BAD if fall >= 10 else WATCH
    step = int(rows["step"][best])
    value = Text("gold {:.1f} below its best (step {}), reward {:+.2f} since",
                 "真实分比最高点（第 {1} 步）低 {0:.1f}，奖励此后 {2:+.2f}")
    return Reading(Text("Reward hacking", "奖励作弊"), level, value.format(max(fall, 0.0), step, rise), Text(
        "Stop near the best step, raise the KL coefficient, or train the reward model on responses of this policy.",
        "在最佳步附近停止、提高 KL 系数，或用当前策略的回答训练奖励模型。"))


def _entropy(rows: pandas.DataFrame) -> Reading | None:
    if not has(rows, "policy/entropy"):
        return None
    entropy = rows["policy/entropy"].dropna()
    first, last = float(entropy.iloc[: max(1, len(entropy) // 10)].mean()), float(last_quarter(entropy).mean())
    left = last / first if first > 0 else 0.0
    level = GOOD if left >= 0.2 else WATCH if left >= 0.05 else BAD
    value = Text("{:.3g} nats per token, {:.0%} of the start", "每词元 {:.3g} nats，为起始的 {:.0%}").format(last, left)
    return Reading(Text("Entropy", "策略熵"), level, value, Text(
        "The policy says the same thing every time: raise the KL coefficient or the temperature, or stop earlier.",
        "策略输出趋于单一：提高 KL 系数或温度，或更早停止。"))
