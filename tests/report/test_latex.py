import re

from toplora_train.report.comparison_tables import Cell, Table
from toplora_train.report.latex import ESCAPES, latex_tables, latex_text


def test_a_table_is_a_plain_tabular():
    table = Table("A & B", ["method", "score"], [[Cell("x_1"), Cell("50.0 % ± 1", 0.5)]])
    assert latex_tables([table]).splitlines() == [
        "% A & B",
        r"\begin{tabular}{lr}",
        r"method & score \\",
        r"\hline",
        r"x\_1 & 50.0 \% $\pm$ 1 \\",
        r"\end{tabular}",
    ]


def test_no_special_character_is_left():
    special = "".join(ESCAPES)
    shown = latex_text(f"a{special}b\n\nc")
    for escape in sorted(ESCAPES.values(), key=len, reverse=True):
        shown = shown.replace(escape, "")
    assert shown == "ab c"
    assert not re.search(r"[&%$#_{}~^\\]", shown)
