"""The Python SDK, as it comes from the registry."""

import asyncio
import json
import os
from urllib.parse import parse_qs, urlsplit

import browser
import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

MCP_URL = os.environ["MCP_URL"]
ACCOUNT = os.environ["ACCOUNT"]
PASSWORD = os.environ["PASSWORD"]
TOOL = os.environ.get("TOOL", "echo")
TOOL_ARGUMENTS = json.loads(os.environ.get("TOOL_ARGUMENTS", '{"message":"hello"}'))
REDIRECT_URI = "http://127.0.0.1:9/callback"


def report(**event: object) -> None:
    """One JSON line for each thing that happened, in order."""
    print(json.dumps(event), flush=True)


class Memory:
    """What the SDK asks its host program to keep."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info
        report(registered=bool(client_info.client_id))


async def watch(response: httpx2.Response) -> None:
    """The SDK's own requests, reported. Nothing is changed on the way."""
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


async def main() -> None:
    callback: dict[str, str] = {}

    async def redirect(url: str) -> None:
        query = parse_qs(urlsplit(url).query)
        report(authorize=query["code_challenge_method"][0], resource=query.get("resource", [None])[0])
        callback.update(await browser.authorize(url, REDIRECT_URI, ACCOUNT, PASSWORD))
        report(iss=callback.get("iss"))

    async def answer() -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code=callback["code"], state=callback.get("state"), iss=callback.get("iss"))

    memory = Memory()
    provider = OAuthClientProvider(
        server_url=MCP_URL,
        client_metadata=OAuthClientMetadata(
            client_name="an SDK in a test",
            redirect_uris=[REDIRECT_URI],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
        ),
        storage=memory,
        redirect_handler=redirect,
        callback_handler=answer,
    )
    async with httpx2.AsyncClient(auth=provider, event_hooks={"response": [watch]}, timeout=30) as http:
        async with Client(streamable_http_client(MCP_URL, http_client=http)) as client:
            assert memory.tokens is not None, "the first connection needed no login"
            before = memory.tokens
            report(
                token_type=before.token_type,
                expires_in=before.expires_in,
                refreshable=before.refresh_token is not None,
            )
            report(protocol=client.protocol_version)
            report(tools=[tool.name for tool in (await client.list_tools()).tools])
            called = await client.call_tool(TOOL, TOOL_ARGUMENTS)
            report(called=[block.model_dump(mode="json", exclude_none=True) for block in called.content])

            # This SDK refreshes by the clock, not by the challenge: for it, the token's hour is over.
            provider.context.token_expiry_time = 1
            called = await client.call_tool(TOOL, TOOL_ARGUMENTS)
            report(called_again=[block.model_dump(mode="json", exclude_none=True) for block in called.content])
            report(
                refreshed=memory.tokens.access_token != before.access_token,
                rotated=memory.tokens.refresh_token != before.refresh_token,
            )
    report(done=True)


asyncio.run(main())
