"""Which artifact was made from which: manifests joined by the fingerprints of their inputs."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.report.collect import Run, StageRun


@dataclass(frozen=True)
class Parent:
    """One input of a stage: its config key, and the stage and file that it is (None: from outside the run)."""

    key: str
    stage: str | None
    file: str | None
    fingerprint: str


@dataclass(frozen=True)
class Ancestry:
    """A stage's artifact (SHA-256 fingerprint, None while unpublished) and what it was made from."""

    stage: StageRun
    fingerprint: str | None
    parents: tuple[Parent, ...]


def lineage(run: Run) -> tuple[Ancestry, ...]:
    """Every stage of the run with its parents, in the order of the pipeline."""
    owners = _owners(run)
    return tuple(_ancestry(stage, owners) for stage in run.stages)


def _owners(run: Run) -> dict[str, tuple[str, str | None]]:
    """Fingerprint of an artifact, or SHA-256 of a file in one → (stage name, file).

    The same file in two artifacts (a tokenizer, say) belongs to the one that was made first.
    """
    owners: dict[str, tuple[str, str | None]] = {}
    for stage in run.stages:
        if stage.manifest:
            owners.setdefault(stage.manifest.fingerprint, (stage.name, None))
            for file, sha256 in stage.manifest.files.items():
                owners.setdefault(sha256, (stage.name, file))
    return owners


def _ancestry(stage: StageRun, owners: dict[str, tuple[str, str | None]]) -> Ancestry:
    if stage.manifest is None:
        return Ancestry(stage, None, ())
    parents = []
    for key, fingerprint in stage.manifest.inputs.items():
        owner, file = owners.get(fingerprint, (None, None))
        parents.append(Parent(key, owner, file, fingerprint))
    return Ancestry(stage, stage.manifest.fingerprint, tuple(parents))
