"""What each method costs: parameters, step time, memory, file size and evaluation time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from toplora_train.report.methods import Method
from toplora_train.report.runs import Run

STEADY = 1.3  # the largest ratio of equal runs' step times on an otherwise idle machine


def method_costs(methods: Sequence[Method], reference: Method) -> dict[str, dict[str, Any]]:
    """The costs by method name; what the run folders do not say is None.

    ``step_seconds`` is the median time of a step (the median over the runs), ``relative_step`` its
    ratio to the reference's, None if there is no other method or the runs were on different
    machines. ``peak_memory_bytes`` is
    the largest of the runs (on a CPU that of the whole process), ``evaluation_seconds`` the mean
    time to answer the test rows, ``forgetting`` the mean change of the loss on general text in nats
    per token, None unless all runs have the same text.
    """
    seconds = {method.name: _median(run.step_seconds for run in method.each) for method in methods}
    comparable = len(methods) > 1 and len(machines(methods)) == 1
    base = seconds[reference.name] if comparable else None
    return {
        method.name: {
            "trainable_parameters": method.runs[0].report["adapter"]["trainable_parameters"],
            "seconds": fmean(run.report["train"]["seconds"] for run in method.runs),
            "step_seconds": step,
            "relative_step": step / base if step and base else None,
            "peak_memory_bytes": max(
                run.report["train"]["peak_memory_bytes"] for run in method.each
            ),
            "adapter_bytes": _median(run.adapter_bytes for run in method.each),
            "evaluation_seconds": fmean(
                sum(task["seconds"] for task in run.report["tasks"].values()) for run in method.runs
            ),
            "forgetting": _forgetting(methods, method),
        }
        for method, step in ((method, seconds[method.name]) for method in methods)
    }


def machines(methods: Sequence[Method]) -> list[str]:
    """The distinct machines and devices that the runs were trained on, in words."""
    found = dict.fromkeys(_machine(run) for method in methods for run in method.each)
    return list(found)


def step_time_warning(methods: Sequence[Method]) -> str | None:
    """Say why there are no relative step times, or that they are rough."""
    if len(methods) < 2:
        return None
    found = machines(methods)
    if len(found) > 1:
        return (
            f"The runs were trained on different machines ({'; '.join(found)}), so their step "
            "times are not compared; train all methods on one."
        )
    times: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for method in methods:
        for run in method.each:
            if run.step_seconds:  # rows of another task have another length
                times.setdefault((method.name, run.head_of), []).append(run.step_seconds)
    spread = {key: max(own) / min(own) for key, own in times.items()}
    widest = max(spread, key=spread.__getitem__, default=None)
    if widest is None or spread[widest] < STEADY:
        return None
    return (
        f"Relative step times are rough: those of {widest[0]}'s own runs differ by a factor of "
        f"{spread[widest]:.1f}. Something else ran on the machine."
    )


def mark_front(methods: Sequence[Mapping[str, Any]], cost: str) -> list[bool]:
    """Which methods are on the Pareto front: no other one is both as good and as cheap.

    Args:
        methods: Methods with ``average`` and ``cost``; those without one are never on the front.
        cost: The key of the cost.
    """
    points = [
        (method["average"], -method[cost])
        if method["average"] is not None and method[cost] is not None
        else None
        for method in methods
    ]
    return [
        point is not None
        and not any(
            other is not None and other != point and other[0] >= point[0] and other[1] >= point[1]
            for other in points
        )
        for point in points
    ]


def _machine(run: Run) -> str:
    where, processes = run.report["environment"], run.report["train"]["world_size"]
    words = [where.get("device"), where.get("platform"), f"{where.get('cpu_count')} CPU cores"]
    return ", ".join([*map(str, words), f"{processes} process{'es' if processes > 1 else ''}"])


def _forgetting(methods: Sequence[Method], method: Method) -> float | None:
    texts = [run.report.get("forgetting") or {} for one in methods for run in one.each]
    if len({text.get("sha256") for text in texts}) > 1 or not texts[0]:
        return None
    return fmean(run.report["forgetting"]["difference"] for run in method.each)


def _median(values: Any) -> float | None:
    found = [value for value in values if value is not None]
    return median(found) if found else None
