"""Google Vertex AI, open models as a service: OpenAI's API below a project, a bearer token, errors in a list.

Source: litellm 1.109.1 `create_vertex_url`, run; providers.md A3 of the design."""

import re
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote

from gateway.secret import Secret
from gateway.transport.client import Response
from gateway.types import Call, Deployment, Reply
from providers.credentials.access_token import AccessToken
from providers.credentials.gcp import Google
from providers.openai import OpenAI, PassedReply

_delta = re.compile(rb'"delta"\s*:\s*\{').search
LLAMA_4_TOKENS = 8192
_BLANKS = (b"\r\n\r\n", b"\n\n", b"\r\r")


class Vertex(OpenAI, frozen=True, kw_only=True):
    """Without `token` the access token is had as Google's own tools do, from `credentials_file` where that is said.
    `token` is one that something else refreshes: as `file:/path` it is read again whenever the file changes. `url`
    replaces the host, up to and without /v1/projects."""

    title = "[Google Vertex AI](docs/providers/vertex.md)"
    credentials = "as gcloud finds it (`arriero[gcp]`), or an access token"
    remark = "tools are Llama 4 Maverick's; embeddings have another API there, which is not spoken."
    project: str = ""
    location: str = "us-central1"
    token: Secret | None = None
    credentials_file: str | None = None
    trace_context: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.project:
            raise ValueError("'project' is missing: say it in the account, the id of the Google Cloud project")
        if self.token is not None and self.credentials_file is not None:
            raise ValueError("needs one of 'token' and 'credentials_file', not both")

    def base_url(self) -> str:
        path = (
            f"/v1/projects/{quote(self.project, safe='')}/locations/{quote(self.location, safe='')}/endpoints/openapi"
        )
        return (self.url or f"https://{self._host()}").rstrip("/") + path

    def _host(self) -> str:
        if self.location == "global":
            return "aiplatform.googleapis.com"
        if self.location in ("us", "eu"):
            return f"aiplatform.{self.location}.rep.googleapis.com"
        return f"{self.location}-aiplatform.googleapis.com"

    def headers(self) -> Sequence[tuple[str, str]]:
        return [("authorization", f"Bearer {self.token.reveal()}")] if self.token else []

    def secrets(self) -> Sequence[str]:
        return [self.token.reveal()] if self.token else []

    def access_token(self, clock: Callable[[], float]) -> AccessToken | None:
        return None if self.token else AccessToken(Google(self.credentials_file, reach=self.token_origin), clock)

    def changes(self, call: Call, deployment: Deployment) -> Mapping[str, bytes | None]:
        """A Llama 4 that is told no output limit says nothing: vercel/ai#20375, run against us-east5."""
        changes = dict(super().changes(call, deployment))
        if call.max_output_tokens is None and "llama-4" in deployment.model:
            changes["max_tokens"] = b"%d" % (deployment.max_output_tokens or LLAMA_4_TOKENS)
        return changes

    def reply(self, call: Call, response: Response, degraded: Mapping[str, str]) -> Reply:
        if call.stream:
            return WithRole(response, self.timeouts.first_byte_s, degraded)
        return super().reply(call, response, degraded)


class WithRole(PassedReply):
    """A stream whose first delta gets the role that OpenAI's has; clients build the message from it."""

    __slots__ = ("_held", "_looking")

    def __init__(self, response: Response, first_byte_s: float, degraded: Mapping[str, str]) -> None:
        super().__init__(response, first_byte_s, degraded)
        self._held, self._looking = b"", True

    async def chunk(self) -> bytes:
        """The next bytes; until the first delta an event that is not whole is held."""
        while self._looking:
            data = await super().chunk()
            begun = self._held + data
            end = max(begun.rfind(blank) + len(blank) for blank in _BLANKS) if data else len(begun)
            if data and end <= 3:  # none of the blank lines is there
                self._held = begun
                continue
            found = _delta(begun, 0, end)
            self._looking = bool(data) and found is None
            whole, self._held = (begun[:end], begun[end:]) if self._looking else (begun, b"")
            return whole if found is None or b'"role"' in whole else _with_role(whole, found)
        return await super().chunk()


def _with_role(begun: bytes, found: re.Match[bytes]) -> bytes:
    comma = b"" if begun[found.end() :].lstrip().startswith(b"}") else b","
    return begun[: found.end()] + b'"role":"assistant"' + comma + begun[found.end() :]
