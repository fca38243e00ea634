"""The way to the network of the clouds' own libraries that go by `requests`: the account's proxy and authorities.

Rule 1. Which proxy leads where is said by the account alone; requests' own reading of the environment is left out."""

import ssl
from typing import Any

from gateway.account import Reach

MICROSOFT = "https://login.microsoftonline.com"


def session(reach: Reach) -> Any:
    """A `requests.Session`. Imported late, for it is part of an extra. Raises OSError for a bad `ca_file`."""
    import requests
    from requests.adapters import HTTPAdapter

    ca_file = reach(MICROSOFT).ca_file
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None

    class Adapter(HTTPAdapter):
        """What is good for `requests` stays so: it adds its own authorities to a context."""

        def init_poolmanager(self, *args: Any, **options: Any) -> None:
            super().init_poolmanager(*args, **options, ssl_context=context)

        def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
            return super().proxy_manager_for(proxy, **options, ssl_context=context, proxy_ssl_context=context)

    class Session(requests.Session):
        def merge_environment_settings(self, url: Any, *args: Any) -> Any:
            settings = super().merge_environment_settings(url, *args)
            found = reach(str(url)).proxy
            return {**settings, "proxies": {"http": found.url(), "https": found.url()} if found else {}}

    made = Session()
    made.mount("https://", Adapter())
    made.mount("http://", Adapter())
    return made
