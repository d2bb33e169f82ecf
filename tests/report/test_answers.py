import base64
import dataclasses
import gzip
import json

from tests.report.made_up import HOSTILE, made_up_answers
from toplora_train.evaluation.predictions import Prediction
from toplora_train.report.answers import LONGEST, answer_table

BASE, TUNED = made_up_answers(60)


def unpacked(table):
    return json.loads(gzip.decompress(base64.b64decode(table["packed"])))


def test_the_filters_count_what_both_models_answered():
    table = answer_table("t", TUNED, BASE, seen={"row-3", "row-4"})
    pairs = [(one.correct, other.correct) for one, other in zip(BASE, TUNED, strict=True)]
    assert table["counts"] == {
        "fixed": pairs.count((False, True)),
        "broken": pairs.count((True, False)),
        "wrong": sum(not tuned for _, tuned in pairs),
        "right": sum(tuned for _, tuned in pairs),
        "unreadable": sum(one.prediction is None for one in TUNED),
        "seen": 2,
        "all": 60,
    }
    assert list(table["counts"])[:2] == ["fixed", "broken"]
    assert table["counts"]["fixed"] and table["counts"]["broken"]


def test_without_the_base_model_nothing_was_fixed_or_broken():
    counts = answer_table("t", TUNED, ())["counts"]
    assert "fixed" not in counts and "broken" not in counts and "seen" not in counts


def test_a_row_has_both_answers_and_the_prompt_without_what_all_prompts_share():
    table = unpacked(answer_table("t", TUNED, BASE))
    assert table["before"] == "Below is an instruction.\n\n### Instruction:\n"
    assert table["after"] == "\n\n### Response:\n"
    place, row_id, flags, prompt, label, answer, output, length, base, base_output, scores = table[
        "rows"
    ][5]
    assert (place, row_id, label, scores) == (5, "row-5", "5", None)
    assert table["before"] + prompt + table["after"] == TUNED[5].prompt
    assert (answer, output, length) == (TUNED[5].prediction, TUNED[5].output, len(TUNED[5].output))
    assert (base, base_output) == (BASE[5].prediction, BASE[5].output)
    assert flags == TUNED[5].correct + 2 * BASE[5].correct


def test_prompts_of_which_one_is_part_of_the_other_are_kept_whole():
    for prompts in (("a\nb\nb", "a\nb"), ("x", "x"), ("a\n", "a\n"), ("", "q\n")):
        rows = [Prediction(str(n), prompt, "", "", "", True) for n, prompt in enumerate(prompts)]
        table = unpacked(answer_table("t", rows, ()))
        shown = tuple(table["before"] + row[3] + table["after"] for row in table["rows"])
        assert shown == prompts


def test_the_scores_of_each_choice_stand_beside_the_base_models():
    own = dataclasses.replace(TUNED[1], scores={"a": -1.5, "b": -2.5})
    other = dataclasses.replace(BASE[1], scores={"a": -3.0, "b": -0.5})
    (row,) = unpacked(answer_table("t", [own], [other]))["rows"]
    assert row[-1] == [["a", -1.5, -3.0], ["b", -2.5, -0.5]]


def test_control_characters_are_escapes_and_long_texts_are_cut_with_a_note():
    long = dataclasses.replace(TUNED[1], output="x" * 100_000)
    table = answer_table("t", [TUNED[0], long], BASE)
    rows = unpacked(table)["rows"]
    assert not set(rows[0][6]) & set("\x00\x1b\u202e")
    assert "\\x00" in rows[0][6] and "\\x1b[31m" in rows[0][6] and "\U0001f600" in rows[0][6]
    assert rows[1][6].startswith(
        "x" * LONGEST + "…\n[96,000 more characters in predictions/t.jsonl]"
    )
    assert rows[1][7] == 100_000
    assert table["cut"] == 1
    assert not set("<>&\"'") & set(table["packed"])
    assert HOSTILE not in table["packed"]


def test_what_does_not_fit_is_left_out_and_what_the_adapter_changed_stays():
    base, tuned = made_up_answers(3000)
    whole = answer_table("t", tuned, base)
    table = answer_table("t", tuned, base, most_bytes=len(whole["packed"]) * 3 // 4)
    rows = unpacked(table)["rows"]
    assert whole["shown"] == 3000
    assert table["rows"] == 3000
    assert table["shown"] == len(rows) < 3000
    assert len(table["packed"]) <= len(whole["packed"]) * 3 // 4
    changed = [n for n in range(3000) if tuned[n].correct != base[n].correct]
    assert set(changed) <= {row[0] for row in rows}
    assert table["counts"] == whole["counts"]
    assert answer_table("t", tuned, base)["packed"] == whole["packed"]
