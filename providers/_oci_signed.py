"""Oracle's OpenAI-compatible path for who has no key of the service: each call signed, who pays in a header.

Sources: docs.oracle.com openai-compatible-api; the headers as Oracle's own oci-openai 1.0.0 sends them. Run against the
sandbox only."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from gateway.errors import UpstreamError
from gateway.transport.client import Response
from gateway.types import Call, Deployment
from providers.credentials.skew import CloudClock
from providers.openai import OpenAI, Passthrough

if TYPE_CHECKING:
    from providers.credentials.oci import Identity, Source


class Payer(NamedTuple):
    """Who pays for the calls, and what of it is to be struck out of anything that is shown."""

    compartment: str
    secrets: Callable[[], Sequence[str]]


class Signed(Passthrough):
    """The running side of an account: a pass-through whose credential is made of each request's bytes."""

    def __init__(self, account: OpenAI, name: str, clock: Callable[[], float], source: "Source", payer: Payer) -> None:
        from providers.credentials.oci import signed  # late: `cryptography` is an extra

        super().__init__(account, name, clock)
        self.source, self.wall, self._sign = source, CloudClock(time.time), signed
        self._payer = (("compartmentid", payer.compartment), ("opc-compartment-id", payer.compartment))
        self._secrets = payer.secrets

    @property
    def secrets(self) -> Sequence[str]:
        return self._secrets()

    async def _sent(
        self, call: Call, deployment: Deployment, body: bytes, bearer: Sequence[tuple[str, str]]
    ) -> Response:
        """A first 401 is tried again by Oracle's clock or another identity."""
        identity, signed_at = await self.source.get(), self.wall()
        try:
            return await super()._sent(call, deployment, body, self._credential(call, deployment, identity, body))
        except UpstreamError as error:
            if error.status != 401:
                raise
            learned = self.wall.learn(error.headers, signed_at)
            other = identity if learned else await self.source.renew(identity)
            if other is None:
                raise
        return await super()._sent(call, deployment, body, self._credential(call, deployment, other, body))

    def _credential(
        self, call: Call, deployment: Deployment, identity: "Identity", body: bytes
    ) -> Sequence[tuple[str, str]]:
        target = self.account.target(deployment, call.endpoint)
        headers = self._sign(identity, target, urlsplit(self.account.base_url()).netloc, body, self.wall())
        return [*(header for header in headers if header[0] != "content-type"), *self._payer]

    async def aclose(self) -> None:
        await self.source.aclose()
        await super().aclose()
