"""Google Vertex AI, open models as a service: OpenAI's API below a project, a bearer token, errors in a list.

Source: litellm 1.109.1 `create_vertex_url`, run; providers.md A3 of the design."""

from collections.abc import Callable, Sequence
from urllib.parse import quote

from gateway.secret import Secret
from providers.credentials.access_token import AccessToken
from providers.credentials.gcp import Google
from providers.openai import OpenAI


class Vertex(OpenAI, frozen=True, kw_only=True):
    """Without `token` the access token is had as Google's own tools do, from `credentials_file` where that is said.
    `token` is one that something else refreshes: as `file:/path` it is read again whenever the file changes. `url`
    replaces the host, up to and without /v1/projects."""

    project: str = ""
    location: str = "us-central1"
    token: Secret | None = None
    credentials_file: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.project:
            raise ValueError("'project' is missing: the id of the Google Cloud project")
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
        return None if self.token else AccessToken(Google(self.credentials_file), clock)
