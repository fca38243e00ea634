"""What is struck out of a cloud's own words before a caller reads them.

Our secrets, and what shows by its form that it is of our request or our account: credentials made for one request,
tokens that were replaced meanwhile, ids of accounts."""

import re
from collections.abc import Iterable

STRUCK = "***"
_OURS = re.compile(
    r"""(?ix)
    (?: (?:proxy-)?authorization | x-amz-security-token | (?:x-|x-goog-)?api-key | opc-obo-token ) ["']?\s*[:=] [^\r\n]*
    | \b(?:bearer|basic)\s+[\w.~+/=$-]{8,}
    | \b(?:signature|credential|keyid|x-amz-credential|x-amz-signature) ["']?\s*[:=]\s* ["']? [^\s,"'&]+
    | \b(?:AKIA|ASIA)[0-9A-Z]{12,}
    | \bocid1\.[\w.-]+
    | \bST\$[\w.-]+
    | \beyJ[\w-]{8,}(?:\.[\w-]*)+
    | \bya29\.[\w.-]+
    | (?<![0-9a-f:])(?:[0-9a-f]{2}:){15}[0-9a-f]{2}(?![0-9a-f:])
    | (?<=:)[0-9]{12}(?=:)
    | (?<=\bprojects/)[\w:.-]+ | (?<=\bsubscriptions/)[\w-]+
    """
)


def struck(text: str, secrets: Iterable[str]) -> str:
    """The text without any of them."""
    for secret in secrets:
        text = text.replace(secret, STRUCK)
    return _OURS.sub(STRUCK, text)
