"""Folders of base models."""

from __future__ import annotations

import json
import struct

from tests.cases.case import (
    NOT_A_MAPPING,
    NOT_TEXT,
    Case,
    Make,
    both,
    changed,
    copied,
    cut,
    directory,
    fifo,
    put,
    symlink,
    without,
    written,
)

CONFIG, WEIGHTS = "model/config.json", "model/model.safetensors"
TOKENIZER, GENERATION = "model/tokenizer.json", "model/generation_config.json"
REMOTE = "open('../../../../../ran', 'w').close()\n"
AUTO_MAP = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}


def model(name: str, make: Make, line: str, *, stdin: bytes = b"") -> Case:
    """A valid folder with something changed."""
    words = ("recipe=smoke", "model.path=model", "output_dir=run", "evaluation.base=false")
    return Case(f"model: {name}", "train", words, line, both(copied("model"), make), stdin=stdin)


def header(content: dict, data: bytes = b"") -> bytes:
    """A safetensors file with this header."""
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


CODE = both(
    put(CONFIG, model_type="evil", auto_map=AUTO_MAP),
    written("model/evil.py", REMOTE),
)
CASES = (
    *(
        model(f"config.json is {kind}", written(CONFIG, content), "config.json")
        for kind, content in (NOT_TEXT | NOT_A_MAPPING).items()
    ),
    model("config.json is {}", written(CONFIG, "{}"), "config.json: has no model_type"),
    model("config.json is absent", without(CONFIG), "config.json"),
    model("config.json is a pipe", fifo(CONFIG), "config.json"),
    model("config.json is a folder", directory(CONFIG), "config.json"),
    model("config.json is a link to a device", symlink(CONFIG, "/dev/zero"), "config.json"),
    model("an unknown model_type", put(CONFIG, model_type="abacus"), "abacus"),
    model("model_type is a number", put(CONFIG, model_type=7), "config.json"),
    model("model_type is a list", put(CONFIG, model_type=["llama"]), "config.json"),
    model("model_type is a path", put(CONFIG, model_type="../../x"), "config.json"),
    model(
        "model_type with an escape sequence", put(CONFIG, model_type="\x1b[31mred"), "config.json"
    ),
    *(
        model(f"{key} is {value!r}"[:50], put(CONFIG, **{key: value}), "config.json")
        for key, value in (
            ("num_attention_heads", 0),
            ("num_attention_heads", -4),
            ("num_attention_heads", "four"),
            ("num_attention_heads", 3),
            ("num_hidden_layers", 10**9),
            ("num_hidden_layers", 0),
            ("num_hidden_layers", None),
            ("hidden_size", 10**12),
            ("hidden_size", 64.5),
            ("hidden_size", True),
            ("vocab_size", 0),
            ("vocab_size", [258]),
            ("intermediate_size", -1),
            ("num_key_value_heads", 3),
            ("architectures", 7),
            ("architectures", [7]),
            ("dtype", "float7"),
            ("dtype", 7),
            ("dtype", "nn"),
            ("rope_parameters", "fast"),
        )
    ),
    *(
        model(f"an unknown {key}", put(CONFIG, **{key: value}), "model: cannot be loaded")
        for key, value in (
            ("hidden_act", "no_such_function"),
            ("rope_parameters", {"rope_type": "no_such_type"}),
        )
    ),
    model("no weights", without(WEIGHTS), "model"),
    model("empty weights", written(WEIGHTS, b""), "model.safetensors"),
    model("cut weights", cut(WEIGHTS), "model.safetensors"),
    model("weights cut in their header", cut(WEIGHTS, 0.001), "model.safetensors"),
    model("weights of text", written(WEIGHTS, "words" * 100), "model.safetensors"),
    model("weights without tensors", written(WEIGHTS, header({})), "model"),
    model(
        "a header of 2^63 bytes",
        written(WEIGHTS, struct.pack("<Q", 2**63) + b"{}"),
        "model.safetensors",
    ),
    model(
        "a header that is a list",
        written(WEIGHTS, struct.pack("<Q", 2) + b"[]"),
        "model.safetensors",
    ),
    model(
        "a tensor beyond the file",
        written(WEIGHTS, header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}})),
        "model.safetensors",
    ),
    model(
        "a tensor of an unknown dtype",
        written(
            WEIGHTS, header({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}}, b"abcd")
        ),
        "model.safetensors",
    ),
    model(
        "a tensor of another name",
        written(
            WEIGHTS, header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"abcd")
        ),
        "model",
    ),
    model("weights are a pipe", fifo(WEIGHTS), "model.safetensors"),
    model("weights are a folder", directory(WEIGHTS), "model"),
    model("weights of other shapes", put(CONFIG, hidden_size=32, head_dim=8), "config.json"),
    model("fewer layers than in the config", put(CONFIG, num_hidden_layers=5), "model"),
    model(
        "a pickle",
        both(
            without(WEIGHTS),
            written("model/pytorch_model.bin", b"\x80\x04cos\nsystem\n(S'touch ../ran'\ntR."),
        ),
        "pickled weights",
    ),
    model(
        "an index without weight_map",
        both(without(WEIGHTS), written("model/model.safetensors.index.json", "{}")),
        "weight_map",
    ),
    model(
        "an index that is cut",
        both(without(WEIGHTS), written("model/model.safetensors.index.json", '{"weight_map": {')),
        "index.json",
    ),
    model(
        "an index that names a file above",
        both(
            without(WEIGHTS),
            written(
                "model/model.safetensors.index.json", '{"weight_map": {"a": "../../x.safetensors"}}'
            ),
        ),
        "is not a file in this folder",
    ),
    model(
        "an index that names a missing file",
        both(
            without(WEIGHTS),
            written("model/model.safetensors.index.json", '{"weight_map": {"a": "b.safetensors"}}'),
        ),
        "b.safetensors",
    ),
    model(
        "an index that names numbers",
        both(
            without(WEIGHTS),
            written("model/model.safetensors.index.json", '{"weight_map": {"a": 7}}'),
        ),
        "index.json",
    ),
    model("code of its own", CODE, "model.trust_remote_code=true"),
    model("code of its own, and y", CODE, "model.trust_remote_code=true", stdin=b"y\n" * 9),
    model(
        "code for a known type",
        both(
            changed(
                CONFIG,
                lambda c: c.update(model_type="evil", auto_map={"AutoConfig": "evil.Config"}),
            ),
            written("model/evil.py", REMOTE),
        ),
        "model.trust_remote_code=true",
        stdin=b"y\n",
    ),
    model(
        "code of another repository",
        put(CONFIG, model_type="evil", auto_map={"AutoConfig": "them/evil--evil.Config"}),
        "model.trust_remote_code=true",
        stdin=b"y\n",
    ),
    *(
        model(f"tokenizer.json is {kind}", written(TOKENIZER, content), "model")
        for kind, content in (NOT_TEXT | NOT_A_MAPPING).items()
    ),
    model(
        "no tokenizer",
        both(without(TOKENIZER), without("model/tokenizer_config.json")),
        "tokenizer",
    ),
    model("a tokenizer that is a pipe", fifo(TOKENIZER), "model"),
    model("a tokenizer's config that is a pipe", fifo("model/tokenizer_config.json"), "model"),
    model(
        "a tokenizer's config that is a list", written("model/tokenizer_config.json", "[]"), "model"
    ),
    model("a tokenizer's config that is cut", cut("model/tokenizer_config.json"), "model"),
    model(
        "a tokenizer with code of its own",
        both(
            put(
                "model/tokenizer_config.json",
                tokenizer_class="Evil",
                auto_map={"AutoTokenizer": ["evil.T", None]},
            ),
            written("model/evil.py", REMOTE),
        ),
        "model",
        stdin=b"y\n",
    ),
    *(
        model(f"generation_config.json is {kind}", written(GENERATION, content), GENERATION)
        for kind, content in (NOT_TEXT | NOT_A_MAPPING).items()
    ),
    model("generation_config.json is a pipe", fifo(GENERATION), GENERATION),
)
