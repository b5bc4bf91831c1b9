"""A plan as aligned text, one conclusion first, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.plan.assumptions import USUAL
from rlhf.plan.hardware import GIB
from rlhf.plan.layouts import Layout
from rlhf.plan.memory import PARTS, Memory
from rlhf.plan.places import USABLE, Device
from rlhf.plan.plans import StagePlan

_HEADINGS = ("weights", "grads", "optim", "gather", "activ", "KV", "buffer", "heap", "runtime", "peak")


def conclusion(plan: StagePlan, remedy: str | None) -> str:
    """Fits or does not, and the first thing to change."""
    cluster = plan.fit.cluster
    if plan.fit.fits:
        return f"{plan.stage}: fits on {cluster}{_fullest(plan)}{_pace(plan)}."
    change = f" First thing to change: {remedy}." if remedy else ""
    return f"{plan.stage}: does not fit on {cluster}: {plan.fit.problems[0]}.{change}"


def _fullest(plan: StagePlan) -> str:
    gpu = plan.fit.cluster.gpu
    if gpu is not None and plan.fit.devices:
        device = max(plan.fit.devices, key=lambda each: each.peak)
        states = plan.fit.offloaded
        node = f", and a node {states / GIB:.0f} GiB of its own memory for offloaded states" if states else ""
        of = f"{device.peak / GIB:.1f} of {gpu.memory * USABLE / GIB:.1f} GiB"
        return f"; the fullest GPU ({device.name}) needs {of}{node}"
    total = sum(each.memory.peak for each in plan.fit.on_hosts)
    return f"; its processes need {total / GIB:.1f} GiB of memory" if plan.fit.on_hosts else ""


def _pace(plan: StagePlan) -> str:
    if plan.iteration is None:
        return ""
    expected, limit = (_seconds(plan.iteration.total(kind)) for kind in ("expected", "limit"))
    return f", a step takes about {expected} (limit {limit})"


def text(
    plan: StagePlan, remedy: str | None = None, faster: Layout | None = None, best: Sequence[Layout] | None = None
) -> Iterator[str]:
    """Every line of a stage's plan; `faster`: a layout that is better than its own; `best`: those that were asked
    for."""
    yield conclusion(plan, remedy)
    if faster is not None:
        yield (
            f"The best layout found: {faster.change.words}; a step takes about {_seconds(faster.seconds)} "
            f"(--layouts lists more)."
        )
    yield ""
    yield from memory_table(plan)
    for line in [*plan.fit.problems[1:], *plan.fit.warnings]:
        yield f"  note: {line}"
    if plan.iteration is not None:
        yield ""
        yield from time_table(plan)
    if best is not None:
        yield ""
        yield from layout_table(best)


def memory_table(plan: StagePlan) -> Iterator[str]:
    """Every role's process, and the GPU that it is on."""
    unit = _unit(plan)
    yield f"  {f'{unit.name} of one process':34}" + "".join(f"{heading:>8}" for heading in _HEADINGS)
    for device in plan.fit.devices:
        yield f"  {_device_line(device, plan.lengths is not None)}"
        for held in device.holdings:
            yield f"    {held.demand.role:32}{unit.cells(held.memory)}"
            if held.memory.host:
                yield f"      and {held.memory.host / GIB:.1f} GiB of its node's memory"
    for role, held in {held.demand.role: held for held in plan.fit.on_hosts}.items():
        yield f"    {f'{role} ({held.demand.resources.ranks} on CPUs)':32}{unit.cells(held.memory)}"


def _device_line(device: Device, samples: bool) -> str:
    each = f"GPU, {device.count} of them" if device.count > 1 else "GPU"
    sets = f", {device.times} of each" if device.times > 1 else ""
    sampling = f" while it trains, {device.sampling / GIB:.1f} while engines sample" if samples else ""
    return f"{each}{sets}: {device.training / GIB:.1f} GiB{sampling}"


@dataclass(frozen=True)
class Unit:
    """How bytes are shown."""

    name: str
    bytes: float

    def cells(self, memory: Memory) -> str:
        numbers = [getattr(memory, part) / self.bytes for part in PARTS]
        shown = [*numbers, memory.peak / self.bytes]
        return "".join(f"{number:8.1f}" if number >= 0.05 else f"{'-':>8}" for number in shown)


def _unit(plan: StagePlan) -> Unit:
    """MiB where every process is small."""
    held = [*(each for device in plan.fit.devices for each in device.holdings), *plan.fit.on_hosts]
    return Unit("GiB", GIB) if any(each.memory.peak > 4 * GIB for each in held) else Unit("MiB", GIB / 1024)


def time_table(plan: StagePlan) -> Iterator[str]:
    """Seconds by phase, and what they rest on."""
    assert plan.iteration is not None
    yield f"  {'seconds of a step':20}{'limit':>10}{'attainable':>12}{'expected':>10}"
    for phase in plan.iteration.phases:
        numbers = f"{phase.limit:10.2f}{phase.attainable:12.2f}{phase.expected:10.2f}"
        yield f"    {phase.name:18}{numbers}  {phase.note}".rstrip()
    totals = [plan.iteration.total(kind) for kind in ("limit", "attainable", "expected")]
    together = "rollouts beside the rest" if plan.iteration.overlapped else "one after the other"
    yield f"    {'step':18}{totals[0]:10.2f}{totals[1]:12.2f}{totals[2]:10.2f}  {together}"
    rows = f"{plan.lengths.prompt} + {plan.lengths.response} tokens" if plan.lengths is not None else "full length"
    yield from (f"  {line}" for line in (f"Rows of {rows}.", *USUAL.lines()))


def layout_table(best: Sequence[Layout]) -> Iterator[str]:
    """Layouts that fit, the fastest first; or that none was found."""
    if not best:
        yield "  layouts that fit: none of those that were tried"
        return
    yield f"  {'layouts that fit':92}{'fullest GPU':>12}{'step, s':>9}"
    for layout in best:
        yield f"    {layout.change.words:90}{layout.plan.fit.fullest / GIB:10.1f} G{layout.seconds:9.1f}"


def as_json(
    plan: StagePlan, remedy: str | None = None, faster: Layout | None = None, best: Sequence[Layout] | None = None
) -> dict[str, Any]:
    """The same as plain data; bytes and seconds."""
    return {
        "stage": plan.stage, "conclusion": conclusion(plan, remedy), "fits": plan.fit.fits, "remedy": remedy,
        "problems": list(plan.fit.problems), "warnings": list(plan.fit.warnings),
        "gpus": [
            {
                "roles": [held.demand.role for held in device.holdings], "count": device.count,
                "training": device.training, "sampling": device.sampling,
            }
            for device in plan.fit.devices
        ],
        "offloaded": plan.fit.offloaded,
        "roles": {
            held.demand.role: {part: getattr(held.memory, part) for part in (*PARTS, "host")}
            for held in [*(h for device in plan.fit.devices for h in device.holdings), *plan.fit.on_hosts]
        },
        "phases": [vars(phase) for phase in plan.iteration.phases] if plan.iteration else [],
        "faster": _as_json(faster) if faster is not None else None,
        "layouts": [_as_json(layout) for layout in best or ()],
    }


def _as_json(layout: Layout) -> dict[str, Any]:
    return {"layout": layout.change.words, "seconds": layout.seconds}


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"
