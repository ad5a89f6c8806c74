"""A client without a user, with the Python SDK's own providers: client credentials with a secret or a signed
assertion, and an identity assertion of an enterprise's identity provider. This program also acts as that identity
provider."""

import asyncio
import json
import os
import time
from uuid import uuid4

import httpx2
import jwt
from mcp import Client
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from watching import report, watch

MCP_URL = os.environ["MCP_URL"]
ISSUER = os.environ["ISSUER"]
CLIENT_ID = os.environ["CLIENT_ID"]
CLIENT_SECRET = os.environ.get("CLIENT_SECRET", "")
PRIVATE_KEY = os.environ.get("PRIVATE_KEY", "")
ALGORITHM = os.environ.get("ALGORITHM", "")


class Memory:
    """The token storage that the SDK requires from its user."""

    tokens: OAuthToken | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return None

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        raise AssertionError("a machine does not register")


async def id_jag(audience: str, resource: str) -> str:
    """Creates an assertion of the identity provider about the user, for one exchange."""
    report(id_jag_for=audience)
    now = int(time.time())
    claims = {
        "iss": os.environ["PROVIDER"],
        "sub": "emp-7",
        "aud": audience,
        "client_id": CLIENT_ID,
        "resource": resource,
        "jti": str(uuid4()),
        "iat": now,
        "exp": now + 300,
    }
    return jwt.encode(claims, PRIVATE_KEY, algorithm=ALGORITHM, headers={"kid": "k", "typ": "oauth-id-jag+jwt"})


def make_provider() -> httpx2.Auth:
    common = {"server_url": MCP_URL, "storage": Memory(), "client_id": CLIENT_ID, "issuer": ISSUER}
    way = os.environ["WAY"]
    if way == "secret":
        return ClientCredentialsOAuthProvider(client_secret=CLIENT_SECRET, **common)
    if way == "assertion":
        signed = SignedJWTParameters(
            issuer=CLIENT_ID, subject=CLIENT_ID, signing_key=PRIVATE_KEY, signing_algorithm=ALGORITHM
        )
        return PrivateKeyJWTOAuthProvider(assertion_provider=signed.create_assertion_provider(), **common)
    return IdentityAssertionOAuthProvider(client_secret=CLIENT_SECRET, assertion_provider=id_jag, **common)


async def main() -> None:
    async with httpx2.AsyncClient(auth=make_provider(), event_hooks={"response": [watch]}, timeout=30) as http:
        async with Client(streamable_http_client(MCP_URL, http_client=http)) as client:
            called = await client.call_tool("echo", {"message": "hello"})
            report(called=[block.model_dump(mode="json", exclude_none=True) for block in called.content])
    report(done=True)


asyncio.run(main())
