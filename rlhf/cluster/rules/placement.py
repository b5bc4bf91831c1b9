"""What Kubernetes refuses of where a pod may run: tolerations, affinity, spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.rules.choice import EFFECTS, choice

_OF_LABELS = ("In", "NotIn", "Exists", "DoesNotExist")
_OF_NODES = (*_OF_LABELS, "Gt", "Lt")
_UNSATISFIABLE = ("DoNotSchedule", "ScheduleAnyway")
_REQUIRED, _PREFERRED = (f"{word}DuringSchedulingIgnoredDuringExecution" for word in ("required", "preferred"))


def placement_findings(pod: Cursor) -> Iterator[Finding]:
    """Every rule of a pod's place."""
    for toleration in pod["tolerations"]:
        yield from _toleration(toleration)
    for term in _node_terms(pod["affinity"]["nodeAffinity"]):
        for expressions in (term["matchExpressions"], term["matchFields"]):
            yield from expression_findings(expressions, _OF_NODES)
    for kind in ("podAffinity", "podAntiAffinity"):
        for term in _pod_terms(pod["affinity"][kind]):
            yield from _selectors(term)
            if not term["topologyKey"].text:
                yield term["topologyKey"].fault("required, but not given; name a node's label, kubernetes.io/hostname")
    for spread in pod["topologySpreadConstraints"]:
        yield from _spread(spread)


def expression_findings(expressions: Cursor, operators: Sequence[str] = _OF_LABELS) -> Iterator[Finding]:
    """The expressions of a selector: operators that exist, with values where they take some."""
    for expression in expressions:
        operator, values = expression["operator"], expression["values"]
        yield from choice(operator, operators)
        if operator.value in ("In", "NotIn") and not values:
            yield values.fault(f"operator {operator.value} needs values; give some, or use Exists")
        if operator.value in ("Exists", "DoesNotExist") and values:
            yield values.fault(f"operator {operator.value} takes no values; remove them, or use In")


def _toleration(toleration: Cursor) -> Iterator[Finding]:
    operator, effect, seconds = toleration["operator"], toleration["effect"], toleration["tolerationSeconds"]
    yield from choice(operator, ("Exists", "Equal", "Lt", "Gt"))
    yield from choice(effect, EFFECTS)
    if operator.value == "Exists" and toleration["value"]:
        yield toleration["value"].fault("operator Exists takes no value; remove it, or use Equal")
    if not toleration["key"] and operator.text != "Exists":
        yield toleration.fault("without a key the operator must be Exists; add a key, or use Exists")
    if seconds.given and effect.value != "NoExecute":
        here = effect.text or "none"
        yield seconds.fault(f"counts only with effect NoExecute (here: {here}); set that, or remove this")


def _node_terms(affinity: Cursor) -> Iterator[Cursor]:
    yield from affinity[_REQUIRED]["nodeSelectorTerms"]
    for weighted in affinity[_PREFERRED]:
        yield weighted["preference"]


def _pod_terms(affinity: Cursor) -> Iterator[Cursor]:
    yield from affinity[_REQUIRED]
    for weighted in affinity[_PREFERRED]:
        yield weighted["podAffinityTerm"]


def _selectors(term: Cursor) -> Iterator[Finding]:
    for name in ("labelSelector", "namespaceSelector"):
        yield from expression_findings(term[name]["matchExpressions"])


def _spread(spread: Cursor) -> Iterator[Finding]:
    yield from choice(spread["whenUnsatisfiable"], _UNSATISFIABLE)
    yield from _selectors(spread)
    skew = spread["maxSkew"]
    if skew.number is not None and skew.number < 1:
        yield skew.fault(f"{skew.number} is no skew; give 1 or more")
