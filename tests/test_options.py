"""The table of options: reading, checking and what is said about unsupported ones."""

from dataclasses import fields
from pathlib import Path

import pytest

from passel.errors import UsageError
from passel.option_table import BY_NAME, HARMLESS, STAGE_OF_ODM, STAGES, SUPPORTED, TABLE
from passel.options import Options, parse_options


def test_every_field_of_options_is_set_by_one_option_with_the_same_default():
    by_field = {o.field: o for o in SUPPORTED if o.field}
    assert sorted(by_field) == sorted(f.name for f in fields(Options))
    assert {f: o.default for f, o in by_field.items()} == vars(Options())


def test_names_are_unique_and_defaults_lie_in_their_domains():
    assert len(BY_NAME) == len(TABLE)
    for option in TABLE:
        if isinstance(option.domain, tuple) and option.default:
            assert option.default in option.domain, option.name


def test_odm_command_line():
    parsed = parse_options(["--split", "200", "--split-overlap=80.5", "--project-path", "/p", "--dsm", "field one"])
    assert parsed.options == Options(split=200, split_overlap_m=80.5, dsm=True)
    assert (parsed.project_path, parsed.arguments) == (Path("/p"), ("field one",))
    assert parsed.notices == ()


def test_odms_short_names_and_its_defaults_asked_for_by_name():
    """What ODM does anyway, and what Passel does anyway, is nothing to warn of."""
    parsed = parse_options(
        ["-e", "opensfm", "--merge", "all", "--primary-band", "auto", "--pc-sample", "0", "--crop=0"]
    )
    assert (parsed.options.end_with, parsed.later) == ("align", ())
    parsed = parse_options(["-r", "odm_dem", "--merge", "dem", "--video-limit", "12"])
    assert set(parsed.later) == {"rerun", "merge", "video-limit"}
    assert parse_options(["-e=odm_dem"]).options.end_with == "merge"


def test_a_flag_takes_no_word_but_may_be_told_its_value():
    assert parse_options(["--dsm", "photos"]).arguments == ("photos",)
    assert parse_options(["--dsm=false"]).options.dsm is False


def test_the_last_of_repeated_options_counts_and_two_dashes_end_them():
    parsed = parse_options(["--split", "30", "--split=40", "--", "--photos"])
    assert (parsed.options.split, parsed.arguments) == (40, ("--photos",))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--splt", "4"], "unknown option --splt → did you mean --split?"),
        (["--orthophoto_resolution", "4"], "did you mean --orthophoto-resolution?"),
        (["--qqqqqqq"], "unknown option --qqqqqqq → `passel options` lists them"),
        (["-x"], "unknown option -x"),
        (["--split"], "--split needs a value (whole number of photos)"),
        (["--split", "--dsm"], "--split needs a value"),
        (["--split", "0"], "--split 0 is out of range: it must be at least 1 photos"),
        (["--split", "4.5"], "'4.5' is not a whole number"),
        (["--split", "٤"], "is not a whole number"),
        (["--split-overlap", "-1"], "--split-overlap -1 is out of range: it must be at least 0 m"),
        (["--split-overlap", "wide"], "'wide' is not a number"),
        (["--dem-resolution", "nan"], "is not a finite number"),
        (["--dem-resolution", "0"], "must be more than 0, at most 10000 cm/px"),
        (["--feature-quality", "hihg"], "did you mean high?"),
        (["--dsm=perhaps"], "is neither true nor false"),
        (["--camera-lens", "fisheye"], "--camera-lens fisheye is not supported yet → use one of: auto"),
        (["--cameras", '{"a": '], "--cameras is not valid JSON"),
        (["--cameras", '{"a":' * 20_000], "--cameras is not valid JSON"),
        (["--split", "9" * 5000], "--split 999999999999999999… is out of range: it has 5000 digits"),
        (["--geo="], "--geo is empty"),
        (["--mesh-size", "many"], "'many' is not a whole number"),
    ],
)
def test_a_wrong_command_line_gets_one_clear_line(words, message):
    with pytest.raises(UsageError) as caught:
        parse_options(words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_options_that_come_later_are_said_plainly_and_harmless_ones_named_in_one_line():
    words = ["--dtm", "--gcp", "gcp.txt", "--pc-quality", "high", "--mesh-size", "100", "--crop", "0", "photos"]
    parsed = parse_options(words)
    assert parsed.arguments == ("photos",)
    assert parsed.notices == (
        "warning: --gcp is not supported yet: control points are not used: the map is placed by GPS alone",
        "warning: --dtm is not supported yet: no terrain model is made",
        "note: without effect here: --mesh-size, --pc-quality",
    )


def test_odm_stages_map_to_ours():
    assert set(STAGE_OF_ODM.values()) <= set(STAGES)
    assert parse_options(["--end-with", "odm_orthophoto"]).options.end_with == "merge"
    assert parse_options(["--end-with", "align", "--rerun-from", "dataset"]).options.rerun_from == "survey"


def test_cameras_may_be_text_or_a_path():
    assert parse_options(["--cameras", '{"a": {}}']).options.cameras == '{"a": {}}'
    assert parse_options(["--cameras", "cameras.json"]).options.cameras == "cameras.json"


def test_every_harmless_flag_is_accepted_with_its_arity():
    words = [w for o in HARMLESS for w in (f"--{o.name}", *([] if o.type == "bool" else ["3"]))]
    parsed = parse_options(words)
    assert parsed.arguments == ()
    assert parsed.harmless == tuple(o.name for o in HARMLESS)
