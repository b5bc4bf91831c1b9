"""What counts as a secret, and that none gets into a config or a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.cli import main
from rlhf.errors import ConfigError
from rlhf.secrets import is_secret, named_like_a_secret, redacted, require_no_secrets, without_secrets

PLANTED = "planted-3f9c1a77"


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "WANDB_API_KEY", "OPENAI_APIKEY",
        "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MYSQL_PWD", "GOOGLE_APPLICATION_CREDENTIALS", "SSH_AUTH_SOCK",
        "SENTRY_DSN", "client_secret", "my-token", "GITHUB_PAT", "TOKENS", "KUBECONFIG", "DB_PASS", "SESSION_COOKIE",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert named_like_a_secret(name)


@pytest.mark.parametrize(
    "name", ["PATH", "PWD", "OLDPWD", "HOME", "TOKENIZERS_PARALLELISM", "PYTHONPATH", "PYTHONHASHSEED", "LANG",
             "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "XAUTHORITY", "KEYBOARD_LAYOUT", "PASSENGERS", "HF_HOME",
             "CUDA_VISIBLE_DEVICES"],
)
def test_names_of_others(name: str) -> None:
    assert not named_like_a_secret(name)


def test_what_a_guest_sees() -> None:
    secrets = {"A_TOKEN": "1", "B_KEY": "2", "AWS_REGION": "3", "URL": "https://u:p@h/"}
    variables = {**secrets, "PLAIN": "4", "JUDGE": "5", "X": ""}
    assert without_secrets(variables, ["JUDGE"], ["B_KEY"]) == {"B_KEY": "2", "PLAIN": "4", "X": ""}
    assert is_secret("PIP_INDEX_URL", "https://me:word@host/simple") and not is_secret("URL", "https://host/a@b")


def test_a_config_holds_no_value_of_a_secret(tmp_path: Path) -> None:
    variables = {"HF_TOKEN": PLANTED, "RAY_AUTH_MODE": "disabled", "SSH_KEY": str(tmp_path), "PLAIN": "something-long"}
    fine = {"a": "disabled", "b": [str(tmp_path), 1, None, {"c": "something-long"}]}
    require_no_secrets(fine, variables)
    for content, key in (
        ({"a": {"url": f"http://h/{PLANTED}"}}, "a.url"), ({"a": ["x", PLANTED]}, "a.1"), ({"a": {PLANTED: 1}}, "a"),
    ):
        with pytest.raises(ConfigError) as refused:
            require_no_secrets(content, variables)
        assert str(refused.value).startswith(f"{key}: holds the value of the environment variable HF_TOKEN, and")
        assert PLANTED not in str(refused.value)
    assert redacted(f"x={PLANTED}", variables) == "x=<HF_TOKEN>"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ppo", "configs/ppo.yaml", f"transcripts_every={PLANTED}"], ["ppo", "configs/ppo.yaml", f"seed.{PLANTED}=1"],
        ["sft", "configs/sft.yaml", f"model=/tmp/{PLANTED}/x"], [PLANTED], ["ppo", f"{PLANTED}.yaml"],
        ["run", "configs/pipeline.yaml", f"run_dir=/tmp/{PLANTED}"],
    ],
)
def test_the_command_refuses_and_does_not_repeat_it(arguments: list[str], monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_TOKEN", PLANTED)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    said = "".join(capsys.readouterr())
    assert ended.value.code == 2 and said.startswith("rlhf: ") and PLANTED not in said
    assert "HF_TOKEN" in said or "seed: " in said
