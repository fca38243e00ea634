"""Which proxy leads where: the account's word, the environment's variables, NO_PROXY; and no password in any text."""

import pytest

from gateway.secret import Secret
from gateway.transport.proxy import Proxy, chosen, is_excepted

CLOUD = "https://api.cloud.example/v1"


def way(url: str = CLOUD, said: str | None = None, **env: str) -> str | None:
    found = chosen(url, None if said is None else Secret(said), env)
    return found.name if found else None


# ---------------------------------------------------------------------- where from
def test_without_a_word_anywhere_the_way_is_direct() -> None:
    assert way() is None
    assert way(HTTPS_PROXY="", https_proxy="  ") is None


def test_https_and_http_have_a_variable_each() -> None:
    both = {"HTTPS_PROXY": "http://tunnel:1", "HTTP_PROXY": "http://plain:2"}
    assert way(**both) == "tunnel:1"
    assert way("http://cloud.example", **both) == "plain:2"
    assert way(HTTP_PROXY="http://plain:2") is None


def test_the_lower_case_name_goes_first() -> None:
    assert way(HTTPS_PROXY="http://upper:1", https_proxy="http://lower:1") == "lower:1"
    assert way(https_proxy="http://p:1", NO_PROXY="cloud.example", no_proxy="other.example") == "p:1"


def test_an_accounts_word_goes_before_the_environment() -> None:
    assert way(said="http://own:1", HTTPS_PROXY="http://env:1", NO_PROXY="*") == "own:1"
    assert way(said="none", HTTPS_PROXY="http://env:1") is None


@pytest.mark.parametrize(
    "host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]", "LOCALHOST."]
)
def test_this_machine_is_never_reached_through_the_environments_proxy(host: str) -> None:
    for scheme in ("http", "https"):
        url = f"{scheme}://{host}:8000/v1"
        assert way(url, http_proxy="http://p:1", https_proxy="http://p:1") is None
        assert way(url, said="http://p:1") == "p:1"


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "metadata.google.internal"])
def test_metadata_services_are_never_reached_through_any_proxy(host: str) -> None:
    assert way(f"http://{host}/opc/v2", said="http://p:1", http_proxy="http://p:1") is None


# ---------------------------------------------------------------------- NO_PROXY
@pytest.mark.parametrize(
    ("entries", "url", "excepted"),
    [
        ("*", CLOUD, True),
        ("a.b,*", CLOUD, True),
        ("api.cloud.example", CLOUD, True),
        ("API.Cloud.Example", CLOUD, True),
        ("cloud.example", CLOUD, True),
        (".cloud.example", CLOUD, True),
        ("*.cloud.example", CLOUD, True),
        (".cloud.example", "https://cloud.example", True),
        ("loud.example", CLOUD, False),
        ("example.api.cloud", CLOUD, False),
        ("a, cloud.example ,b", CLOUD, True),
        ("a cloud.example b", CLOUD, True),
        ("cloud.example:443", CLOUD, True),
        ("cloud.example:8443", CLOUD, False),
        ("cloud.example:80", "http://cloud.example", True),
        ("cloud.example:8443", "https://cloud.example:8443", True),
        ("10.1.2.3", "http://10.1.2.3", True),
        ("10.1.2.3", "http://10.1.2.30", False),
        ("10.1.2.3:80", "http://10.1.2.3", True),
        ("10.1.2.3:81", "http://10.1.2.3", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.7/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.0.0.0/8", "https://10.example", False),
        ("fd00::/8", "https://[fd12::1]", True),
        ("[fd12::1]:443", "https://[fd12::1]", True),
        ("fd12::1", "https://[fd12::1]", True),
        ("10.0.0.0/8", "https://[fd12::1]", False),
        ("1.2.3", "http://10.1.2.3", False),
        (".", CLOUD, False),
        ("*.", CLOUD, False),
        ("10.0.0.0/99", "http://10.1.2.3", False),
        ("", CLOUD, False),
    ],
)
def test_no_proxy(entries: str, url: str, excepted: bool) -> None:
    proxies = {"http_proxy": "http://p:1", "https_proxy": "http://p:1"}
    assert way(url, no_proxy=entries, **proxies) == (None if excepted else "p:1")


def test_a_trailing_dot_of_the_host_makes_no_difference() -> None:
    assert way("https://api.cloud.example.", https_proxy="http://p:1", no_proxy="cloud.example") is None
    assert is_excepted("api.cloud.example", 443, "cloud.example.")


# ---------------------------------------------------------------------- what a proxy is
@pytest.mark.parametrize(
    ("text", "tls", "name", "authorization"),
    [
        ("http://p.example:3128", False, "p.example:3128", None),
        ("p.example:3128", False, "p.example:3128", None),
        ("http://p.example", False, "p.example:80", None),
        ("https://p.example/", True, "p.example:443", None),
        ("http://[::1]:3128", False, "[::1]:3128", None),
        ("http://me:pw@p.example:1", False, "p.example:1", "Basic bWU6cHc="),
        ("me:pw@p.example:1", False, "p.example:1", "Basic bWU6cHc="),
        ("http://me@p.example:1", False, "p.example:1", "Basic bWU6"),
        ("http://d%5Cme:p%40w%3A@p.example:1", False, "p.example:1", "Basic ZFxtZTpwQHc6"),
    ],
)
def test_a_proxy_is_read(text: str, tls: bool, name: str, authorization: str | None) -> None:
    found = Proxy(Secret(text))
    assert (found.tls, found.name, found.authorization()) == (tls, name, authorization)
    assert repr(found) == f"Proxy({name})"


@pytest.mark.parametrize(
    "text",
    [
        "socks5://me:secret-pw@p:1080",
        "http://me:secret-pw@",
        "http://me:secret-pw@p:port",
        "http://me:secret-pw@p:99999",
        "http://me:secret-pw@p:0",
        "http://me:secret-pw/x@p:1",
        "http://me:secret-pw#x@p:1",
        "http://me:secret-pw@p:1/path",
        "http://me:secret-pw@p:1?x=y",
        "http://me:secret-pw@[p:1",
    ],
)
def test_what_is_no_proxy_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(ValueError, match="'proxy' must be http://host:port") as refused:
        chosen(CLOUD, Secret(text), {})
    assert "secret" not in f"{refused.value} {refused.value.__cause__}"
    with pytest.raises(ValueError, match=r"https_proxy is no proxy: .* 'proxy: none'") as refused:
        chosen(CLOUD, None, {"https_proxy": text})
    assert "secret" not in f"{refused.value} {refused.value.__cause__}"
