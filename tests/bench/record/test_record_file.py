"""Records on disk: what is written is read back, and nothing else is."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.record import (
    Cache,
    Peaks,
    Picture,
    Report,
    Row,
    Setting,
    Telemetry,
    Timing,
    Turn,
)
from bench.record.file import read_record, record_text, write_record
from bench.record.private import private
from dabnet.errors import InputError
from dabnet.records import MOST_BYTES, MOST_NESTS, MOST_VALUES
from tests.support import ROOT
from tests.support.sample_reports import ROWS, SETTING, sample_report

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
whole = st.integers(1, 2**53)
amounts = st.floats(0, 1e30)
rates = st.floats(1, 1e30)
maybe_amount = st.none() | amounts
turns = st.builds(
    Turn,
    round=st.integers(0, 99),
    start_s=st.floats(0, 1e9),
    wall_s=st.floats(1e-9, 1e9),
    samples_ns=st.lists(whole, min_size=1, max_size=30).map(tuple),
    telemetry=st.builds(
        Telemetry,
        foreign_cores=maybe_amount,
        gpu_energy_j=maybe_amount,
        gpu_processes=st.none() | st.integers(0, 9),
        gpu_foreign_share=st.none() | st.floats(0, 1),
        clock_reasons=st.lists(texts, max_size=2).map(tuple),
        throttled=st.lists(texts, max_size=2).map(tuple),
    ),
    marks=st.sampled_from([(), ("disturbed",), ("disturbed", "throttled")]),
    counted=st.booleans(),
)
peaks = st.builds(
    Peaks,
    device=texts,
    bytes_per_s=rates,
    multiply_adds_per_s=st.dictionaries(texts, rates, max_size=2),
    measured=texts,
    cache=st.none() | st.builds(Cache, size_bytes=whole, bytes_per_s=rates),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def reports(draw: st.DrawFn) -> Report:
    sizes = [SETTING, Setting((360, 480), batch=4, streams=2)][: draw(st.integers(1, 2))]
    report = sample_report(
        settings=tuple(sizes),
        seed=draw(st.integers(0, 9)),
        environment=draw(st.dictionaries(texts, texts, max_size=3)),
        scenario=draw(st.dictionaries(texts, plain, max_size=3)),
        peaks=draw(st.none() | peaks),
        harness_ns=draw(maybe_amount),
        complete=draw(st.booleans()),
        pictures=(Picture(draw(texts), "truth", draw(texts)),),
    )
    timing = Timing("paper", turns=tuple(draw(st.lists(turns, max_size=3))))
    manifest = draw(st.dictionaries(texts, plain, max_size=3))
    row = Row("drawn", SETTING, reason=draw(texts), manifest=manifest, timings=(timing,))
    return dataclasses.replace(report, rows=(*report.rows, row))


@settings(deadline=None, max_examples=40)
@given(reports())
def test_a_record_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, report: Report
) -> None:
    path = tmp_path_factory.mktemp("record") / "bench.json"
    write_record(report, path)
    read = read_record(path)
    assert read == private(report)
    assert type(read.rows[0].timings[0].turns[0].wall_s) is float
    assert record_text(read) == path.read_text(encoding="utf-8")


def test_a_record_without_later_keys_is_read(tmp_path: Path) -> None:
    path = ROOT / "studies/results/bench_camvid_avx512.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    del raw["peaks"]["cache"]
    for key in ("gpu_foreign_share", "clock_reasons"):
        del raw["rows"][0]["timings"][0]["turns"][0]["telemetry"][key]
    older = tmp_path / "older.json"
    older.write_text(json.dumps(raw), encoding="utf-8")
    read = read_record(older)
    assert read.peaks is not None and read.peaks.cache is None
    telemetry = read.rows[0].timings[0].turns[0].telemetry
    assert (telemetry.gpu_foreign_share, telemetry.clock_reasons) == (None, ())


def test_a_turn_is_one_line_and_plain_json_reads_it(tmp_path: Path) -> None:
    report = sample_report()
    write_record(report, tmp_path / "bench.json")
    text = (tmp_path / "bench.json").read_text(encoding="utf-8")
    ran = sum(figures is not None for figures in ROWS.values())
    lines = [line for line in text.splitlines() if '"samples_ns"' in line]
    assert len(lines) == ran * 2 * 4  # scopes, rounds
    assert all(json.loads(line.rstrip(",")).keys() >= {"round", "wall_s"} for line in lines)
    assert json.loads(text)["rows"][0]["setting"] == {"size": [512, 1024], "batch": 1, "streams": 1}
    assert list(tmp_path.iterdir()) == [tmp_path / "bench.json"]


def test_what_is_no_number_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    write_record(sample_report(), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_record(sample_report(harness_ns=math.nan), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


Change = Callable[[dict[str, Any]], Any]
DAMAGES: dict[str, tuple[Change, str]] = {
    "older": (lambda r: r.update(format=2), "a record of format 2; expected format 4; measure"),
    "newer": (lambda r: r.update(format=5), "of format 5; expected format 4; install"),
    "no format": (lambda r: r.pop("format"), "no valid record: format: expected 4, got null"),
    "format of text": (lambda r: r.update(format="4"), 'format: expected 4, got "4"'),
    "format of truth": (lambda r: r.update(format=True), "format: expected 4, got true"),
    "unknown key": (lambda r: r.update(fps=1), "fps: unknown key"),
    "unknown key within": (
        lambda r: r["rows"][0]["setting"].update(depth=1),
        "rows[0].setting.depth: unknown key",
    ),
    "missing key": (lambda r: r["rows"][1].pop("name"), "rows[1].name: missing"),
    "text for a number": (
        lambda r: r["rows"][0]["timings"][0]["turns"][2].update(wall_s="1.5"),
        'rows[0].timings[0].turns[2].wall_s: expected a valid number, got "1.5"',
    ),
    "truth for a number": (
        lambda r: r["rows"][0]["timings"][0]["turns"][2].update(wall_s=True),
        "wall_s: expected a valid number, got true",
    ),
    "text for an array": (
        lambda r: r.update(images="ab"),
        'images: expected a valid array, got "ab"',
    ),
    "number for a text": (
        lambda r: r["environment"].update(gpu=1),
        "environment.gpu: expected a valid string, got 1",
    ),
    "number for a truth": (
        lambda r: r.update(complete=1),
        "complete: expected a valid boolean, got 1",
    ),
    "fraction of a sample": (
        lambda r: r["rows"][0]["timings"][0]["turns"][0]["samples_ns"].append(1.5),
        "samples_ns[12]: expected a valid integer, got 1.5",
    ),
    "sample of no time": (
        lambda r: r["rows"][0]["timings"][0]["turns"][0]["samples_ns"].append(0),
        "samples_ns[12]: expected greater than or equal to 1, got 0",
    ),
    "sample beyond 64 bits": (
        lambda r: r["rows"][0]["timings"][0]["turns"][0]["samples_ns"].append(2**63),
        "9223372036854775808 exceeds 64 bits",
    ),
    "a turn less": (
        lambda r: r["rows"][0]["timings"][1]["turns"].pop(),
        "scope 'device' sums up 48 calls of 36",
    ),
    "three sides": (
        lambda r: r["rows"][0]["setting"].update(size=[1, 2, 3]),
        "rows[0].setting.size: Tuple should have at most 2 items after validation, not 3",
    ),
    "one side": (
        lambda r: r["rows"][0]["setting"].update(size=[1]),
        "rows[0].setting.size[1]: missing",
    ),
    "null for an object": (
        lambda r: r["rows"][0].update(footprint=None),
        "rows[0].footprint: expected an object, got null",
    ),
    "a row twice": (lambda r: r["rows"].append(r["rows"][0]), "2 rows 'pytorch-fp32' at 512x1024"),
    "an image less": (lambda r: r["images"].pop(), "hits that are not of 7 images and 3 classes"),
    "a class less": (lambda r: r["classes"].pop(), "IoU of 3 classes of 2"),
    "not a number": (lambda r: r.update(harness_ns=math.nan), "not JSON: Out of range float"),
    "not a number within": (
        lambda r: r["scenario"].update(x=[-math.inf]),
        "not JSON: Out of range float",
    ),
    "half a character": (lambda r: r.update(key="\ud800"), "surrogates not allowed"),
    "half a character in a key": (
        lambda r: r["scenario"].update({"\ud800": 1}),
        "surrogates not allowed",
    ),
    "two faults": (lambda r: r.update(key=1, fps=1), "got 1 (and 1 more)"),
    "no subject": (lambda r: r.update(subjects=[]), "0 subjects of 0 labels"),
    "a subject twice": (lambda r: r["subjects"].append(r["subjects"][0]), "2 subjects of 1 labels"),
    "more than all pixels right": (
        lambda r: r["rows"][0]["accuracy"]["score"].update(pixel_accuracy=1.5),
        "pixel_accuracy: expected less than or equal to 1, got 1.5",
    ),
    "a mean IoU of 500 %": (
        lambda r: r["rows"][0]["accuracy"]["score"]["miou"].update(value=5.0),
        "a mean IoU of (5.0,",
    ),
    "an interval upside down": (
        lambda r: r["rows"][0]["timings"][0]["fps"].update(low=2.0, high=1.0),
        "scope 'host' has fps (",
    ),
    "more hits than pixels": (
        lambda r: r["rows"][0]["accuracy"]["score"]["hits"][0].__setitem__(0, 10**6),
        "more hits than the union of a class has pixels",
    ),
    "a time below 0": (
        lambda r: r["rows"][0]["timings"][0]["latency"].update(p50_ms=-5.0),
        "p50_ms: expected greater than 0, got -5.0",
    ),
    "a median of no samples": (
        lambda r: r["rows"][0]["timings"][0]["latency"].update(p50_ms=0.001),
        "scope 'host' has p50_ms 0.001, and its samples have 8",
    ),
    "a colour less": (lambda r: r["palette"].pop(), "2 colours of 3 classes"),
    "a colour of 999": (
        lambda r: r["palette"][0].__setitem__(1, 999),
        "palette[0][1]: expected less than or equal to 255, got 999",
    ),
    "a name of 2000 characters": (
        lambda r: r["classes"].__setitem__(0, "x" * 2000),
        "classes[0]: String should have at most 1000 characters",
    ),
    "a size of 2**62": (
        lambda r: r["rows"][0]["setting"].update(size=[2**62, 8]),
        "rows[0].setting.size[0]: expected less than or equal to 1048576",
    ),
    "a row of another subject": (
        lambda r: r["rows"][0].update(of="enet"),
        "pytorch-fp32 of 'enet'",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_a_damaged_record_is_one_line(tmp_path: Path, case: str) -> None:
    change, said = DAMAGES[case]
    raw = json.loads(record_text(sample_report()))
    change(raw)
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(raw), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_record(path)
    message = str(caught.value)
    assert said in message and str(path) in message and "\n" not in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"{", "holds no valid record: not JSON"),
        (b"\xff\xfe{}", "not JSON: 'utf-8' codec"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"format": 4, "scenario": ' + b"[" * 400 + b"]" * 400 + b"}", "nested too deep"),
        (b"[1, 2]", "at its top: expected an object, got [1, 2]"),
        (b"null", "at its top: expected an object, got null"),
        (b'{"format": 4, "harness_ns": 1e999}', "not JSON: Out of range float"),
        (b'{"format": 4, "format": 4}', "not JSON: the key 'format' occurs twice"),
        (b'{"format": ' + b"9" * 5000 + b"}", "999 exceeds 64 bits"),
        (b'{"rows": [], "model": "dabnet", "format": 1}', "holds a record of format 1"),
        (b'{"a": "b", "format": 1}', 'none of its keys, such as "a", is known'),
        (b'{"format": 1}', "none of its keys"),
    ],
)
def test_a_foreign_file_is_one_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_record(path)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="no file at"):
        read_record(tmp_path / "absent.json")


def test_a_file_is_bounded_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content, said in (
        (b"[" + b"0," * (MOST_VALUES + 1) + b"0]", "more than 20,000,000 values"),
        (b"[" + b"{}," * MOST_NESTS + b"0]", "more than 2,000,000 arrays and objects"),
        (b'"' + b"x" * MOST_BYTES + b'"', "more than 150 MB"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=said):
            read_record(path)


def test_every_cut_of_a_record_is_refused(tmp_path: Path) -> None:
    text = record_text(sample_report())
    path = tmp_path / "bench.json"
    for length in range(1, len(text) - 2, 997):
        path.write_text(text[:length], encoding="utf-8")
        with pytest.raises(InputError):
            read_record(path)
