"""How records become rows, found without torch."""

import pytest

from toplora_train.config.errors import UserError
from toplora_train.config.schema import DatasetSettings
from toplora_train.run.prepare.parsing import own_parser


def test_rows_are_read_under_other_names_or_by_a_sets_own_format_but_not_both():
    record = {"question": "2 + 2?", "answer": "So 2 + 2 = <<2+2=4>>4.\n#### 4"}
    how = {"place": "a.jsonl, line 1", "default_id": "a-1"}
    by_format = own_parser(DatasetSettings(name="d", format="gsm8k"))(record, **how)
    assert (by_format.output, by_format.answer) == ("So 2 + 2 = 4.\nThe answer is 4.", "4")
    names = {"instruction": "question", "output": "answer"}
    by_names = own_parser(DatasetSettings(name="d", fields=names))(record, **how)
    assert by_names.output == record["answer"]
    with pytest.raises(UserError, match=r"format=gsm8k defines .* so does dataset\.fields"):
        own_parser(DatasetSettings(name="d", fields=names, format="gsm8k"))
