"""What the table says of two rows and what ``recommend`` says of them is one thing."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.judgement.recommend import Bounds, recommend
from bench.record import REFERENCE, Report
from bench.report.columns import SPEED, table
from bench.report.notes import int8_worth, notes
from bench.report.page.page import cards
from bench.statistics import EQUAL, FASTER, NOT_TOLD, SLOWER
from tests.support.sample_reports import SETTING, timed_report

NAMES = (REFERENCE, "a-fp32", "a-int8", "b-fp32", "b-bf16", "b-int8")
SENTENCES = {
    SLOWER: re.compile(r"(\S+) is slower than (\S+) here .*: ship (\S+)\.$"),
    EQUAL: re.compile(r"(\S+) is as fast as (\S+) here within 3 % .*: INT8 saves no time\.$"),
    NOT_TOLD: re.compile(r"(\S+) and (\S+) are not told apart here .*: measure more, (.*)\.$"),
}


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """Rows about as fast as each other, on a machine that is quiet or not."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rounds = draw(st.integers(2, 12))
    rows = {}
    for name in NAMES:
        level = 50 * (1 + draw(st.sampled_from((0.0, 0.005, 0.02, 0.028, 0.035, 0.2))))
        noise = draw(st.sampled_from((0.001, 0.01, 0.03, 0.1)))
        times = level * np.exp(noise * random.standard_normal(rounds))
        miou = draw(st.sampled_from((0.60, 0.62, 0.66)))
        rows[name] = (times.tolist(), miou, draw(st.sampled_from((1.0, 3.0))))
    return timed_report(rows)


def of_recommend(lines: list[str]) -> dict[str, str]:
    """Row → ``equal`` or ``not told apart`` and what would tell, of rows beside the chosen one."""
    found = {}
    for line in lines:
        if match := re.match(r"  equal within 3 %: (\S+) ", line):
            found[match[1]] = EQUAL
        if match := re.match(r"  not told apart: (\S+) .*: measure more, (.*)$", line):
            found[match[1]] = f"{NOT_TOLD}: {match[2]}"
    return found


@settings(deadline=None, max_examples=80)
@given(reports())
def test_the_table_and_recommend_agree(report: Report) -> None:
    chosen, lines = recommend(report, SETTING, Bounds())
    assert chosen is not None
    beside = of_recommend(lines)
    # The sentences under the table.
    for sentence in int8_worth(report):
        ((word, match),) = ((w, m) for w, form in SENTENCES.items() if (m := form.match(sentence)))
        int8, other = match[1], match[2]
        if word == SLOWER:
            assert match[3] == other and chosen.name != int8
        elif chosen.name in (int8, other):
            said = beside[other if chosen.name == int8 else int8]
            assert said == (EQUAL if word == EQUAL else f"{NOT_TOLD}: {match[3]}")
    # The word in the speed column, of each row and of the chosen one.
    grid = table(report, SETTING, SPEED)
    column = next(n for n, text in enumerate(grid.headings) if text.startswith("speed to PyTorch"))
    words = {line[0]: line[column].partition("] ")[2] for line in grid.lines}
    note = next((n for n in notes(report) if n.startswith("Not told apart from")), "")
    for name, word in words.items():
        if REFERENCE in (name, chosen.name) and chosen.name in (name, REFERENCE):
            continue
        if chosen.name == REFERENCE:
            expected = {EQUAL: EQUAL, SLOWER: "", NOT_TOLD: NOT_TOLD}[word]
            assert beside.get(name, "").partition(":")[0] == expected
        if word == NOT_TOLD and chosen.name in (name, REFERENCE):
            told = beside[REFERENCE if name == chosen.name else name]
            assert f"{name} ({told.removeprefix(f'{NOT_TOLD}: ')})" in note
    if chosen.name != REFERENCE:
        word = words[chosen.name]
        assert word in (FASTER, EQUAL, NOT_TOLD)
        assert (word == FASTER) == (REFERENCE not in beside)
    # The card of the page: the chosen row is the fastest, or no slower as far as the rounds tell.
    _, fastest, _, more = next(iter(cards(report, SETTING)))
    assert chosen.name == fastest or chosen.name in more.partition("as fast within 3 %:")[2]
