"""The fixed words of the page, by the name under which the template asks for them."""

from __future__ import annotations

from rlhf.report.words import Text

PAGE: dict[str, Text] = {
    "skip": Text("Skip to the content", "跳到正文"),
    "kicker": Text("Report of a training run", "训练运行报告"),
    "nav_overview": Text("Overview", "概览"),
    "nav_health": Text("Health", "健康"),
    "nav_ppo": Text("PPO", "PPO"),
    "nav_evaluation": Text("Evaluation", "评测"),
    "nav_transcripts": Text("Transcripts", "对话样本"),
    "nav_training": Text("Earlier stages", "前期阶段"),
    "nav_lineage": Text("Lineage", "来源"),
    "gold": Text("Gold score", "真实分"),
    "gold_scale": Text("0–100, held-out prompts, checker independent of the reward model",
                       "0–100，留出提示，检查器独立于奖励模型"),
    "comparison": Text("Before and after", "训练前后"),
    "times": Text("Where the time went", "时间去向"),
    "sft_over_base": Text("SFT − base", "SFT − 基础"),
    "ppo_over_sft": Text("PPO − SFT", "PPO − SFT"),
    "absent": Text("What this report does not show", "本报告未包含的内容"),
    "health": Text("Health of the PPO run", "PPO 运行健康状况"),
    "health_note": Text("Over the last quarter of the steps, by rules of thumb; what is not good says what to do.",
                        "基于最后四分之一步的经验判断；不佳项附有建议。"),
    "evaluation": Text("Evaluation", "评测"),
    "cells": Text("Gold score per family and language", "各类别与语言的真实分"),
    "family": Text("family", "类别"),
    "language": Text("language", "语言"),
    "prompts": Text("prompts", "提示数"),
    "transcripts": Text("Transcripts", "对话样本"),
    "transcripts_note": Text("The same prompt before and after, side by side. Keys: j next, k previous, / search; "
                             "arrow keys in the list.",
                             "同一提示训练前后的回答并列显示。按键：j 下一条，k 上一条，/ 搜索；列表中可用方向键。"),
    "training": Text("Stages before PPO", "PPO 之前的阶段"),
    "lineage": Text("Lineage", "来源"),
    "lineage_note": Text("What was made from what: SHA-256 fingerprints of artifacts and files, first 12 digits.",
                         "各产物的来源：产物与文件的 SHA-256 指纹，取前 12 位。"),
    "stage": Text("stage", "阶段"),
    "artifact": Text("artifact", "产物"),
    "made_from": Text("made from", "来自"),
    "wall": Text("wall time", "耗时"),
    "unfinished": Text("not finished", "未完成"),
    "outside": Text("from outside", "外部输入"),
    "versions": Text("Versions", "版本"),
    "config": Text("Resolved configs", "最终配置"),
}

LEVELS: dict[str, Text] = {
    "good": Text("good", "正常"), "watch": Text("worth a look", "留意"), "bad": Text("act on it", "需处理"),
}

SOURCES: dict[str, Text] = {
    "evaluate": Text("evaluation", "评测"),
    "greedy": Text("evaluation, greedy", "评测（贪心解码）"),
    "ppo": Text("PPO steps", "PPO 训练步"),
}
