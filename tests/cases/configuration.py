"""Words of the command line, option files and recipes."""

from __future__ import annotations

from tests.cases.case import (
    DEEP,
    LONG_INTEGER,
    NOT_TEXT,
    Case,
    both,
    directory,
    fifo,
    nothing,
    symlink,
    written,
)

SMOKE = ("recipe=smoke", "output_dir=run")
LONG = "x" * 300


def word(word: str, line: str, *, make=nothing, code: int = 2) -> Case:  # type: ignore[no-untyped-def]
    """The smoke recipe with one word more."""
    shown = word if len(word) < 60 else f"{word[:40]}... of {len(word)} characters"
    return Case(f"configuration: {shown!a}", "train", (*SMOKE, word), line, make, code)


VALUES = (
    word("~seed", "'~seed' removes a setting"),
    word("seed=18446744073709551616", "seed"),
    word("seed=-1", "seed"),
    word("seed=true", "seed must be a number"),
    word("seed=1.5", "seed"),
    word("seed=nan", "seed"),
    word("seed=one", "seed"),
    word("seed=null", "seed"),
    word(f"seed={LONG_INTEGER}", "seed"),
    word("seed='???'", "seed is not set"),
    word("optimizer.lr=0", "optimizer.lr"),
    word("optimizer.lr=-1e-3", "optimizer.lr"),
    word("optimizer.lr=nan", "optimizer.lr"),
    word("optimizer.lr=inf", "optimizer.lr"),
    word("optimizer.lr=fast", "optimizer.lr"),
    word("optimizer.lr=[1]", "optimizer.lr"),
    word("optimizer.lr={a: 1}", "optimizer.lr"),
    word("optimizer.betas=[0.9]", "optimizer.betas"),
    word("optimizer.betas=[0.9,1.0]", "optimizer.betas"),
    word("optimizer.betas=0.9", "optimizer.betas"),
    word("optimizer.warmup_ratio=1", "optimizer.warmup_ratio"),
    word("optimizer.warmup_steps=1000", "1000 steps are more than the run's 8", code=0),
    word("optimizer.ratio=4", "optimizer.ratio"),
    word("optimizer.schedule=zigzag", "optimizer.schedule"),
    word("optimizer=sgd", "sgd"),
    word("optimizer=[adamw,muon]", "a run has one optimizer"),
    word("trainer.batch_size=0", "trainer.batch_size"),
    word("trainer.batch_size=true", "trainer.batch_size"),
    word("trainer.micro_batch_size=-4", "trainer.micro_batch_size"),
    word("trainer.epochs=0", "trainer.epochs"),
    word("trainer.max_steps=1e30", "trainer.max_steps"),
    word("trainer.eval_every=2", "trainer.eval_every"),
    word("trainer.patience=2", "trainer.patience"),
    word("trainer.select=best", "trainer.select"),
    word("trainer.keep=0", "trainer.keep"),
    word("trainer.mixed_precision=fp8", "trainer.mixed_precision"),
    word("trainer.compile=gcc", "trainer.compile"),
    word("trainer.max_grad_norm=nan", "trainer.max_grad_norm"),
    word("trainer.bach_size=4", "did you mean"),
    word("trainr.batch_size=4", "trainr"),
    word("adapter.r=0", "adapter.r"),
    word("adapter.r=-8", "adapter.r"),
    word("adapter.r=null", "adapter.r"),
    word("adapter.r=2.5", "adapter.r"),
    word("adapter.r=1000000000", "lower adapter.r"),
    word("adapter.alpha=nan", "adapter.alpha"),
    word("adapter.dropout=1.0", "adapter.dropout"),
    word("adapter.dropout=-0.1", "adapter.dropout"),
    word("adapter.target_modules=[no_such_layer]", "no_such_layer"),
    word("adapter.target_modules=[]", "target_modules"),
    word("adapter.target_modules='(('", "target_modules"),
    word("adapter.layers_to_transform=[99]", "layers_to_transform"),
    word("adapter.rank_pattern={q_proj: 0}", "rank_pattern"),
    word("adapter.modules_to_save=[nothing]", "nothing"),
    word("adapter.dtype=int8", "adapter.dtype"),
    word("adapter.start_from=no/such/folder", "no/such/folder"),
    word("adapter.start_from=''", "adapter.start_from"),
    word("adapter.start_from=7", "adapter.start_from"),
    word("adapter=[lora,dora]", "a run has one adapter"),
    word("adapter=loar", "loar"),
    word("adapter=../../etc/passwd", "adapter"),
    word("model.path=/nonexistent", "model"),
    word("model.dtype=float8", "model.dtype"),
    word("model.builtin=huge", "model.builtin"),
    word("model=null", "group"),
    word("dataset.limit=0", "dataset.limit"),
    word("dataset.max_length=4", "dataset.max_length"),
    word("dataset.validation_rows=64", "validation_rows"),
    word("dataset.validation_share=1", "dataset.validation_share"),
    word("dataset.overflow=maybe", "dataset.overflow"),
    word("dataset.fields={question: instruction}", "dataset.fields"),
    word("dataset.prompt='{unclosed'", "dataset.prompt"),
    word("dataset=nothing", "nothing"),
    word("task=[no_such_task]", "no_such_task"),
    word("task.arithmetic.name=../../../../x", "task.arithmetic.name"),
    word("task.arithmetic.kind=guess", "task.arithmetic.kind"),
    word("task.arithmetic.metric=f1", "task.arithmetic.metric"),
    word("+task.arithmetic.metric=f1", "kind generate has no metric f1"),
    word("task.arithmetic.max_new_tokens=0", "max_new_tokens"),
    word("evaluation.limit=0", "evaluation.limit"),
    word("evaluation.batch_size=many", "evaluation.batch_size"),
    word("evaluation.protocol=dirty", "evaluation.protocol"),
    word("evaluation.multiple_choice=classify", "evaluation.multiple_choice"),
    word("evaluation.option_score=max", "evaluation.option_score"),
    word("tracker=mlflow", "mlflow"),
    word("tracker.project=x", "tracker.project"),
    word("launch.device=tpu", "launch.device"),
    word("launch.device=cuda", "cuda"),
    word("launch.processes=0", "launch.processes"),
    word("launch.engine=zero9", "launch.engine"),
    word("plan_for=a100-80g", "plan_for"),
    word("resume=always", "resume"),
    word("resume=extend", "resume=extend is for a finished run"),
    word("expected=[7]", "expected"),
)
WORDS = (
    word("adapter", "adapter"),
    word("=", "="),
    word("=5", "=5"),
    word("trainer.=5", "trainer"),
    word("..=5", ".."),
    word("seed=${nothing}", "seed"),
    word("seed=${seed}", "seed"),
    word("seed=${oc.env:NOT_SET}", "NOT_SET"),
    word("trainer.batch_size=[1,", "trainer.batch_size"),
    word("dataset.train='unclosed", "dataset.train"),
    word("seed=1,2", "seed"),
    word("+seed=3", "seed"),
    word("++no.such.key=3", "no"),
    Case("configuration: a key given twice", "train", (*SMOKE, "seed=1", "seed=2"), "twice"),
    word("--no-such-flag", "--no-such-flag"),
    word("--cfg=words", "cfg"),
    word("dataset.train=\x1b]0;title\x07.jsonl", "dataset.train"),
    word("task=[\x1b[31mred]", "red"),
    word("adapter=lo\u202era", "adapter"),
    word("trainer.note=\x1b[2J", "note"),
    word("seed=" + "[" * 2000, "seed"),
    word("seed=" + "9" * 100_000, "seed"),
    word("x" * 100_000 + "=1", "xxx"),
    word("x" * 300 + "=1", "a key of 300 characters"),
    word("task=[" + "a," * 20_000 + "a]", "has 40,008 characters"),
    word("task=[" + "a," * 4_000 + "a]", "task"),
    Case("configuration: output_dir empty", "train", ("recipe=smoke", "output_dir="), "output_dir"),
    *(
        Case(
            f"configuration: output_dir={path[:20]}",
            "train",
            ("recipe=smoke", f"output_dir={path}"),
            "output_dir",
        )
        for path in ("/", "/dev/null", "/proc/self/x", LONG, "a/" * 3000)
    ),
    Case(
        "configuration: output_dir is a file",
        "train",
        SMOKE,
        "output_dir=",
        written("run", "mine"),
    ),
    *(
        Case(
            f"configuration: output_dir has my {name}",
            "train",
            SMOKE,
            f"its {name.split('/')[0]} would be overwritten",
            written(f"run/{name}", "mine"),
        )
        for name in (
            "config.yaml",
            "report.md",
            "report.json",
            "adapter/README.md",
            "metrics.jsonl",
        )
    ),
    Case(
        "configuration: the lock is a symlink",
        "train",
        SMOKE,
        ".lock",
        both(directory("run"), symlink("run/.lock", "../../../../../x")),
    ),
    Case("configuration: output_dir=/proc", "train", ("recipe=smoke", "output_dir=/proc"), "/proc"),
    Case("configuration: the lock is a folder", "train", SMOKE, ".lock", directory("run/.lock")),
    Case(
        "configuration: plan for an unknown device",
        "train",
        (*SMOKE, "plan=true", "plan_for=abacus"),
        "abacus",
    ),
    Case(
        "configuration: resume without a folder",
        "train",
        ("recipe=smoke", "resume=auto"),
        "output_dir",
    ),
    Case(
        "configuration: two of Hydra's commands",
        "train",
        (*SMOKE, "--cfg", "job", "-m"),
        "mutually exclusive",
    ),
    Case(
        "configuration: a folder of options that is absent",
        "train",
        ("--config-dir", "none", *SMOKE),
        "none",
    ),
)


def recipe(
    name: str, content: bytes | str, line: str, *, chosen: str = "mine", code: int = 2
) -> Case:
    """A recipe of the user's own."""
    words = ("--config-dir", "own", f"recipe={chosen}", "output_dir=run")
    return Case(
        f"recipe: {name}", "train", words, line, written("own/recipe/mine.yaml", content), code
    )


HEADER = "# @package _global_\n"
ON_SMOKE = HEADER + "defaults:\n  - smoke\n"
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
OWN = ("--config-dir", "own", "recipe=mine", "output_dir=run")
RECIPES = (
    *(recipe(kind, content, "mine.yaml") for kind, content in NOT_TEXT.items() if kind != "empty"),
    recipe("empty", "", "mine.yaml: a recipe's first line must be"),
    recipe("a list", HEADER + "- 1\n- 2\n", "mine.yaml"),
    recipe("a text", HEADER + "just words\n", "mine.yaml"),
    recipe("a number", HEADER + "7\n", "mine.yaml"),
    recipe("nested 100,000 deep", HEADER + f"a: {DEEP}\n", "mine.yaml"),
    recipe("aliases that expand", HEADER + BOMB, "mine.yaml"),
    recipe("an alias of itself", HEADER + "seed: &a [*a]\n", "mine.yaml"),
    recipe("an integer of 5,000 digits", HEADER + f"seed: {LONG_INTEGER}\n", "mine.yaml"),
    recipe("a tab", HEADER + "trainer:\n\tepochs: 1\n", "mine.yaml, line 3"),
    recipe("a key twice", HEADER + "seed: 1\nseed: 2\n", "mine.yaml"),
    recipe(
        "a Python object",
        HEADER + "seed: !!python/object/apply:os.system ['touch ../x']\n",
        "mine.yaml",
    ),
    recipe("includes itself", HEADER + "defaults:\n  - mine\n", "includ"),
    recipe("its first line is missing", "seed: 2\n", "first line"),
    recipe(
        "sets hydra",
        HEADER + "hydra:\n  callbacks:\n    x:\n      _target_: os.system\n",
        "must not set hydra",
    ),
    recipe(
        "overrides hydra",
        HEADER + "defaults:\n  - override /hydra/launcher: joblib\n",
        "must not set hydra",
    ),
    recipe("is packaged as hydra", "# @package hydra\ncallbacks: {}\n", "must not set hydra"),
    recipe(
        "an option that is absent",
        HEADER + "defaults:\n  - override /adapter: none_such\n",
        "none_such",
    ),
    recipe("an unknown key", HEADER + "trainer:\n  epoch: 2\n", "mine.yaml"),
    recipe("a value that is not set", ON_SMOKE + "seed: ???\n", "seed"),
    recipe("a text in place of a section", HEADER + "trainer: fast\n", "trainer"),
    recipe("a list in place of a section", HEADER + "adapter: [lora]\n", "mine.yaml"),
    recipe("null in place of a section", HEADER + "dataset: null\n", "dataset"),
    recipe("defaults is a text", HEADER + "defaults: adapter\n", "mine"),
    recipe("defaults has a number", HEADER + "defaults:\n  - 7\n", "mine"),
    recipe("an escape sequence in a key", HEADER + '"\\e[31mseed": 1\n', "seed"),
    recipe(
        "a key with an interpolation of the environment", HEADER + "seed: ${oc.env:HOME}\n", "seed"
    ),
    recipe(
        "a task from elsewhere", HEADER + "task:\n  x:\n    name: ../x\n    source: y\n", "task.x"
    ),
    recipe("a task without a source", HEADER + "task:\n  x:\n    name: x\n", "task.x.source"),
    recipe("5 MiB", HEADER + "# " + "x" * 5 * 2**20, "mine.yaml"),
    recipe("chosen as ???", HEADER, "recipe", chosen="'???'"),
    recipe("chosen as a path", HEADER, "recipe", chosen="../../etc/passwd"),
    recipe("chosen by 300 characters", HEADER, "recipe", chosen=LONG),
    Case(
        "recipe: a pipe",
        "train",
        OWN,
        "mine.yaml",
        both(directory("own/recipe"), fifo("own/recipe/mine.yaml")),
    ),
    Case("recipe: a folder", "train", OWN, "mine", directory("own/recipe/mine.yaml")),
    Case(
        "recipe: a link to nowhere",
        "train",
        OWN,
        "mine",
        both(directory("own/recipe"), symlink("own/recipe/mine.yaml", "nowhere")),
    ),
    Case(
        "recipe: a link to itself",
        "train",
        OWN,
        "mine",
        both(directory("own/recipe"), symlink("own/recipe/mine.yaml", "mine.yaml")),
    ),
)
CASES = (*VALUES, *WORDS, *RECIPES)
