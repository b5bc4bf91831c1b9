"""Rules of what is deleted when a RayJob has ended, and when."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from rlhf.cluster.findings import Cursor, Finding

_ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")  # later ones delete more
_OF_CLUSTER = ("DeleteCluster", "DeleteWorkers")
_CONDITIONS = ("jobStatus", "jobDeploymentStatus")


def deletion_findings(job: Cursor) -> Iterator[Finding]:
    """Every rule of deletion of a RayJob's spec."""
    shutdown, ttl = job["shutdownAfterJobFinishes"].value is True, job["ttlSecondsAfterFinished"]
    if ttl.number is not None and ttl.number < 0:
        yield ttl.fault(f"{ttl.number} is negative; give seconds, 0 or more")
    elif ttl and not shutdown:
        yield ttl.fault("counts only with shutdownAfterJobFinishes: true; set that, or remove this")
    strategy = job["deletionStrategy"]
    if not strategy.given:
        return
    rules, old = strategy["deletionRules"], [strategy[name] for name in ("onSuccess", "onFailure")]
    is_old = any(policy.given for policy in old)
    if rules and shutdown:
        yield job["shutdownAfterJobFinishes"].fault("deletionRules say what is deleted; keep one of the two")
    if rules and is_old:
        yield strategy.fault("deletionRules and onSuccess/onFailure exclude each other; keep deletionRules")
    elif rules:
        yield from _rules(job, rules)
    elif is_old:
        yield from _policies(job, old)
    else:
        yield strategy.fault("says nothing; give deletionRules, or both onSuccess and onFailure")


def _policies(job: Cursor, policies: list[Cursor]) -> Iterator[Finding]:
    """The older form: one policy of success, one of failure."""
    for each in policies:
        policy = each["policy"]
        if not policy.given:
            yield policy.fault("required, but not given: onSuccess and onFailure go together; add it")
        yield from _allowed(job, policy)
        if policy.value == "DeleteNone" and job["shutdownAfterJobFinishes"].value is True:
            yield policy.fault("shutdownAfterJobFinishes is true, and this deletes nothing; change one of the two")


def _allowed(job: Cursor, policy: Cursor) -> Iterator[Finding]:
    if job["clusterSelector"] and policy.value in _OF_CLUSTER:
        yield policy.fault(f"{policy.value} deletes a cluster that the job did not make; take DeleteSelf or DeleteNone")
    elif job.at("rayClusterSpec", "enableInTreeAutoscaling").value is True and policy.value == "DeleteWorkers":
        yield policy.fault("DeleteWorkers does not go with autoscaling; take DeleteCluster")


def _rules(job: Cursor, rules: Cursor) -> Iterator[Finding]:
    delays: dict[tuple[str, str], dict[str, Cursor]] = {}  # condition → policy → the rule's time
    for rule in rules:
        condition, policy = rule["condition"], rule["policy"]
        given = [name for name in _CONDITIONS if condition[name].given]
        if len(given) != 1:
            yield condition.fault(f"has {len(given)} conditions; give one of {' and '.join(_CONDITIONS)}")
            continue
        yield from _allowed(job, policy)
        known = delays.setdefault((given[0], condition[given[0]].text), {})
        if policy.text in known:
            yield rule.fault(f"a second rule for {policy.text} on {given[0]} {condition[given[0]].text}; keep one")
        else:
            known[policy.text] = condition["ttlSeconds"]
    for known in delays.values():
        yield from _order(known)


def _order(delays: dict[str, Cursor]) -> Iterator[Finding]:
    """What deletes more must not come before what deletes less."""
    found = [(name, delays[name]) for name in _ORDER if name in delays]
    for (less, early), (more, late) in pairwise(found):
        if (late.number or 0) < (early.number or 0):
            yield late.fault(f"{late.number or 0} s until {more} is less than {early.number} s until {less}; raise it")
