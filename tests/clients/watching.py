"""Reports of the programs for the Python SDK, with a line of JSON for each event."""

import json
from urllib.parse import parse_qs

import httpx2


def report(**event: object) -> None:
    print(json.dumps(event), flush=True)


async def watch(response: httpx2.Response) -> None:
    """Reports a request of the SDK and its response, and leaves both unchanged."""
    request = response.request
    form: dict[str, list[str]] = {}
    if request.headers.get("content-type") == "application/x-www-form-urlencoded":
        form = parse_qs(request.content.decode())
    event = {
        "http": request.method,
        "path": request.url.path,
        "status": response.status_code,
        "challenge": response.headers.get("www-authenticate"),
        "grant_type": form.get("grant_type", [None])[0],
        "resource": form.get("resource", [None])[0],
    }
    report(**{name: value for name, value in event.items() if value is not None})
