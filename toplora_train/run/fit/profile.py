"""``trainer.profile=true``: where the time of a training step goes, and what its floor is.

torch's profiler observes a few steps after the first ones. ``profile/trace.json.gz`` opens in
Perfetto or ``chrome://tracing``; ``profile/summary.md`` has the page of numbers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from toplora_train.models.work import product_speed, training_flops
from toplora_train.train.processes import Collate

FOLDER = "profile"
WARM_UP, STEPS = 2, 5  # the first steps allocate memory and choose kernels
TOP = 15
COLLATE = "collate"
PARTS = {
    "frozen": "frozen layers' products",
    "adapter": "adapter",
    "attention": "attention",
    "loss": "loss",
    "optimizer": "optimizer and gradient norm",
    "data": "collating batches",
    "other": "other operations (norms, activations, rotary positions, ...)",
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
_SCOPES = {  # by a part of the name of an operation or of one that it is in; the first one counts
    "optimizer": ("Optimizer.", "aten::_foreach_"),
    "data": (COLLATE,),
    "attention": ("scaled_dot_product", "ScaledDotProduct", "flash_attn"),
    "loss": (
        "TokenLoss",
        "cross_entropy",
        "nll_loss",
        "NllLoss",
        "log_softmax",
        "LogSoftmax",
        "mse_loss",
    ),
    "frozen": ("bitsandbytes",),
    "adapter": ("_FusedLinear", "_RowGain"),
}


class StepProfiler:
    """Profiles the steps after the warm-up; call it after every step.

    Args:
        folder: The folder of the two files.
        model: The model in training.
        device: The training device.
        first: The first step of the run.
        total: Its last one.
        say: Called with a line that names the files.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        device: torch.device,
        *,
        first: int,
        total: int,
        say: Callable[[str], None],
    ) -> None:
        self._folder, self._model, self._device, self._say = folder, model, device, say
        self._first = min(first + WARM_UP, total)
        self._last = min(self._first + STEPS - 1, total)
        self._lengths: list[int] = []
        self._supervised = 0
        self._validated = False
        self._profiler: profile | None = None
        if self._first == first:
            self._start()

    def collating(self, collate: Collate) -> Collate:
        """``collate``, timed, which also counts the tokens that the profiled steps train on."""

        def counted(rows: Sequence[Any]) -> Any:
            if self._profiler is None:
                return collate(rows)
            if not self._model.training:
                self._validated = True
                return collate(rows)
            self._lengths += [len(row.input_ids) for row in rows]
            self._supervised += sum(row.supervised for row in rows)
            with record_function(COLLATE):
                return collate(rows)

        return counted

    def after(self, step: int) -> None:
        """Start or stop after this step."""
        if step == self._first - 1:
            self._start()
        elif step == self._last:
            self._stop()

    def close(self) -> None:
        """Stop before the last profiled step, without files: the run ended."""
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._wait()
        self._profiler = profile(activities=activities, record_shapes=True)
        self._profiler.start()
        self._began = time.perf_counter()

    def _stop(self) -> None:
        assert self._profiler is not None
        self._wait()
        seconds = time.perf_counter() - self._began
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        self._folder.mkdir(exist_ok=True)
        profiler.export_chrome_trace(str(self._folder / "trace.json.gz"))
        events: Any = profiler.events()  # type: ignore[no-untyped-call]  # untyped in its package
        text = self._summary(list(events or ()), seconds)
        (self._folder / "summary.md").write_text(text, encoding="utf-8")
        self._say(f"profile of steps {self._first} to {self._last}: {self._folder / 'summary.md'}")

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _summary(self, events: Sequence[Any], seconds: float) -> str:
        steps = self._last - self._first + 1
        on_gpu = self._device.type == "cuda"
        frozen = {
            tuple(sorted(p.shape))
            for p in self._model.parameters()
            if p.ndim == 2 and not p.requires_grad
        }
        parts: Counter[str] = Counter()
        operations: Counter[str] = Counter()
        for event in events:
            # Microseconds of an operation without those inside it; on a GPU, of its kernels.
            own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            if event.device_type.name == "CPU" and own > 0:
                parts[part_of(event, frozen)] += own
                operations[event.name] += own
        count = sum(
            event.device_type.name == "CUDA"
            if on_gpu
            else event.name.startswith("aten::") and event.self_cpu_time_total > 0
            for event in events
        )
        step = seconds / steps
        floor, peak, dtype = self._floor(steps)
        rest = seconds - sum(parts.values()) / 1e6
        lines = [
            f"# Steps {self._first} to {self._last}",
            "",
            f"A step takes {step * 1e3:,.1f} ms under the profiler, which makes it slower, and "
            f"{count / steps:,.0f} {'kernels and copies' if on_gpu else 'operations'} "
            f"on {self._device.type}."
            + self._validated
            * " This includes the validation between them.",
            "",
            f"The floor is {floor * 1e3:,.1f} ms, **{floor / step:.0%}** of that: the products "
            "that a step must compute (four FLOPs per frozen weight and token, attention, logits "
            f"at supervised positions; no padding) at {peak / 1e9:,.0f} GFLOP/s, the most that a "
            f"large {dtype} product reached in this process afterwards.",
            "",
            "| part | ms per step | of the time |",
            "| --- | --- | --- |",
        ]
        shown = [*((PARTS[name], parts[name] / 1e6) for name in PARTS)]
        shown.append(("the device waits for the host" if on_gpu else "Python, and logging", rest))
        lines += [
            f"| {name} | {1e3 * part / steps:,.2f} | {part / seconds:.1%} |" for name, part in shown
        ]
        lines += ["", f"The {TOP} operations that take the most time by themselves:", ""]
        lines += ["| operation | ms per step | of the time |", "| --- | --- | --- |"]
        lines += [
            f"| `{name}` | {own / 1e3 / steps:,.2f} | {own / 1e6 / seconds:.1%} |"
            for name, own in operations.most_common(TOP)
        ]
        return "\n".join(lines) + "\n"

    def _floor(self, steps: int) -> tuple[float, float, str]:
        """The seconds that a step must take, the measured FLOP/s, and the dtype."""
        model: Any = self._model
        config, head = model.config.get_text_config(), model.get_output_embeddings()
        layers: list[Any] = list(model.modules())
        body = sum(
            module.in_features * module.out_features  # a quantised weight is packed
            if isinstance(module, nn.Linear)
            else module.weight.numel()
            for module in layers
            if isinstance(getattr(module, "weight", None), nn.Parameter)
            and module.weight.ndim == 2
            and not module.weight.requires_grad
            and not isinstance(module, nn.Embedding)
            and module is not head
        )
        flops = training_flops(
            self._lengths,
            supervised=self._supervised if head is not None else 0,
            body=body,
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            vocabulary=getattr(config, "vocab_size", 0),
            activation_checkpointing=False,  # recomputing is no must
        )
        dtype = next(
            p.dtype for p in model.parameters() if p.is_floating_point() and not p.requires_grad
        )
        measure = partial(product_speed, self._device, dtype)
        if self._device.type == "cuda":
            peak = max(measure(tokens=8192, hidden=4096) for _ in range(3))
        else:
            peak = max(measure(tokens=512, hidden=512) for _ in range(5))
        return flops / steps / peak, peak, str(dtype).removeprefix("torch.")


def part_of(event: Any, frozen: set[tuple[int, ...]]) -> str:
    """The part of :data:`PARTS` that a profiled operation belongs to.

    Args:
        event: An event of torch's profiler, with input shapes.
        frozen: The sorted shapes of the frozen matrices.
    """
    if event.name in PRODUCTS:
        shapes = [tuple(sorted(shape[-2:])) for shape in event.input_shapes if len(shape) == 2]
        if any(shape in frozen for shape in shapes):
            return "frozen"
    names, scope = [], event
    while scope is not None:
        names.append(scope.name)
        scope = scope.cpu_parent
    for part, marks in _SCOPES.items():
        if any(mark in name for mark in marks for name in names):
            return part
    if event.name in PRODUCTS:
        return "attention" if event.name in ("aten::bmm", "aten::baddbmm") else "adapter"
    return "other"


@contextmanager
def profiling(profiler: StepProfiler | None) -> Iterator[Callable[[int], None]]:
    """Yields what to call after every step; does nothing without a profiler."""
    try:
        yield profiler.after if profiler is not None else lambda _step: None
    finally:
        if profiler is not None:
            profiler.close()
