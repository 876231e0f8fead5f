import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from cafe_cli.errors import GridError
from cafe_cli.findings import (
    Finding,
    Report,
    count_as_said,
    group_findings,
    log_warnings,
    warn_once,
)

NOTE = Finding("note", "heights are interpolated", "a")
WARNING = Finding("warning", "heights look like feet", "a")
ERROR = Finding("error", "no overlap", "a")


@pytest.mark.parametrize(
    ("findings", "ok"), [([], True), ([NOTE, WARNING], True), ([NOTE, ERROR], False)]
)
def test_only_errors_make_a_report_fail(findings, ok):
    assert Report("a", findings=findings).ok is ok


def test_a_finding_is_added_once():
    report = Report("a")
    report.add(NOTE, NOTE)
    report.add(NOTE, ERROR)
    assert report.findings == [NOTE, ERROR]


def test_findings_of_one_place_name_it():
    report = Report("a", findings=[ERROR])
    report.add_all((f for f in [Finding("note", "heights are interpolated"), ERROR]), "a")
    assert report.findings == [ERROR, NOTE]


def test_json_holds_everything_with_the_gravest_first():
    report = Report("scene a", {"image": {"bands": ["red"]}}, [NOTE, ERROR, WARNING])
    plain = json.loads(json.dumps(report.as_json()))
    assert list(plain) == ["title", "ok", "facts", "findings"]
    assert plain["title"] == "scene a"
    assert plain["ok"] is False
    assert plain["facts"] == {"image": {"bands": ["red"]}}
    assert [f["level"] for f in plain["findings"]] == ["error", "warning", "note"]
    assert plain["findings"][0] == {"level": "error", "message": "no overlap", "where": "a"}


def test_what_fails_inside_becomes_a_finding():
    report = Report("a")
    with report.capture_errors("dsm.tif"):
        raise GridError("no overlap")
    assert report.findings == [Finding("error", "no overlap", "dsm.tif")]


def test_faults_of_the_program_are_not_findings():
    report = Report("a")
    with pytest.raises(KeyError), report.capture_errors():
        raise KeyError("oops")
    assert not report.findings


def test_findings_are_counted_by_level():
    report = Report("a", findings=[NOTE, WARNING, NOTE])
    assert [report.count(level) for level in ("error", "warning", "note")] == [0, 1, 2]


def test_a_warning_is_logged_once_for_every_scene(caplog):
    with ThreadPoolExecutor(4) as pool:
        for scene in ("a.tif", "b.tif"):
            list(pool.map(lambda _, name=scene: warn_once(name, "5 % are void"), range(20)))
    warn_once("a.tif", "6 % are void")
    assert caplog.messages == ["5 % are void", "5 % are void", "6 % are void"]


def test_warnings_of_an_inspection_are_logged_once_and_not_after_a_report(caplog):
    told, reported = Finding("warning", "no sea", "told"), Finding("warning", "no sea", "reported")
    count_as_said([reported])
    for _ in range(2):
        log_warnings([told, reported, Finding("note", "a pond", "told")])
    assert caplog.messages == ["no sea"]


# Groups


def scenes_with(*messages, level="note"):
    """Return a finding per scene; `{}` in a message is the name of its file."""
    return [
        Finding(level, text.format(f"/data/s{i}/dsm.tif"), f"/data/s{i}/dsm.tif", f"s{i}")
        for i, text in enumerate(messages)
    ]


@pytest.mark.parametrize(
    ("messages", "worst"),
    [
        (("half of the pixels lie 12.5 m high", "half of the pixels lie 31 m high"), 1),
        (("1,200 px, of 9 m", "300 px, of 9 m", "50 px, of 9 m"), 0),
        (("5 % lie below -3.5 m", "5 % lie below -4.5 m"), 1),
        (("{} has 4 bands", "{} has 5 bands"), 1),
        (("not seen here: water", "not seen here: water, car", "not seen here: car"), 1),
        (("moved 2.0 px to the left and 1 px up", "moved 1.0 px to the right and 2 px down"), 0),
        (("the same", "the same"), 0),
    ],
)
def test_what_scenes_have_in_common_is_one_group(messages, worst):
    findings = scenes_with(*messages)
    (group,) = group_findings(findings)
    assert group[0] is findings[worst]
    assert len(group) == len(messages)


def test_low_numbers_may_be_the_worst():
    findings = [
        Finding("warning", f"covers {100 - b} % of it", scene=str(b), badness=b)
        for b in (5, 40, 10)
    ]
    assert [f.scene for f in group_findings(findings)[0]] == ["40", "10", "5"]


@pytest.mark.parametrize(
    "findings",
    [
        scenes_with("3 px", "4 px", level="error"),
        scenes_with("3 px are odd", "3 px are void"),
        [Finding("note", "3 px"), Finding("note", "4 px")],
        [*scenes_with("3 px"), *scenes_with("3 px", level="warning")],
    ],
)
def test_what_differs_stays_alone(findings):
    assert [len(group) for group in group_findings(findings)] == [1, 1]


def test_a_file_of_two_scenes_is_reported_once():
    report = Report("check")
    report.add(Finding("note", "a", "dsm.tif", "one"), Finding("note", "a", "dsm.tif", "two"))
    assert report.as_json()["findings"] == [
        {"level": "note", "message": "a", "where": "dsm.tif", "scene": "one"}
    ]
