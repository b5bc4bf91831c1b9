"""`rlhf cluster` with wrong input: one sentence each, exit code 2; and what it prints when all is well."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf.cli import main
from tests.cluster.manifests import IMAGE, IN_VOLUME, ROOT, SMALL_CLUSTER
from tests.limits import HANG_S


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def rlhf(*arguments: str) -> Done:
    """The command in this process: a new one takes a second to start."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["cluster", *arguments])
    return Done(ended.value.code or 0, out.getvalue(), err.getvalue())


def refusal(*arguments: str) -> list[str]:
    done = rlhf(*arguments)
    assert done.returncode == 2, done.stderr + done.stdout
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_valid_files_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(SMALL_CLUSTER)
    done = rlhf("validate", "cluster/rayjob.yaml", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["cluster/rayjob.yaml: 3 objects, valid", f"{file}: 1 object, valid"]


def test_every_fault_of_every_file_is_a_line(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SMALL_CLUSTER.replace("mode: token", "mode: tokn"))
    absent, broken, empty = (str(tmp_path / name) for name in ("absent.yaml", "broken.yaml", "empty.yaml"))
    Path(broken).write_text("a: 1\na: 2\n")
    Path(empty).write_text("# nothing\n---\n")
    done = rlhf("validate", absent, broken, empty, str(wrong), "cluster/kueue.yaml", str(tmp_path))
    assert done.returncode == 2
    assert done.stdout == "cluster/kueue.yaml: 4 objects, valid\n"
    assert [line for line in done.stderr.splitlines() if not line.startswith("advice: ")] == [
        f"{absent}: no such file; name a manifest (….yaml)",
        f"{broken}:2: not valid YAML: key 'a' stands twice; correct that line",
        f"{empty}: no object in it; a manifest has apiVersion, kind and metadata",
        f"{wrong}: document 1 RayCluster/small: spec.authOptions.mode: 'tokn' is none of disabled, token, "
        "did you mean 'token'?",
        f"{tmp_path}: not readable as a manifest ([Errno 21] Is a directory: '{tmp_path}'); name a YAML file",
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "not readable as a manifest ("),
        (b"just words", "document 1 is a str; an object is a mapping"),
        (b"- a\n- b", "document 1 is a list"),
        (b"kind: {a", ":1: not valid YAML: "),
        (b"metadata: {name: a}", "document 1 object/a: apiVersion: required, but not given; add it, as text"),
        (b"apiVersion: 1\nkind: [a]", "apiVersion: required, but not given; add it, as text"),
        (b"apiVersion: v1\nkind: 3", "kind: required"),
    ],
)
def test_files_that_are_no_manifests(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_bytes(content)
    (line,) = refusal("validate", str(file))
    assert line.startswith(str(file)) and words in line


def test_advice_is_no_fault_unless_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "open.yaml"
    file.write_text(SMALL_CLUSTER.replace("  authOptions: {mode: token}\n", "") + "    enableIngress: true\n")
    done = rlhf("validate", str(file))
    assert (done.returncode, done.stdout) == (0, f"{file}: 1 object, valid\n")
    assert [line.split(": ")[3] for line in done.stderr.splitlines()] == [
        "spec.headGroupSpec.enableIngress", "spec.authOptions.mode"
    ]
    assert all(line.startswith("advice: ") for line in done.stderr.splitlines())
    assert rlhf("validate", "--strict", str(file)).returncode == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("absent.yaml",), "rlhf: absent.yaml: no such config file"),
        (("configs/ppo.yaml", "--kind", "rayjop"), "rlhf: --kind: 'rayjop', did you mean 'rayjob'?"),
        (("configs/ppo.yaml", "--stage", "pp"), "rlhf: --stage: 'pp', did you mean 'ppo'?"),
        (("steps=1",), "rlhf: the config: which stage is it for? Say it: --stage sft"),
        (("configs/pipeline.yaml", "--name", "My_Run"), "rlhf: --name: 'My_Run' is no name of a RayJob: "),
        (("configs/pipeline.yaml", "--name", "n" * 48), "rlhf: --name: '"),
        (("configs/pipeline.yaml", "--namespace", "a.b"), "rlhf: --namespace: 'a.b' is no namespace"),
        (("configs/pipeline.yaml", "--storage", "A"), "rlhf: --storage: 'A' is no name of an object"),
        (("configs/pipeline.yaml", "--gpu", "H100"), "rlhf: --gpu: 'H100' is no GPU that is known here, did you mean"),
        (("configs/pipeline.yaml", "--gpu", "L4-24"), "rlhf: --gpu: is what a rayservice is sized for, and this is"),
        (("configs/pipeline.yaml", "--model", "Llama-9"), "rlhf: --model: the sizes of 'Llama-9' are not known here"),
        (("configs/pipeline.yaml", "--grace", "0"), "rlhf: Invalid value for '--grace'"),
        (("configs/pipeline.yaml", "--queue", "a b"), "rlhf: --queue: 'a b' is no name of a queue"),
        (("configs/pipeline.yaml", "--cpus-per-node", "2"), "rlhf: pairs: rollout needs 2 CPUs on one node, and a"),
        (("configs/pipeline.yaml", "stages.ppo.step=3"), "rlhf: stages.ppo.step: unknown key, did you mean 'steps'?"),
        (("configs/pipeline.yaml", "cluster.address=h:6379"), "rlhf: cluster.address: h:6379 is another cluster"),
        (("configs/demo_real.yaml", "sources.real=/data"), "rlhf: stages.data.source.text.0.files.0: /data/"),
        (("configs/ppo.yaml", *IN_VOLUME, "policy.resources.gpus=1", "--gpus-per-node", "0"), "rlhf: --gpus-per-node"),
        (
            ("configs/evaluate.yaml", "--stage", "evaluate", "--kind", "rayservice", "models.sft=/runs/m",
             "models.ppo=/runs/p", "reward=null", "prompts=/runs/p.jsonl", "texts=[/runs/t.jsonl]"),
            "rlhf: --kind rayservice: no stage of evaluate publishes a model to serve; add ppo",
        ),
    ],
)
def test_what_cannot_be_rendered_is_a_sentence(words: tuple[str, ...], sentence: str) -> None:
    assert refusal("render", *words, "--image", IMAGE)[0].startswith(sentence)


@pytest.mark.parametrize(
    ("mount", "problem"),
    [
        ("runs", "is no absolute path"), ("/runs/", "is no absolute path"), ("/a/../b", "is no absolute path"),
        ("//runs", "is no absolute path"),
        ("/config", "is what the pods use themselves"),
        ("/opt/rlhf", "is what the pods use themselves"),
        ("/home/rlhf", "is what the pods use themselves"),
        ("/tmp/ray", "lies inside /tmp, which the pods use themselves"),
        ("/config/x", "lies inside /config, which the pods use themselves"),
        ("/dev/shm", "lies inside /dev, which the pods use themselves"),
        ("/opt/rlhf/lib", "lies inside /opt/rlhf, which the pods use themselves"),
        ("/var/run/secrets", "lies inside /var, which the pods use themselves"),
        ("/", "would hide /opt/rlhf, which the pods use themselves"),
        ("/opt", "would hide /opt/rlhf, which the pods use themselves"),
        ("/home", "would hide /home/rlhf, which the pods use themselves"),
    ],
)
def test_a_volume_does_not_lie_where_pods_have_something(mount: str, problem: str) -> None:
    (line,) = refusal("render", "configs/pipeline.yaml", "--image", IMAGE, "--mount", mount)
    assert line == f"rlhf: --mount: '{mount}' {problem}; give a place of its own, like /runs"


@pytest.mark.parametrize("mount", ["/runs", "/run2", "/configs", "/mnt/shared", "/opt/data", "/home/data"])
def test_a_volume_lies_beside_what_pods_have(mount: str) -> None:
    assert rlhf("render", "configs/pipeline.yaml", "--image", IMAGE, "--mount", mount).returncode == 0


def test_a_config_that_does_not_tell_its_stage_is_asked_for_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("model: /runs/m\n")
    (line,) = refusal("render", str(file), "--image", IMAGE)
    assert line == f"rlhf: {file}: which stage is it for? Say it: --stage sft"


@pytest.mark.parametrize("image", ["", "rlhf", "rlhf:latest", "registry.example.com:5000/rlhf", "a b:1"])
def test_an_image_has_a_version(image: str) -> None:
    (line,) = refusal("render", "configs/pipeline.yaml", "--image", image)
    assert line.startswith(f"rlhf: --image: '{image}' ")


def test_every_input_that_pods_cannot_see_is_named_at_once() -> None:
    words = ("configs/ppo.yaml", "reward.model=qwen/reward", "critic.model=/other/critic", "--image", IMAGE)
    lines, remedy = refusal("render", *words), "copy it into the volume, and give /runs/…"
    assert lines[0] == f"rlhf: prompts: runs/mine/data/prompts_train.jsonl is relative; {remedy}"
    assert lines[2] == (
        f"rlhf: critic.model: /other/critic is not in the volume at /runs; {remedy} or a hub name (owner/name)"
    )
    assert len(lines) == 4


@pytest.mark.parametrize("file", ["sft_qwen2_0.5b_1gpu.yaml", "ppo_llama3_8b_8gpu_separate.yaml"])
def test_inputs_of_another_place_of_the_volume_ask_for_that_mount(file: str) -> None:
    """All of configs/gpu begins with /shared: that is said, beside the copy, and does it."""
    lines = refusal("render", f"configs/gpu/{file}", "--image", IMAGE)
    remedy = "give --mount /shared, or copy it into the volume, and give /runs/…"
    assert len(lines) > 1 and all(f" is not in the volume at /runs; {remedy}" in line for line in lines)
    assert rlhf("render", f"configs/gpu/{file}", "--image", IMAGE, "--mount", "/shared").returncode == 0


def test_what_a_pipeline_makes_itself_does_not_hide_the_mount() -> None:
    (line,) = refusal("render", "configs/demo_real.yaml", "sources.real=/shared/real", "--image", IMAGE)[:1]
    assert "; give --mount /shared, or copy it" in line


@pytest.mark.parametrize("word", ["train=[/home/a.jsonl]", "train=[/other/a.jsonl]", "train=[a.jsonl]"])
def test_a_mount_that_would_not_do_is_not_advised(word: str) -> None:
    words = ("configs/sft.yaml", "model=/home/m", word, "validation=[/home/v.jsonl]", "--image", IMAGE)
    assert not any("--mount" in line for line in refusal("render", *words))


def test_the_file_to_write_is_named_when_it_cannot_be(tmp_path: Path) -> None:
    target = tmp_path / "absent" / "job.yaml"
    (line,) = refusal("render", "configs/pipeline.yaml", "--image", IMAGE, "--out", str(target))
    assert line == f"rlhf: --out: {target}: not writable (No such file or directory); name another file"
    done = rlhf("render", "configs/pipeline.yaml", "--image", IMAGE, "--out", str(tmp_path / "job.yaml"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'job.yaml'}: written\n")
    assert rlhf("validate", "--strict", str(tmp_path / "job.yaml")).returncode == 0


@pytest.mark.parametrize("package", ["jsonschema", "kubernetes_validate"])
@pytest.mark.parametrize("words", [["validate", "x.yaml"], ["render", "configs/pipeline.yaml", "--image", IMAGE]])
def test_a_package_that_is_missing_is_named(package: str, words: list[str]) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; from rlhf.cli import main; main(['cluster', *sys.argv[1:]])"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=ROOT, text=True, capture_output=True, timeout=HANG_S, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"rlhf: manifests are checked with {package}, which is not installed; pip install 'rlhf[cluster]'\n"
    )


def test_the_group_alone_shows_its_commands() -> None:
    done = rlhf()
    assert all(f" {name} " in done.stdout + done.stderr for name in ("render", "validate", "drain"))
    assert "rlhf: " not in done.stderr
    assert rlhf("--help").returncode == 0
    assert refusal("rendr")[0].startswith("rlhf: No such command 'rendr'")
