"""The configuration as frozen dataclasses: every key that exists, its type and its bounds.

Hydra composes YAML; :mod:`toplora_train.config.check` turns the result into these; everything
below ``config/`` is handed plain values taken from them. The adapter's own keys are not here: their
schema is the adapter's own file ``conf/adapter/NAME.yaml``: adding an adapter touches no other one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from toplora_train.config.methods import language_method, method_name
from toplora_train.config.template import prompt_template

STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True)


def _no_truth_value(value: object) -> object:
    """Python and pydantic count true as 1; a configuration that says so is a slip."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


_Number = BeforeValidator(_no_truth_value)
PositiveInt = Annotated[int, Field(ge=1), _Number]
NonNegativeInt = Annotated[int, Field(ge=0), _Number]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _Number]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), _Number]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), _Number]  # what NumPy's generators take too
Fraction = Annotated[float, Field(ge=0, lt=1), _Number]
LENGTH = frozenset({"trainer.epochs", "trainer.max_steps", "trainer.max_tokens"})
"""The keys that say when a run ends."""
RowKey = Literal["instruction", "input", "output", "answer", "messages", "id"]
Template = Annotated[str, AfterValidator(prompt_template)]
Method = Annotated[str, AfterValidator(method_name)]
LanguageMethod = Annotated[str, AfterValidator(language_method)]
Metric = Literal["accuracy", "f1", "matthews", "pearson", "spearman"]


@dataclass(frozen=True, config=STRICT)
class ModelSettings:
    """Which base model, from where, and in which number format its weights are kept.

    ``path`` is a hub id or a local folder; ``builtin`` names a model made in code instead;
    ``package`` is an installed package that carries the same weights, used where no hub is at hand.
    ``quantization`` keeps the linear layers in 4 bits (NF4, QLoRA) or 8 bits by bitsandbytes;
    ``dtype`` is then what they are computed in. ``new_head`` draws a new head though the checkpoint
    has one for the task's classes or for others.
    """

    name: str
    path: str | None = None
    revision: str | None = None
    builtin: Literal["tiny"] | None = None
    package: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    quantization: Literal["4bit", "8bit"] | None = None
    new_head: bool = False


@dataclass(frozen=True, config=STRICT)
class DatasetSettings:
    """The rows to train on and how they become tokens.

    ``train`` and ``test`` are sources (see :mod:`toplora_train.data.sources`). A ``test`` source is
    evaluated as one more task, named ``test``. ``train: task:SPLIT`` stands for that split of the
    chosen task's own source. ``max_length`` counts tokens, EOS included. ``validation_rows`` of
    the rows, or ``validation_share`` of them, are held out.
    ``overflow`` says what happens to a longer row: ``error`` stops, ``drop`` leaves it out,
    ``truncate`` cuts the response (and with it EOS); the report counts them in every case.
    ``special_tokens`` says how a special token of the model in a row's own text is encoded, such as
    ``<|im_end|>`` in a message: ``keep``, as the special token; ``text``, as its letters; ``error``
    stops. They are counted in every case, in training and test rows.
    ``fields`` names the keys of rows that call them otherwise, ``{instruction: question}``;
    ``format`` names a well-known set whose rows take more than that to become ours (see
    :mod:`toplora_train.data.formats`). ``prompt`` is the template of the rows' prompt, used
    verbatim, a column in braces standing for its value, and followed directly by the response:
    ``Question: {question} Answer: ``. Null is the project's own prompt. ``task:SPLIT`` takes the
    task's fields and prompt instead.
    A test set of which more than ``max_overlap`` is asked in the training rows too stops the run;
    files known to hold test rows do unless ``allow_leaks`` names them. ``cache`` keeps the tokens
    for the next run on the same rows, below ``$TOPLORA_CACHE`` or the user's cache folder; the
    least recently used are removed where all take more than ``$TOPLORA_CACHE_LIMIT`` (10 GiB).
    """

    name: str
    train: str | list[str] | None = None
    test: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: PositiveInt | None = None
    validation_rows: NonNegativeInt = 0
    validation_share: Fraction = 0.0
    max_length: Annotated[int, Field(ge=8)] = 256
    overflow: Literal["error", "drop", "truncate"] = "error"
    special_tokens: Literal["keep", "text", "error"] = "keep"
    test_extraction: Literal["number", "choice", "exact"] = "exact"
    test_max_new_tokens: PositiveInt = 64
    fields: dict[RowKey, str] | None = None
    prompt: Template | None = None
    format: Literal["gsm8k"] | None = None
    max_overlap: Annotated[float, Field(ge=0, le=1), _Number] = 1.0
    allow_leaks: list[str] | None = None
    cache: bool = True


@dataclass(frozen=True, config=STRICT)
class TaskSettings:
    """One thing to be good at: where its test rows are, how it is asked and how it is scored.

    ``fields`` and ``prompt`` are as in :class:`DatasetSettings`, for the columns of ``source``.
    ``kind`` says how the model answers: ``generate`` writes, ``choose`` takes the most probable of
    ``choices``, ``classify`` and ``regress`` ask a head. ``response`` is the sentence in which the
    training rows give an answer, ``{answer}`` standing for it; ``choose`` needs it. Rows of
    ``train: task:SPLIT`` that have no ``output`` are trained on it, or on the answer alone.
    ``text``, ``text_pair`` and ``label`` are the columns of rows that a head is asked about;
    ``choices`` then names the classes in the order of their numbers. ``metric`` makes the score,
    the metrics in ``also`` stand beside it; what is not an accuracy needs a head.
    """

    name: str
    source: str
    subset: str | None = None
    split: str = "test"
    revision: str | None = None
    fields: dict[RowKey, str] | None = None
    prompt: Template | None = None
    kind: Method = "generate"
    extraction: Literal["number", "choice", "exact"] = "exact"
    choices: list[str] = Field(default_factory=list)
    response: str | None = None
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    metric: Metric = "accuracy"
    also: list[Metric] = Field(default_factory=list)
    max_new_tokens: PositiveInt = 32
    licence: str = "unknown"
    version: PositiveInt = 1


@dataclass(frozen=True, config=STRICT)
class SharedAdapterSettings:
    """Keys of every adapter's group, beside its own in ``conf/adapter/NAME.yaml``.

    ``start_from`` is the adapter whose tensors this one starts with: a finished run, a folder in
    PEFT's format, or a hub id, ``owner/name`` or ``owner/name@revision``. Method, shapes and
    scaling have to be the same; the head of another task is not taken over.
    """

    start_from: str | None = None


@dataclass(frozen=True, config=STRICT)
class OptimizerSettings:
    """AdamW and its learning-rate schedule; ``warmup_steps`` replaces ``warmup_ratio``.

    ``lr_multipliers`` maps patterns of parameter names to factors of ``lr``, ``no_decay`` lists
    patterns of what is not decayed, and ``ratio`` is LoRA+'s: how much faster B learns than A.
    """

    name: Literal["adamw", "loraplus", "adamw8bit", "muon"]
    lr: PositiveFloat = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.0
    lr_multipliers: dict[str, PositiveFloat] | None = None
    no_decay: list[str] | None = None
    ratio: PositiveFloat | None = None
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: NonNegativeInt | None = None
    warmup_ratio: Fraction = 0.0


@dataclass(frozen=True, config=STRICT)
class TrainerSettings:
    """How the rows are stepped through.

    ``batch_size`` is the number of rows per optimizer step over all processes;
    ``micro_batch_size`` the number per forward pass, at most ``batch_size``, or ``auto`` for the
    most that fit the memory.
    ``max_steps`` replaces ``epochs`` where given; so does ``max_tokens``, which ends the run, and
    the learning rate's schedule, with the step that reaches so many tokens of rows.
    ``batching: packed`` lays the rows of a forward pass end to end instead of padding them; before
    the first step the model is shown to keep them apart. ``deterministic`` refuses operations whose
    result differs from run to run on the same machine.
    ``log_every``, ``save_every`` and ``eval_every`` count optimizer steps; 0 means never.
    ``keep`` is the number of newest checkpoints kept on disk.
    ``select: best`` ends with the adapter that does best on the held-out rows: of a language model
    at every ``eval_every``, by their loss; of a head at every epoch's end, by its metric, which is
    what null stands for where rows are held out. ``select_by`` chooses between the two; a language
    model's metric is the share of held-out rows that it answers rightly, asked at ``eval_every`` as
    the tasks are. After ``patience`` judgements without a better one training ends.
    ``compile`` names torch.compile's backend for the model's layers: inductor, or aot_eager, which
    needs no compiler and gains nothing. Their loss is shown to stay the same before the first step.
    """

    name: str = "default"
    batch_size: PositiveInt = 16
    micro_batch_size: PositiveInt | Literal["auto"] = 4
    epochs: PositiveInt = 1
    max_steps: PositiveInt | None = None
    max_tokens: PositiveInt | None = None
    max_grad_norm: NonNegativeFloat = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    activation_checkpointing: bool = False
    compile: Literal["inductor", "aot_eager"] | None = None
    deterministic: bool = False
    batching: Literal["padded", "packed"] = "padded"
    group_by_length: bool = True
    log_every: PositiveInt = 10
    save_every: NonNegativeInt = 200
    eval_every: NonNegativeInt = 0
    select: Literal["last", "best"] | None = None
    select_by: Literal["loss", "metric"] | None = None
    patience: PositiveInt | None = None
    keep: PositiveInt = 2


@dataclass(frozen=True, config=STRICT)
class EvaluationSettings:
    """How the tasks are scored; ``limit`` is the number of rows taken of each task.

    ``protocol`` names how rows are worded, decoded and read (the legacy ones are for reproducing
    published numbers, and train on their own strings too). ``multiple_choice`` says how every task
    with choices is asked, whatever the task's own ``kind``: the answer is generated, or chosen by
    its log-likelihood; or, as a cloze, each answer's own words are scored after the question alone,
    and the rows to train on are learned in that form too. ``option_score: mean`` divides a
    log-likelihood by its number of tokens; null is the sum, and for a cloze the mean.
    """

    name: str = "default"
    protocol: Literal["clean", "legacy.toplora", "legacy.llm_adapters"] = "clean"
    multiple_choice: LanguageMethod | None = None
    option_score: Literal["sum", "mean"] | None = None
    batch_size: PositiveInt = 32
    limit: PositiveInt | None = None
    base: bool = True


@dataclass(frozen=True, config=STRICT)
class TrackerSettings:
    """Where metrics go besides the run directory."""

    name: Literal["none", "wandb"]
    project: str = "toplora-train"
    entity: str | None = None
    group: str | None = None


@dataclass(frozen=True, config=STRICT)
class LaunchSettings:
    """How many worker processes, on which kind of device, joined by which engine.

    ``processes: auto`` is one per GPU, or one on a CPU. ``zero3`` is another name of ``fsdp2``.
    """

    name: str = "local"
    processes: PositiveInt | Literal["auto"] = 1
    engine: Literal["ddp", "fsdp2", "zero2", "zero3"] = "ddp"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True, config=STRICT)
class ExpectedSettings:
    """What somebody published for an adapter in a recipe's setting, accuracy in %, and where.

    ``r`` None speaks of every rank. ``protocol`` is what the numbers were made with; ``start`` what
    the adapter was trained from where that was not the base model alone.
    """

    adapter: str
    source: str
    protocol: str
    r: PositiveInt | None = None
    start: str | None = None
    scores: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    average: NonNegativeFloat | None = None


@dataclass(frozen=True, config=STRICT)
class RunConfig:
    """A whole run, as stored in ``config.yaml`` of the run directory.

    ``resume: auto`` goes on from the newest checkpoint in ``output_dir``; ``extend`` trains a
    finished run for longer.
    ``plan`` shows what is known before the first step and stops; it never uses the network.
    ``plan_for`` names the device it is made for, of :mod:`toplora_train.models.devices`, instead of
    the machine at hand. ``prefetch`` fetches the rows and the model and stops; together with
    ``plan`` all but the model's weights, and then the plan is shown.
    """

    model: ModelSettings
    dataset: DatasetSettings
    adapter: dict[str, Any]
    optimizer: OptimizerSettings
    trainer: TrainerSettings
    evaluation: EvaluationSettings
    tracker: TrackerSettings
    launch: LaunchSettings
    output_dir: str
    task: dict[str, TaskSettings] = Field(default_factory=dict)
    expected: list[ExpectedSettings] = Field(default_factory=list)
    seed: Seed = 1
    data_root: str | None = None
    resume: Literal["auto", "extend"] | None = None
    plan: bool = False
    plan_for: str | None = None
    prefetch: bool = False
    recipe: str | None = None
    command: str = ""

    @property
    def trains(self) -> bool:
        """Whether it is more than a plan or a download."""
        return not (self.plan or self.prefetch)
