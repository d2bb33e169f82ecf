"""The configuration as frozen dataclasses: every key with its meaning, type, bounds and default.

Hydra composes YAML; :mod:`toplora_train.config.check` turns the result into these classes, and the
code below ``config/`` gets plain values taken from them. The adapter's own keys are not here: their
schema is ``conf/adapter/NAME.yaml``, so that a new adapter changes no other file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass

from toplora_train.config.methods import format_name, language_method, method_name
from toplora_train.config.names import plain_name
from toplora_train.config.template import prompt_template

STRICT = ConfigDict(extra="forbid", coerce_numbers_to_str=True, defer_build=True)


def _no_truth_value(value: object) -> object:
    """Reject booleans, which pydantic would accept as 0 and 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


_Number = BeforeValidator(_no_truth_value)
PositiveInt = Annotated[int, Field(ge=1), _Number]
NonNegativeInt = Annotated[int, Field(ge=0), _Number]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False), _Number]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False), _Number]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), _Number]  # NumPy's range
Fraction = Annotated[float, Field(ge=0, lt=1), _Number]
LENGTH = frozenset({"trainer.epochs", "trainer.max_steps", "trainer.max_tokens"})
"""The keys that set the length of a run."""
RowKey = Literal[
    "instruction",
    "input",
    "output",
    "answer",
    "messages",
    "tools",
    "text",
    "prompt",
    "completion",
    "conversations",
    "system",
    "id",
]
Name = Annotated[str, AfterValidator(plain_name)]
Template = Annotated[str, AfterValidator(prompt_template)]
Method = Annotated[str, AfterValidator(method_name)]
LanguageMethod = Annotated[str, AfterValidator(language_method)]
ProtocolName = Literal["clean", "legacy.toplora", "legacy.llm_adapters"]
PROTOCOLS: tuple[str, ...] = get_args(ProtocolName)
"""The names of the evaluation protocols."""


@dataclass(frozen=True, config=STRICT)
class ModelSettings:
    """The base model, where it comes from, and the data type of its weights.

    Attributes:
        name: The option's name, used in reports and directory names.
        path: Hub id or local folder. Give either ``path`` or ``builtin``.
        revision: Branch, tag or commit on the hub; null is the default branch. With a revision
            ``package`` is not used.
        builtin: A model that is constructed in code instead of loaded: ``tiny``.
        package: An installed Python package that carries the same weights as ``path``. It is used
            if the model is not in the hub's cache.
        dtype: Data type of the base weights. With ``quantization`` it is the compute data type.
        attention: Attention implementation of transformers.
        quantization: Quantize the linear layers with bitsandbytes: ``4bit`` (NF4, as in QLoRA) or
            ``8bit``; null does not quantize.
        new_head: Initialize a new classification or regression head even if the checkpoint has
            one, be it for the task's classes or for others.
        trust_remote_code: Run the Python code of the model's own folder or hub repository, for a
            model that transformers does not implement. There is no interactive question.
        resize_embeddings: Add embedding rows for the tokenizer's tokens beyond the embedding; the
            embedding and the output layer are then trained and saved with the adapter.
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
    trust_remote_code: bool = False
    resize_embeddings: bool = False


@dataclass(frozen=True, config=STRICT)
class WeightedSource:
    """A source of a mixture.

    Attributes:
        path: The source.
        weight: How often its rows are trained on in an epoch; of 0.5, a fixed random half is.
    """

    path: str
    weight: PositiveFloat = 1.0


@dataclass(frozen=True, config=STRICT)
class DatasetSettings:
    """The training rows and how they are tokenized.

    Attributes:
        name: The option's name, used in reports and directory names.
        train: One source or several (see :mod:`toplora_train.data.sources`): a file, a folder or a
            hub data set. In a list a source may have a weight, ``{path: a.jsonl, weight: 2}``: its
            rows are trained on twice an epoch. ``task:SPLIT`` is that split of the chosen task's
            own source.
        test: A source of test rows. It is evaluated as an additional task named ``test``.
        subset: Configuration name of the hub data set in ``train``.
        split: Split of the hub data set or folder in ``train``, or a slice: ``train[:10%]``. Of a
            single file only the slice matters.
        revision: Branch, tag or commit of the hub data set in ``train``.
        limit: Use only the first so many rows of each training source; null uses all of them.
        validation_rows: Number of training rows held out for validation; 0 holds out none. Give
            either this or ``validation_share``.
        validation_share: Fraction of the training rows held out for validation.
        max_length: Maximum length of a row in tokens, including EOS.
        overflow: What happens to a longer row: ``error`` stops the run, ``drop`` skips the row,
            ``truncate`` cuts the end of the response, including EOS; ``split`` cuts plain text
            into pieces. The report counts these rows in every case.
        special_tokens: How a special token that occurs in a row's own text, such as
            ``<|im_end|>`` in a message, is tokenized: ``keep`` as the special token, ``text`` as
            ordinary text, ``error`` stops the run. Training and test rows are counted in every
            case.
        test_extraction: How the answer is read from a response to a row of ``test``, as
            ``task.NAME.extraction``.
        test_max_new_tokens: Maximum number of tokens generated for a row of ``test``.
        fields: Maps our keys to those of your rows: ``{instruction: question}``.
        prompt: Template of the rows' prompt, used verbatim: a column in braces stands for its
            value, and the response follows directly: ``Question: {question} Answer: ``. Null is the
            project's own prompt. With ``task:SPLIT`` the task's fields and prompt apply instead.
        text: Of a table to classify or to predict numbers from (``dataset=table``): the column of
            the text, or the two columns of a pair.
        image: Of a table of images (``dataset=images``): the column of the image, instead of
            ``text``. A folder of images per class has the columns ``image`` and ``label``.
        label: Of such a table: the column of the class or number. Both are found out: numbers with
            a fraction, or of more than 20 values, are predicted as numbers, other labels are
            classes. Without ``test`` a fixed random fifth of the rows, at most 2,000, is held out.
        format: The format of the rows, a module of :mod:`toplora_train.data.formats`; null
            recognises it by the rows' keys. ``gsm8k`` has to be named.
        learn: What is learned of a conversation: the ``last`` answer, or every message of the
            ``assistant``. A message's own ``train: true`` or ``false`` takes precedence.
        max_overlap: Largest allowed fraction of a test set's questions that also occur in the
            training rows; above it the run stops, and 1 disables the check.
        allow_leaks: Training files known to contain test rows that may be used anyway; any other
            such file stops the run.
        cache: Cache the tokenized rows in ``$TOPLORA_CACHE`` or the user's cache folder. The least
            recently used entries are removed when the cache exceeds ``$TOPLORA_CACHE_LIMIT``
            (10 GiB).
    """

    name: str
    train: str | list[str | WeightedSource] | None = None
    test: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    limit: PositiveInt | None = None
    validation_rows: NonNegativeInt = 0
    validation_share: Fraction = 0.0
    max_length: Annotated[int, Field(ge=8)] = 256
    overflow: Literal["error", "drop", "truncate", "split"] = "error"
    special_tokens: Literal["keep", "text", "error"] = "keep"
    test_extraction: Name = "exact"
    test_max_new_tokens: PositiveInt = 64
    fields: dict[RowKey, str] | None = None
    prompt: Template | None = None
    text: str | list[str] | None = None
    image: str | None = None
    label: str | None = None
    format: Annotated[str, AfterValidator(format_name)] | None = None
    learn: Literal["last", "assistant"] = "last"
    max_overlap: Annotated[float, Field(ge=0, le=1), _Number] = 1.0
    allow_leaks: list[str] | None = None
    cache: bool = True


@dataclass(frozen=True, config=STRICT)
class TaskSettings:
    """A task to evaluate: its test rows, how the model answers, and how answers are scored.

    Attributes:
        name: The task's name, the same as in ``task=[NAME]``.
        source: Where the test rows are (see :mod:`toplora_train.data.sources`).
        subset: Configuration name of a hub data set.
        split: Split to evaluate; a single file is read whole.
        revision: Branch, tag or commit of a hub data set.
        fields: Maps our keys to the columns of ``source``, as ``dataset.fields``.
        prompt: Template of the prompt over those columns, as ``dataset.prompt``.
        kind: How the model answers: ``generate`` produces text, ``choose`` takes the most probable
            of ``choices``, ``cloze`` scores the words of each answer given the question alone (and
            training rows are formatted so too), ``classify`` and ``regress`` use a head.
        extraction: How the answer is read from a generated response: ``number`` takes the stated or
            last number, ``choice`` the stated or only choice, ``exact`` the whole text; or one of
            your own.
        choices: The possible answers. For ``classify``, the class names in the order of their
            label ids.
        response: The sentence that states an answer in the training rows, with ``{answer}`` as the
            placeholder. Required by ``choose``. Rows of ``task:SPLIT`` that have no ``output`` are
            trained on it, or on the answer alone.
        text: Column with the text to classify. For tasks with a head only.
        text_pair: Column with a second text; null if there is only one.
        image: Column with the image to classify, instead of a text; the model is then one of
            images (transformers' ``AutoModelForImageClassification``).
        label: Column with the label. For tasks with a head only.
        label_names: Whether a number in ``label`` is the name of its class, not its number.
        metric: The metric that is the task's score: ``accuracy``; with a head also ``f1`` (two
            classes), ``matthews``, ``pearson``, ``spearman`` or one of your own.
        also: Additional metrics to report.
        max_new_tokens: Maximum number of tokens generated per row.
        licence: Licence of the test rows, for ``plan=true``; it does not affect results.
        version: Version of the task's definition, part of the protocol's hash. Raise it when a
            change makes scores incomparable.
    """

    name: Name
    source: str
    subset: str | None = None
    split: str = "test"
    revision: str | None = None
    fields: dict[RowKey, str] | None = None
    prompt: Template | None = None
    kind: Method = "generate"
    extraction: Name = "exact"
    choices: list[str] = Field(default_factory=list)
    response: str | None = None
    text: str = "text"
    text_pair: str | None = None
    image: str | None = None
    label: str = "label"
    label_names: bool = False
    metric: Name = "accuracy"
    also: list[Name] = Field(default_factory=list)
    max_new_tokens: PositiveInt = 32
    licence: str = "unknown"
    version: PositiveInt = 1


@dataclass(frozen=True, config=STRICT)
class SharedAdapterSettings:
    """The keys that every adapter has, in addition to those in ``conf/adapter/NAME.yaml``.

    Attributes:
        start_from: Initialize from another adapter: a finished run, a folder in PEFT's format, or a
            hub id, ``owner/name`` or ``owner/name@revision``. Method, shapes and scaling must
            match; the head of another task is not loaded. Null initializes a new adapter.
    """

    start_from: str | None = None


@dataclass(frozen=True, config=STRICT)
class OptimizerSettings:
    """The optimizer and its learning-rate schedule.

    Attributes:
        name: ``adamw``, ``adamw8bit`` (moments in 8 bits, bitsandbytes), ``loraplus`` (LoRA+),
            ``muon`` (Muon for matrices, AdamW for other tensors), for the pairs A and B of
            LoRA and DoRA ``riemannian``, ``lorafa`` (LoRA-FA), ``lora_rite`` and ``lora_pro``, for
            LoRA's ``lorsum``, or one of your own.
        lr: Peak learning rate.
        betas: Decay rates of AdamW's two moments.
        eps: Added to AdamW's denominator.
        weight_decay: Decoupled weight decay of matrices; vectors are not decayed.
        lr_multipliers: Maps patterns of parameter names to factors of ``lr``.
        no_decay: Patterns of parameter names that are excluded from weight decay.
        ratio: Learning rate of B divided by that of A. Required by ``loraplus``, and only there.
        schedule: Shape of the learning rate after warm-up.
        warmup_steps: Number of warm-up steps. Null uses ``warmup_ratio``; give one of them.
        warmup_ratio: Warm-up as a fraction of all steps.
        settings: Further arguments of the optimizer, as in its YAML.
    """

    name: Name
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
    settings: dict[str, Any] | None = None


@dataclass(frozen=True, config=STRICT)
class TrainerSettings:
    """The training loop: batches, length of the run, checkpoints and model selection.

    Attributes:
        name: The option's name.
        batch_size: Rows per optimizer step, over all processes.
        micro_batch_size: Rows per forward pass and process, at most ``batch_size``; ``auto`` finds
            the largest number that fits in memory. Gradients are accumulated over the rest.
        epochs: Passes over the training rows.
        max_steps: End after this many optimizer steps instead of ``epochs``.
        max_tokens: End with the step that reaches this many training tokens, padding not counted,
            instead of ``epochs``. The learning-rate schedule ends there too.
        max_grad_norm: Clip the norm of the gradients at this value; 0 disables clipping.
        mixed_precision: Autocast: ``bf16``, ``fp16`` or ``no``.
        activation_checkpointing: Recompute activations in the backward pass to save memory.
        compile: Backend of torch.compile for the model's layers: ``inductor``, or ``aot_eager``,
            which needs no compiler and gives no speedup. Before the first step the loss is checked
            to be the same as without; null does not compile.
        liger: Compute norms, rotary positions and gated activations with Liger's Triton kernels
            while training (a CUDA device and ``toplora-train[liger]``), after the same check.
        deterministic: Refuse operations whose result varies from run to run on the same machine.
        batching: ``padded`` pads the rows of a forward pass; ``packed`` concatenates them instead,
            after a check before the first step that the model keeps them apart. Packing is for
            language models.
        group_by_length: Batch rows of similar length together, for less padding.
        log_every: Optimizer steps between log lines.
        save_every: Optimizer steps between checkpoints; 0 saves only the last one.
        save_minutes: Minutes after which a checkpoint is written at the next step, whatever
            ``save_every`` says; null writes none for the time alone.
        eval_every: Optimizer steps between evaluations on the held-out rows; 0 leaves that of
            the last step.
        select: ``last`` keeps the last adapter, ``best`` the one with the best validation result:
            a language model is evaluated every ``eval_every`` steps, a head after every epoch. Null
            is ``best`` for a head with held-out rows, otherwise ``last``.
        select_by: What ``best`` compares, both on the held-out rows: ``loss``, or ``metric``: that
            of the head, or a language model's accuracy, evaluated as the tasks are. Null is the
            metric for a head and the loss for a language model.
        patience: Stop after this many evaluations without improvement; null never stops early.
        keep: Number of most recent checkpoints kept on disk.
        profile: Profile five steps after the first two: the run's folder gets
            ``profile/summary.md``, where a step's time goes and how far it is from its floor, and
            ``profile/trace.json.gz``, a Chrome trace.
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
    liger: bool = False
    deterministic: bool = False
    batching: Literal["padded", "packed"] = "padded"
    group_by_length: bool = True
    log_every: PositiveInt = 10
    save_every: NonNegativeInt = 200
    save_minutes: PositiveFloat | None = None
    eval_every: NonNegativeInt = 0
    select: Literal["last", "best"] | None = None
    select_by: Literal["loss", "metric"] | None = None
    patience: PositiveInt | None = None
    keep: PositiveInt = 2
    profile: bool = False


@dataclass(frozen=True, config=STRICT)
class EvaluationSettings:
    """How the tasks are evaluated.

    Attributes:
        name: The option's name.
        protocol: How rows are formatted, decoded and parsed. The ``legacy`` protocols reproduce
            published numbers and format the training rows in their own way too.
        multiple_choice: The answering method of every task with choices, in place of the task's
            ``kind``: ``generate``, ``choose`` (by log-likelihood) or ``cloze`` (the words of each
            answer are scored given the question alone, and training rows are formatted so too).
            Null keeps each task's own.
        option_score: ``sum`` or ``mean`` of a choice's token log-likelihoods. Null is the sum, for
            ``cloze`` the mean.
        batch_size: Rows per forward pass.
        limit: Evaluate only the first so many rows of each task; null evaluates all of them.
        enabled: Evaluate the tasks; false does not even read their test rows.
        base: Evaluate the base model as well.
    """

    name: str = "default"
    protocol: ProtocolName = "clean"
    multiple_choice: LanguageMethod | None = None
    option_score: Literal["sum", "mean"] | None = None
    batch_size: PositiveInt = 64
    limit: PositiveInt | None = None
    enabled: bool = True
    base: bool = True


@dataclass(frozen=True, config=STRICT)
class ForgettingSettings:
    """General text on which the loss is measured before and after fine-tuning.

    Attributes:
        name: The option's name; ``none`` measures nothing.
        source: A file, folder or hub data set with a text in each row.
        subset: A hub data set's configuration name.
        split: The split of a hub data set, or of a folder.
        revision: A hub data set's branch, tag or commit.
        text: The column of the text.
        limit: Use only the first rows; null uses all.
        licence: The licence of the text.
    """

    name: str = "none"
    source: str | None = None
    subset: str | None = None
    split: str = "test"
    revision: str | None = None
    text: str = "text"
    limit: PositiveInt | None = None
    licence: str = "unknown"


@dataclass(frozen=True, config=STRICT)
class ReportSettings:
    """What the report contains besides the scores.

    Attributes:
        extras: Measure what takes long of the trained adapter: the tasks scored again with
            TopLoRA's gates fixed (at one, and at their mean), and singular values of updates that
            are no product of two thin matrices, such as DoRA's. ``toplora-inspect`` measures it
            later.
    """

    extras: bool = False


@dataclass(frozen=True, config=STRICT)
class TrackerSettings:
    """Where metrics are logged in addition to the run directory.

    Attributes:
        name: ``none``, ``wandb`` (Weights & Biases), ``tensorboard`` or ``trackio``.
        project: Project of the tracker.
        entity: User or team of the tracker; null is the account's default.
        group: Group of the run; null is the sweep's folder for the jobs of a sweep, else none.
    """

    name: Literal["none", "wandb", "tensorboard", "trackio"]
    project: str = "toplora-train"
    entity: str | None = None
    group: str | None = None


@dataclass(frozen=True, config=STRICT)
class LaunchSettings:
    """Worker processes, their device, and how the work is distributed.

    Attributes:
        name: The option's name.
        processes: Number of processes; ``auto`` is one per GPU, or one on a CPU.
        engine: How several processes train: ``ddp`` (replicated), ``fsdp2`` (base model sharded) or
            ``zero2`` (gradients and optimizer state sharded). ``zero3`` is an alias of ``fsdp2``.
        shard: What ``fsdp2`` shards over: ``all`` processes, or those of a ``node``, each of which
            then holds the model once: layers are gathered without the network between nodes.
        offload: Where the shards of ``fsdp2`` wait until their layer computes: ``null`` is the
            device, ``cpu`` the CPU's memory.
        device: Device type; ``auto`` takes the best one available.
    """

    name: str = "local"
    processes: PositiveInt | Literal["auto"] = 1
    engine: Literal["ddp", "fsdp2", "zero2", "zero3"] = "ddp"
    shard: Literal["all", "node"] = "all"
    offload: Literal["cpu"] | None = None
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"


@dataclass(frozen=True, config=STRICT)
class ExpectedSettings:
    """Published scores for a recipe, which the report compares with the measured ones.

    Attributes:
        adapter: Name of the adapter.
        source: Where the scores were published.
        protocol: How they were measured.
        r: The rank they apply to; null applies to every rank.
        start: What the adapter was initialized from; null is the base model alone.
        scores: Score of each task in %.
        average: Mean score in %, if published.
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

    Attributes:
        model: The base model.
        dataset: The training rows.
        adapter: The adapter: its name and the keys of ``conf/adapter/NAME.yaml``.
        optimizer: The optimizer and its schedule.
        trainer: The training loop.
        evaluation: How the tasks are evaluated.
        tracker: Where metrics are logged.
        launch: Processes and devices.
        output_dir: The run directory; null on the command line is a new one below ``runs/``.
        task: The tasks to evaluate, by name.
        expected: Published scores to compare with.
        forgetting: The general text on which forgetting is measured.
        report: What the report contains.
        seed: Seed of every random number generator.
        data_root: A local mirror of data sets that is searched before the hub.
        resume: ``auto`` resumes from the newest checkpoint in ``output_dir``; ``extend`` trains a
            finished run for longer. Null starts a new run.
        plan: Show what is known before the first step, then stop. Never uses the network.
        plan_for: The device to plan for (see :mod:`toplora_train.models.devices`); null is this
            machine. Needs ``plan``.
        prefetch: Download the rows and the model, then stop. With ``plan``, download all but the
            model's weights, then show the plan.
        recipe: Name of the recipe; filled in by the program.
        command: The command line; filled in by the program.
        plugins: The user's own modules (:mod:`toplora_train.config.plugins`) and the SHA-256 of
            each; filled in by the program.
        config_dirs: The folders these modules are in; filled in by the program.
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
    task: dict[Name, TaskSettings] = Field(default_factory=dict)
    expected: list[ExpectedSettings] = Field(default_factory=list)
    forgetting: ForgettingSettings = Field(default_factory=ForgettingSettings)
    report: ReportSettings = Field(default_factory=ReportSettings)
    seed: Seed = 1
    data_root: str | None = None
    resume: Literal["auto", "extend"] | None = None
    plan: bool = False
    plan_for: str | None = None
    prefetch: bool = False
    recipe: str | None = None
    command: str = ""
    plugins: dict[str, str] = Field(default_factory=dict)
    config_dirs: list[str] = Field(default_factory=list)

    @property
    def mirror(self) -> Path | None:
        """The folder ``data_root``."""
        return Path(self.data_root) if self.data_root else None

    @property
    def trains(self) -> bool:
        """Whether the run trains, rather than only plans or downloads."""
        return not (self.plan or self.prefetch)
