"""Sentences of the report in English and Chinese; the page shows one of the two."""

from __future__ import annotations

from typing import NamedTuple


class Text(NamedTuple):
    """The same words in English and in Chinese."""

    en: str
    zh: str

    def format(self, *parts: object) -> Text:
        """Fill `{}` in both languages with the same values."""
        return Text(self.en.format(*parts), self.zh.format(*parts))


MODELS = {
    "base": Text("base", "基础模型"),
    "sft": Text("SFT", "SFT"),
    "ppo": Text("PPO", "PPO"),
}
"""Names of the models that an evaluation compares, in the order of training."""

LANGUAGES = {"zh": Text("Chinese", "中文"), "en": Text("English", "英文")}

STAGES = {
    "data": Text("data", "数据"),
    "tokenizer": Text("tokenizer", "分词器"),
    "pretrain": Text("pretraining", "预训练"),
    "sft": Text("SFT", "监督微调"),
    "pairs": Text("preference pairs", "偏好对"),
    "reward": Text("reward model", "奖励模型"),
    "ppo": Text("PPO", "PPO"),
    "evaluate": Text("evaluation", "评测"),
}
"""The stages of a whole pipeline, in order."""

BROWSER: dict[str, Text] = {
    "all": Text("all", "全部"),
    "language": Text("Language", "语言"),
    "family": Text("Family", "任务类别"),
    "change": Text("Change", "变化"),
    "improved": Text("improved", "变好"),
    "worsened": Text("worsened", "变差"),
    "same": Text("unchanged", "不变"),
    "hacked": Text("reward up, gold down", "奖励升而真实分降"),
    "truncated": Text("cut at the limit", "达到长度上限"),
    "sort": Text("Sort by", "排序"),
    "order": Text("order of the data", "数据顺序"),
    "gain": Text("gain, largest first", "进步最大"),
    "loss": Text("loss, largest first", "退步最大"),
    "gold": Text("gold, lowest first", "真实分最低"),
    "score": Text("reward, highest first", "奖励最高"),
    "kl": Text("KL, highest first", "KL 最高"),
    "length": Text("longest first", "长度最长"),
    "step": Text("newest step first", "最近步数"),
    "search": Text("Search prompts and responses", "搜索提示与回答"),
    "prompt": Text("Prompt", "提示"),
    "of": Text("{0} of {1}", "第 {0} 条，共 {1} 条"),
    "page": Text("page {0} of {1}", "第 {0} 页，共 {1} 页"),
    "none": Text("Nothing matches these filters.", "没有符合筛选条件的记录。"),
    "reset": Text("Clear the filters", "清除筛选"),
    "previous": Text("Previous", "上一条"),
    "next": Text("Next", "下一条"),
    "previous_page": Text("Previous page", "上一页"),
    "next_page": Text("Next page", "下一页"),
    "prompts": Text("Prompts", "提示列表"),
    "empty": Text("(empty response)", "（空回答）"),
    "gold_name": Text("gold", "真实分"),
    "reward_name": Text("reward", "奖励"),
    "tokens": Text("tokens", "词元"),
    "at_step": Text("step {0}", "第 {0} 步"),
    "source": Text("Source", "来源"),
    "show_numbers": Text("numbers", "数据"),
}
"""Words that the page's script sets: options, counters, and labels."""
