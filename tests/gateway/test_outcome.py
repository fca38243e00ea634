"""What a cloud's hint means: absolute, never negative, never above the cap, and garbage is as if unsaid."""

import email.utils

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import UpstreamError
from gateway.outcome import MAX_COOL_S, final_error, go_duration_s, judge, rate_limit_reset_s, retry_after_s

NOW = 1_800_000_000.0

hints = (
    st.text(max_size=20)
    | st.floats().map(str)
    | st.integers(-(10**12), 10**30).map(str)
    | st.floats(-1e6, 1e12).map(lambda at: email.utils.formatdate(NOW + min(at, 2e11), usegmt=True))
    | st.sampled_from(
        ["Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Oct 2015 07:28:00 GMT", "1_000", "٣", "0x10", "1e400", "9" * 400]
    )
)
NAMES = [
    "retry-after",
    "retry-after-ms",
    "x-ms-retry-after-ms",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
]


@given(st.dictionaries(st.sampled_from(NAMES), hints), st.booleans())
@example({"retry-after": "Fri, 31 Dec 9999 23:59:59 -2400"}, False)
def test_a_wait_is_never_negative_and_never_above_the_cap(headers: dict[str, str], exhausted: bool) -> None:
    if exhausted:
        headers |= {"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "0"}
    for wait in (retry_after_s(headers, NOW), rate_limit_reset_s(headers)):
        assert wait is None or 0 <= wait <= MAX_COOL_S


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2m59.56s", 179.56),
        ("7.66s", 7.66),
        ("430ms", 0.43),
        ("1h", 3600.0),
        ("1h2m3s4ms", 3723.004),
        ("6", 6.0),
        ("0.5", 0.5),
        ("", None),
        ("5 seconds", None),
        ("s", None),
        ("-5s", None),
        ("nan", None),
    ],
)
def test_go_durations(text: str, seconds: float | None) -> None:
    found = go_duration_s(text)
    assert found == (None if seconds is None else pytest.approx(seconds))


@given(st.lists(st.sampled_from([401, 403, 408, 429, 498, 500, 502, 503, 504, 529]), min_size=1, max_size=3))
def test_when_all_failed_the_answer_is_one_of_four(statuses: list[int]) -> None:
    errors = [UpstreamError("status", f"answered {status}", status=status) for status in statuses]
    found = final_error([(f"d{i}", error, judge(error)) for i, error in enumerate(errors)], 5.0)
    kinds = set(statuses)
    if kinds == {429}:
        expected = 429
    elif kinds <= {503, 529, 498}:
        expected = 503
    elif kinds <= {504, 408}:
        expected = 504
    else:
        expected = 502
    assert found.status == expected
    assert ("retry-after" in found.headers()) == (expected in (429, 503))
    assert found.code == {429: "upstream_rate_limited", 504: "upstream_timeout"}.get(
        expected, "upstream_auth" if kinds <= {401, 403} else "upstream_error"
    )
