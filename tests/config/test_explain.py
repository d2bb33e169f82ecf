"""An error anywhere in the input is one line in the user's terms, and exit code 2."""

import pytest

ERRORS = {
    "recipe/typo": "# @package _global_\ntrainer:\n  max_stesp: 4\n",
    "recipe/bad_value": "# @package _global_\ntrainer:\n  keep: 0\n",
    "recipe/no_header": "trainer:\n  max_steps: 4\n",
    "recipe/no_group": "# @package _global_\ndefaults:\n  - override /modle: tiny\n",
    "recipe/no_option": "# @package _global_\ndefaults:\n  - override /model: tini\n",
    "recipe/no_yaml": "# @package _global_\ntrainer: [\n  max_steps: 4\n",
    "recipe/dangling": "# @package _global_\nmodel:\n  path: ${nowhere}\n",
    "adapter/typo": "# mine\nname: toplora\ngate:\n  actvation: exp\n",
    "adapter/bad_value": "# mine\nname: toplora\nr: many\n",
    "adapter/short": "# mine\nname: toplora\nr: 4\n",
    "adapter/stranger": "# mine\nname: topora\n",
    "task/typo": "# @package task.typo\nname: typo\nsorce: x.jsonl\n",
    "task/no_header": "name: no_header\nsource: x.jsonl\n",
    "model/nameless": "# mine\npath: me/model\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    for name, text in ERRORS.items():
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.chdir(tmp_path)
    return ["--config-dir", "own"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("adapter.rnak=4", "unknown key 'adapter.rnak'; did you mean 'adapter.r'?"),
        ("+adapter.rnak=4", "unknown key 'adapter.rnak'; did you mean 'adapter.r'?"),
        ("++adapter.rnak=4", "unknown key 'adapter.rnak'; did you mean 'adapter.r'?"),
        (
            "adapter.gate.actvation=exp",
            "unknown key 'adapter.gate.actvation'; did you mean 'adapter.gate.activation'?",
        ),
        (
            "+adapter.gate.actvation=exp",
            "unknown key 'adapter.gate.actvation'; did you mean 'adapter.gate.activation'?",
        ),
        ("task=[piqa,winogrand]", "no task named 'winogrand'; did you mean 'winogrande'?"),
        ("task=[nosuch]", "no task named 'nosuch'; known: addsub, "),
        ("lr=1e-3", "unknown key 'lr'; did you mean 'optimizer.lr'?"),
        ("modle=tiny", "unknown key 'modle'; did you mean 'model'?"),
        ("+command=x", "unknown key 'command'"),
        (
            "recipe=lama3_math",
            "no recipe named 'lama3_math'; did you mean 'llama3_math'? known: ",
        ),
        ("adapter=zzz", "no adapter named 'zzz'; known: "),
        ("model=gpt2", "by its hub id or folder: model.path=gpt2"),
        ("seed", "'seed' is not of the form key=value"),
        ("output_dir=runs/a=b", "quote its value: \"output_dir='runs/a=b'\""),
        ("seed=1,2", "seed=1,2 gives several values; add -m to run each of them"),
        ("adapter=5", "adapter=5: adapter takes the name of an option; leave it out, or choose"),
        ("task=null", "task=null: task takes the name of an option; leave it out, or choose"),
        ("-m tracker=none,null", "tracker=none,null: tracker takes the name of an option; leave"),
        ("task=[a,b", "task=[a,b cannot be parsed"),
        (
            "hydra.run.dir=x",
            "'hydra.run.dir=x' has no effect on a run's folder; set output_dir=DIR",
        ),
        ("dataset=jsonl", "dataset.train is not set"),
        ("resume=auto", "resume=auto needs output_dir=DIR"),
        ("output_dir=", "output_dir is empty"),
        ("dataset.test=", "dataset.test is empty; give a path"),
        ("dataset.train=['',rows.jsonl]", "dataset.train is empty"),
        ("adapter.start_from=", "adapter.start_from is empty"),
        ("data_root=", "data_root is empty"),
        ("output_dir=a,b", "or quote it: \"output_dir='a,b'\""),
        ("model.path=${nowhere}", "model.path: Interpolation key 'nowhere' not found"),
        ("task.boolq.max_new_tokens=4", "task=[boolq]"),
        ("~adapter.nothing", "adapter.nothing"),
        ("~seed", "'~seed' removes a setting"),
        ("--bogus", "unrecognized arguments: --bogus"),
        ("--resolve", "--resolve needs --cfg job"),
        ("--config-dir nowhere", "nowhere' not found"),
        ("-m --cfg job", "--multirun and --cfg are mutually exclusive"),
        ("-m adapter=lora,dora adapter.gate.norm=none", "unknown key 'adapter.gate.norm'"),
        ("-m adapter=lora,dora adapter.ranks=[1]", "unknown key 'adapter.ranks' for adapter=lora"),
    ],
)
def test_an_error_on_the_command_line(refused, words, message):
    assert message in refused(*words.split())


@pytest.mark.parametrize(
    "show",
    [[], pytest.param(["--cfg", "job"], marks=pytest.mark.slow)],
    ids=["run", "cfg"],
)
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "recipe=typo",
            "own/recipe/typo.yaml: unknown key 'trainer.max_stesp'; "
            "did you mean 'trainer.max_steps'?",
        ),
        ("recipe=bad_value", "own/recipe/bad_value.yaml: trainer.keep must be at least 1, not 0"),
        ("recipe=no_header", "own/recipe/no_header.yaml: a recipe's first line must be"),
        ("recipe=no_group", "own/recipe/no_group.yaml: unknown key 'modle'"),
        (
            "recipe=no_option",
            "own/recipe/no_option.yaml: no model named 'tini'",
        ),
        ("recipe=no_yaml", "own/recipe/no_yaml.yaml, line 4: not valid YAML"),
        ("recipe=dangling", "own/recipe/dangling.yaml: model.path: Interpolation key"),
        ("adapter=typo", "own/adapter/typo.yaml: unknown key 'adapter.gate.actvation'"),
        ("adapter=bad_value", "own/adapter/bad_value.yaml: adapter.r must be an integer"),
        ("adapter=short adapter.alpha=3", "set it with +adapter.alpha=..."),
        ("adapter=stranger", "adapter.name: no adapter named 'topora'; did you mean 'toplora'"),
        ("task=[typo]", "own/task/typo.yaml: unknown key 'task.typo.sorce'"),
        ("task=[no_header]", "own/task/no_header.yaml: a task's first line must be"),
        ("model=nameless", "model.name is not set"),
    ],
)
def test_an_error_in_a_users_file_names_the_file(refused, own, words, message, show):
    assert message in refused(*own, *words.split(), *show)


def test_an_error_in_a_users_file_names_the_file_where_the_configuration_is_shown(refused, own):
    line = refused(*own, "recipe=bad_value", "--cfg", "job")
    assert line.startswith("own/recipe/bad_value.yaml: trainer.keep must be at least 1, not 0")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("=5", "'=5' is not of the form key=value"),
        (f"seed={'9' * 5000}", "has a number of more than 4,300 digits"),
        (f"{'x' * 300}=1", "has a key of 300 characters"),
        (f"task=[{'a,' * 20_000}a]", "has 40,008 characters"),
        ("trainer.note=\x1b[2J", "\\x1b[2J"),
        ("seed=" + "[" * 2000, " ... "),
    ],
)
def test_a_word_that_the_parser_fails_on_is_one_printable_line(refused, word, message):
    line = refused(word)
    assert message in line
    assert "\x1b" not in line
    assert len(line) < 2000
