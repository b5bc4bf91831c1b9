"""The direction of imports (docs of the architecture: base <- library <- stages <- cli; actors beside stages)."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
BASE = {
    "artifacts",
    "batch",
    "config",
    "context",
    "device",
    "errors",
    "interfaces",
    "metrics",
    "objectives",
    "progress",
    "sound",
    "stage",
}
# Engines that these modules alone import, and only when a function of theirs runs.
ENGINES = {
    "vllm": ("rlhf.sampling.vllm_engine",),
    "deepspeed": (
        "rlhf.training.deepspeed_engine", "rlhf.training.deepspeed_state", "rlhf.training.divided",
        "rlhf.training.operators", "rlhf.training.pickles", "rlhf.training.ranks",
    ),
}


@dataclass(frozen=True)
class Import:
    """`importer` (a module of ours) imports `imported` (a dotted name) at `line`."""

    importer: str
    imported: str
    line: int
    inside_function: bool
    only_for_types: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules(root: Path) -> dict[str, Path]:
    """Dotted name → file, for every module of the two packages."""
    found = {}
    for path in sorted([*root.glob("rlhf/**/*.py"), *root.glob("actors/**/*.py")]):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: set[str]) -> Iterator[Import]:
    """Every import of a module; `from a import b` names a.b when that is a module, else a."""

    def visit(node: ast.AST, inside: bool, types: bool) -> Iterator[Import]:
        for target in targets(node):
            yield Import(name, target, node.lineno, inside, types)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, types or is_type_checking(node))

    def targets(node: ast.AST) -> list[str]:
        if isinstance(node, ast.Import):
            return [alias.name for alias in node.names]
        if not isinstance(node, ast.ImportFrom):
            return []
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        source = ".".join(filter(None, [package if node.level else "", node.module]))
        named = (f"{source}.{alias.name}" for alias in node.names)
        return list(dict.fromkeys(each if each in known else source for each in named))

    return visit(ast.parse(path.read_text(encoding="utf-8")), False, False)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def layer(module: str) -> str:
    """base, library, stages, cli or actors; empty for what is not ours."""
    package, _, rest = module.partition(".")
    if package == "actors":
        return "actors"
    if package != "rlhf":
        return ""
    part = rest.partition(".")[0]
    if part in ("cli", "__main__"):
        return "cli"
    if part in ("stages", "pipeline", "cluster", "commands"):  # a pipeline in order, in pods, on the command line
        return "stages"
    return "base" if part in BASE or not part else "library"


MAY_IMPORT = {
    "base": {"base"},
    "library": {"base", "library"},
    "stages": {"base", "library", "stages"},
    "actors": {"base", "library", "actors"},
    "cli": {"base", "library", "stages", "actors", "cli"},
}


def violations(imports: list[Import]) -> list[str]:
    """What breaks a rule, a line each."""
    complaints = ((each, wrong_direction(each) or wrong_engine(each)) for each in imports)
    return [f"{each}: {complaint}" for each, complaint in complaints if complaint]


def wrong_direction(each: Import) -> str | None:
    importer, imported = layer(each.importer), layer(each.imported)
    if imported and imported not in MAY_IMPORT[importer]:
        return f"{importer} must not import {imported}"
    return None


def wrong_engine(each: Import) -> str | None:
    engine = each.imported.partition(".")[0]
    owners = ENGINES.get(engine, (each.importer,))
    if each.importer not in owners:
        return f"only {' and '.join(owners)} may"
    ray_outside_its_place = engine == "ray" and not each.importer.startswith(("actors", "rlhf.training"))
    lazy = each.inside_function or each.only_for_types
    if not lazy and (engine in ENGINES or ray_outside_its_place):
        return "inside a function only; the library loads without it"
    return None


def cycle(imports: list[Import]) -> list[str]:
    """A cycle of modules, imports for types aside; empty when there is none."""
    graph: dict[str, set[str]] = {}
    for each in imports:
        if layer(each.imported) and not each.only_for_types and each.importer != each.imported:
            graph.setdefault(each.importer, set()).add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def collect(root: Path) -> list[Import]:
    known = modules(root)
    return [each for name, path in known.items() for each in imports_of(name, path, set(known))]


def test_imports_go_one_way() -> None:
    assert violations(collect(ROOT)) == []


def test_there_is_no_cycle() -> None:
    assert cycle(collect(ROOT)) == []


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    origin = packages_distributions()
    used = {each.imported.partition(".")[0] for each in collect(ROOT) if not layer(each.imported)}
    foreign = used - sys.stdlib_module_names
    assert [name for name in sorted(foreign) if not declared & set(map(canonicalize_name, origin.get(name, [])))] == []


def test_a_helper_lives_with_its_noun() -> None:
    assert [name for name in modules(ROOT) if name.rpartition(".")[2] in ("utils", "util", "helpers", "common")] == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("rlhf/ppo/loop.py", "def f():\n    from actors import pool", "library must not import actors"),
        ("rlhf/config.py", "from rlhf.data import readers", "base must not import library"),
        ("rlhf/data/readers.py", "from ..stages import base", "library must not import stages"),
        ("actors/pool.py", "import rlhf.cli", "actors must not import cli"),
        ("rlhf/stages/ppo.py", "from actors.ppo_job import run", "stages must not import actors"),
        ("actors/rollout.py", "def f():\n    import vllm", "only rlhf.sampling.vllm_engine may"),
        ("rlhf/sampling/vllm_engine.py", "from vllm import LLM", "inside a function only"),
        ("rlhf/evaluation/perplexity.py", "import ray", "inside a function only"),
        ("rlhf/cli.py", "from actors import pool\nfrom rlhf.stages import base", None),
        ("rlhf/sampling/vllm_engine.py", "def f():\n    from vllm import LLM", None),
        ("rlhf/training/ray_train.py", "import ray", None),
    ],
)
def test_the_rules_see_what_breaks_them(tmp_path: Path, file: str, source: str, complaint: str | None) -> None:
    path = tmp_path / file
    for package in [tmp_path / "rlhf" / "stages", tmp_path / "rlhf" / "data", tmp_path / "actors", path.parent]:
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").touch()
    path.write_text(source)
    found = violations(collect(tmp_path))
    assert len(found) == (complaint is not None)
    assert complaint is None or complaint in found[0]


def test_a_cycle_is_seen_unless_it_is_for_types_only(tmp_path: Path) -> None:
    (tmp_path / "rlhf").mkdir()
    (tmp_path / "rlhf" / "one.py").write_text("from rlhf import two")
    (tmp_path / "rlhf" / "two.py").write_text("def f():\n    import rlhf.one")
    assert set(cycle(collect(tmp_path))) == {"rlhf.one", "rlhf.two"}
    for_types = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rlhf.one"
    (tmp_path / "rlhf" / "two.py").write_text(for_types)
    assert cycle(collect(tmp_path)) == []
