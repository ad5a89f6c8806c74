"""A client built with the unchanged Python SDK."""

import asyncio
import json
import os
from urllib.parse import parse_qs, urlencode, urlsplit

import browser
import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from watching import report, watch

MCP_URL = os.environ["MCP_URL"]
ACCOUNT = os.environ["ACCOUNT"]
PASSWORD = os.environ["PASSWORD"]
TOOL = os.environ.get("TOOL", "echo")
TOOL_ARGUMENTS = json.loads(os.environ.get("TOOL_ARGUMENTS", '{"message":"hello"}'))
CLIENT_NAME = os.environ.get("CLIENT_NAME", "an SDK in a test")
# Without a method, this SDK registers a client with a secret. Each such registration creates a new client.
AUTH_METHOD = os.environ.get("AUTH_METHOD")
# With this URL, the client does not register but uses its metadata document (SEP-991).
CLIENT_METADATA_URL = os.environ.get("CLIENT_METADATA_URL")
RECONNECTS = int(os.environ.get("RECONNECTS", "0"))
# With this scope, the first login requests less than the server requires, and the second login requests the rest.
STEP_UP_FROM = os.environ.get("STEP_UP_FROM")
# With this setting, the scope of the first login is unchanged, and the call needs more.
STEP_UP_IN_CALL = os.environ.get("STEP_UP_IN_CALL")


class Memory:
    """The token storage that the SDK requires from its user."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None
    asked_as: str | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info
        report(registered=bool(client_info.client_id), registered_scope=client_info.scope)


class LoginWanted(Exception):
    """The SDK needs a user, but there is none. By then, the SDK has read the metadata, registered, and built the
    authorization URL."""


def with_scope(url: str, scope: str) -> str:
    parts = urlsplit(url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    return parts._replace(query=urlencode({**query, "scope": scope})).geturl()


def make_provider(memory: Memory, port: int = 9, stays_out: bool = False) -> OAuthClientProvider:
    """`port` is the loopback port of the redirect URI. Real clients use another one in each run."""
    redirect_uri = f"http://127.0.0.1:{port}/callback"
    callback: dict[str, str] = {}
    less = STEP_UP_FROM

    async def redirect(url: str) -> None:
        nonlocal less
        query = parse_qs(urlsplit(url).query)
        memory.asked_as = query["client_id"][0]
        if stays_out:
            raise LoginWanted
        if less:
            url, less = with_scope(url, less), None
            query = parse_qs(urlsplit(url).query)
        scope = query.get("scope", [None])[0]
        report(authorize=query["code_challenge_method"][0], resource=query.get("resource", [None])[0], scope=scope)
        pages: list[str] = []
        callback.clear()
        callback.update(await browser.authorize(url, redirect_uri, ACCOUNT, PASSWORD, pages))
        report(iss=callback.get("iss"), consent=pages[-1])

    async def answer() -> AuthorizationCodeResult:
        return AuthorizationCodeResult(code=callback["code"], state=callback.get("state"), iss=callback.get("iss"))

    return OAuthClientProvider(
        server_url=MCP_URL,
        client_metadata=OAuthClientMetadata(
            client_name=CLIENT_NAME,
            redirect_uris=[redirect_uri],
            grant_types=["authorization_code", "refresh_token"],
            response_types=["code"],
            token_endpoint_auth_method=AUTH_METHOD,
        ),
        storage=memory,
        redirect_handler=redirect,
        callback_handler=answer,
        client_metadata_url=CLIENT_METADATA_URL,
    )


async def reconnect(runs: int) -> None:
    """Connects `runs` times, each time as a client that has stored nothing.

    Only the first connection and every fortieth after it sign in and make a call, because the server limits the
    logins per minute.
    """
    for run in range(runs):
        memory = Memory()
        provider = make_provider(memory, 21000 + run, stays_out=run % 40 != 0)
        async with httpx2.AsyncClient(auth=provider, timeout=30) as http:
            if run % 40 == 0:
                async with Client(streamable_http_client(MCP_URL, http_client=http)) as client:
                    called = await client.call_tool(TOOL, TOOL_ARGUMENTS)
                    report(called=[block.model_dump(mode="json", exclude_none=True) for block in called.content])
            else:
                try:
                    await http.post(MCP_URL, json={"jsonrpc": "2.0", "id": 1, "method": "ping"})
                except LoginWanted:
                    pass
        report(reconnected=run, client_id=memory.asked_as)
    report(done=True)


async def main() -> None:
    if RECONNECTS:
        await reconnect(RECONNECTS)
        return
    memory = Memory()
    provider = make_provider(memory)
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
            if STEP_UP_FROM or STEP_UP_IN_CALL:
                report(done=True)
                return

            # This SDK refreshes a token only after it has expired, and ignores the challenge. This assignment
            # makes the SDK treat the token as expired.
            provider.context.token_expiry_time = 1
            called = await client.call_tool(TOOL, TOOL_ARGUMENTS)
            report(called_again=[block.model_dump(mode="json", exclude_none=True) for block in called.content])
            report(
                refreshed=memory.tokens.access_token != before.access_token,
                rotated=memory.tokens.refresh_token != before.refresh_token,
            )
    report(done=True)


asyncio.run(main())
