"""Studies of several phases, ``study=NAME``: their jobs, and what a phase takes from the last.

A method is a combination of the values that the command lists, the overrides of which each job of
the method starts with; ``kind`` in ``conf/study/NAME.yaml`` is one of :data:`KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any, ClassVar, Protocol

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from toplora_train.config.errors import UserError
from toplora_train.config.schema import STRICT, PositiveFloat, Seed
from toplora_train.report.jobs import TUNING
from toplora_train.report.numbers import counted, rate

Method = tuple[str, ...]
Seeds = Annotated[list[Seed], Field(min_length=1)]
SIZES = ("adapter.budget", "adapter.r", "adapter.ranks")


@plain_dataclass(frozen=True)
class Part:
    """How many jobs a method has in a phase."""

    phase: str
    method: Method
    jobs: int


Launch = Callable[[Sequence[Method], str], list[Mapping[str, Any]]]
"""Runs jobs, in a folder of the study or (``""``) in the study itself.

Returns their reports, empty for those that failed."""


class Design(Protocol):
    """A study: its own settings, and how its phases follow from them.

    Attributes:
        chosen: The keys that the study sets itself, and where its user sets them.
    """

    chosen: ClassVar[Mapping[str, str]]

    @property
    def name(self) -> str:
        """The option's name."""

    def methods(self, listed: Sequence[Method]) -> list[Method]:
        """The methods of the study, given those that the command lists.

        Raises:
            UserError: They, or the settings, leave nothing to study.
        """

    def outline(self, methods: Sequence[Method]) -> list[Part]:
        """The phases, in order."""

    def run(self, methods: Sequence[Method], launch: Launch) -> None:
        """Run the phases."""


@dataclass(frozen=True, config=STRICT)
class LearningRates:
    """``learning_rates``: every method at its own best learning rate, chosen on held-out rows.

    Attributes:
        name: The option's name.
        kind: ``learning_rates``.
        rates: The learning rates that every method is tried at.
        tuning_seeds: The seeds of each trial; the rate with the best mean is chosen.
        seeds: The seeds of the runs at the chosen rate, which are compared.
    """

    name: str
    kind: str
    rates: list[PositiveFloat]
    tuning_seeds: Seeds
    seeds: Seeds
    chosen: ClassVar[Mapping[str, str]] = {
        "optimizer.lr": "study.rates",
        "seed": "study.tuning_seeds and study.seeds",
        "evaluation.enabled": "nothing: the choice must not see the test set",
    }

    def methods(self, listed: Sequence[Method]) -> list[Method]:
        """See :class:`Design`."""
        if len(set(self.rates)) < 2:
            raise UserError(
                f"study.rates={self.rates} leaves no rate to choose; give several, such as "
                "study.rates=[1e-4,3e-4,1e-3]"
            )
        both = sorted({*self.tuning_seeds} & {*self.seeds})
        if both:
            raise UserError(
                f"study.seeds and study.tuning_seeds both have {both[0]}; the runs that are "
                "compared need seeds by which nothing was chosen"
            )
        return list(listed)

    def outline(self, methods: Sequence[Method]) -> list[Part]:
        """See :class:`Design`."""
        trials = len(set(self.rates)) * len(set(self.tuning_seeds))
        return [
            *(Part("tuning", method, trials) for method in methods),
            *(Part("final", method, len(set(self.seeds))) for method in methods),
        ]

    def run(self, methods: Sequence[Method], launch: Launch) -> None:
        """See :class:`Design`."""
        # Imported here: numpy only for those who need it.
        from toplora_train.report.held_out import held_out
        from toplora_train.report.rates import rate_curve

        rates, seeds = sorted(set(self.rates)), sorted(set(self.tuning_seeds))
        trials = [
            (*method, f"optimizer.lr={one!r}", f"seed={seed}", "evaluation.enabled=false")
            for method in methods
            for one in rates
            for seed in seeds
        ]
        results = map(held_out, launch(trials, f"{TUNING}/"))
        final: list[Method] = []
        for method, name in zip(methods, names(methods), strict=True):
            curve = rate_curve({one: [next(results) for _ in seeds] for one in rates})
            if curve is None:
                say(f"{name}: all its tuning jobs failed; the study goes on without it")
                continue
            near = ", ".join(map(rate, curve["near"]))
            say(
                f"{name}: optimizer.lr={rate(curve['best'])} is the best of {len(rates)} "
                f"on the held-out rows{f'; within one standard error: {near}' if near else ''}"
            )
            final += with_seeds((*method, f"optimizer.lr={curve['best']!r}"), self.seeds)
        if final:
            launch(final, "")


@dataclass(frozen=True, config=STRICT)
class Budget:
    """``budget``: every method with as many trainable parameters as the first.

    Attributes:
        name: The option's name.
        kind: ``budget``.
        seeds: The seeds of each method.
    """

    name: str
    kind: str
    seeds: Seeds
    chosen: ClassVar[Mapping[str, str]] = {
        "adapter.budget": "adapter.r of the first adapter",
        "seed": "study.seeds",
    }

    def methods(self, listed: Sequence[Method]) -> list[Method]:
        """See :class:`Design`."""
        _validate_several(self.name, listed)
        sizes = {word for method in listed for word in method if _key(word) in SIZES}
        if any(not sizes <= set(method) for method in listed):
            raise UserError(
                f"study={self.name} has one size, that of the first adapter; give one adapter.r"
            )
        return list(listed)

    def outline(self, methods: Sequence[Method]) -> list[Part]:
        """See :class:`Design`."""
        phases = ["first", *["at its size"] * (len(methods) - 1)]
        jobs = len(set(self.seeds))
        return [Part(phase, one, jobs) for phase, one in zip(phases, methods, strict=True)]

    def run(self, methods: Sequence[Method], launch: Launch) -> None:
        """See :class:`Design`."""
        first, *others = methods
        results = launch(with_seeds(first, self.seeds), "")
        sizes = [int(one["adapter"]["trainable_parameters"]) for one in results if one]
        if not sizes:
            say(f"{names(methods)[0]}: all its jobs failed, so its size is not known")
            return
        own = [tuple(word for word in one if _key(word) not in SIZES) for one in others]
        budget = f"adapter.budget={sizes[0]}"
        launch([job for one in own for job in with_seeds((*one, budget), self.seeds)], "")


@dataclass(frozen=True, config=STRICT)
class Rows:
    """``rows``: the rows of a table, each a method.

    Attributes:
        name: The option's name.
        kind: ``rows``.
        rows: The overrides of each row, separated by spaces.
        seeds: The seeds of each row.
    """

    name: str
    kind: str
    rows: Annotated[list[str], Field(min_length=1)]
    seeds: Seeds
    chosen: ClassVar[Mapping[str, str]] = {"adapter": "study.rows", "seed": "study.seeds"}

    def methods(self, listed: Sequence[Method]) -> list[Method]:
        """See :class:`Design`."""
        own = [tuple(row.split()) for row in self.rows]
        keys = {_key(word) for row in own for word in row}
        for word in (word for method in listed for word in method if _key(word) in keys):
            raise UserError(f"study={self.name} sets {_key(word)} itself; set study.rows")
        return [(*method, *row) for method in listed for row in own]

    def outline(self, methods: Sequence[Method]) -> list[Part]:
        """See :class:`Design`."""
        return [Part("rows", method, len(set(self.seeds))) for method in methods]

    def run(self, methods: Sequence[Method], launch: Launch) -> None:
        """See :class:`Design`."""
        launch([job for method in methods for job in with_seeds(method, self.seeds)], "")


KINDS: dict[str, type[LearningRates] | type[Budget] | type[Rows]] = {
    "learning_rates": LearningRates,
    "budget": Budget,
    "rows": Rows,
}


def design_of(settings: Mapping[str, Any]) -> Design:
    """The study of the resolved key ``study``.

    Raises:
        UserError: A setting is invalid.
    """
    kind = KINDS.get(str(settings.get("kind")))
    if kind is None:
        raise UserError(f"study.kind={settings.get('kind')} is not one of {', '.join(KINDS)}")
    try:
        return TypeAdapter(kind).validate_python(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(["study", *map(str, first["loc"])])
        raise UserError(f"{key}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error


def needs_held_out(settings: Mapping[str, Any] | None) -> bool:
    """Whether the study of the key ``study``, if there is one, chooses by held-out rows."""
    return settings is not None and settings.get("kind") == "learning_rates"


def validate_keys(design: Design, typed: Collection[str]) -> None:
    """Check that the command does not set what the study sets.

    Raises:
        UserError: It does.
    """
    for key in design.chosen:
        if key in typed:
            raise UserError(f"study={design.name} sets {key} itself; set {design.chosen[key]}")


def with_seeds(method: Method, seeds: Sequence[int]) -> list[Method]:
    """The jobs of a method."""
    return [(*method, f"seed={seed}") for seed in seeds]


def names(methods: Sequence[Method]) -> list[str]:
    """What each method alone is called: the words that not all of them have."""
    common = set(methods[0]).intersection(*methods) if len(methods) > 1 else set()
    return [" ".join(word for word in method if word not in common) for method in methods]


def say(line: str) -> None:
    """Print a line for the user."""
    print(line, flush=True)  # noqa: T201  # for the terminal


def _validate_several(name: str, listed: Sequence[Method]) -> None:
    if len(listed) < 2:
        raise UserError(
            f"study={name} compares methods and got {counted(len(listed), 'method')}; give "
            "several, such as adapter=lora,toplora"
        )


def _key(word: str) -> str:
    return word.lstrip("+").partition("=")[0]
