"""The Python SDK 2 as a client. It signs in without stored tokens, steps up, and uses every feature of the server once.

It reports each event as a line of JSON. The program that reads the lines visits the URLs in place of a user.
"""

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
from mcp import Client
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, PromptReference, Root, TextContent

MCP_URL = os.environ["MCP_URL"]
MODE = os.environ.get("MODE", "auto")
STATELESS = "2026-07-28"
CHECK_SECONDS = int(os.environ.get("CHECK_SECONDS", "40"))


def report(**event):
    print(json.dumps(event), flush=True)


class InMemoryTokenStorage:
    tokens: OAuthToken | None = None
    client_info: OAuthClientInformationFull | None = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens):
        self.tokens = tokens

    async def get_client_info(self):
        return self.client_info

    async def set_client_info(self, client_info):
        self.client_info = client_info


async def make_provider():
    """An OAuth provider with a listener on loopback."""
    callbacks = asyncio.Queue()

    async def serve(reader, writer):
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()
        target = urlsplit(request.split(" ")[1])
        if target.path == "/callback":
            callbacks.put_nowait({name: values[0] for name, values in parse_qs(target.query).items()})

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    redirect_uri = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/callback"

    async def open_browser(url):
        scope = parse_qs(urlsplit(url).query).get("scope", [None])[0]
        report(visit=url, redirect_uri=redirect_uri, scope=scope)

    async def wait_for_callback():
        answer = await callbacks.get()
        return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))

    return OAuthClientProvider(
        server_url=MCP_URL,
        client_metadata=OAuthClientMetadata(
            client_name="Compatibility",
            redirect_uris=[redirect_uri],
            token_endpoint_auth_method="none",
        ),
        storage=InMemoryTokenStorage(),
        redirect_handler=open_browser,
        callback_handler=wait_for_callback,
    )


asked = []
logged = asyncio.Event()
updated = asyncio.Event()


async def elicit(context, params):
    asked.append(params.message)
    if "ALL" in params.message:
        return ElicitResult(action="decline")
    return ElicitResult(action="accept", content={field: True for field in params.requested_schema.get("properties", {})})


async def sample(context, params):
    content = params.messages[-1].content
    block = content[0] if isinstance(content, list) else content
    return CreateMessageResult(role="assistant", model="m", content=TextContent(type="text", text=f"summary of {block.text}"))


async def roots(context):
    return ListRootsResult(roots=[Root(uri="file:///notes", name="notes")])


async def log(params):
    logged.set()


async def heard(message):
    if "ResourceUpdated" in type(getattr(message, "root", message)).__name__:
        updated.set()


def equal(found, expected):
    if found != expected:
        raise AssertionError(f"{found!r} instead of {expected!r}")


ANSWERED = "temporary=accept ALL=decline"
QUESTIONS = ["Delete 1 temporary file?", "Delete ALL 10000 files?"]


def features(client):
    """Every feature: its name, whether the server has it, and a function that uses it and checks the result."""
    is_2026 = client.protocol_version >= STATELESS
    able = client.server_capabilities

    async def text(name, arguments=None, **options):
        return (await client.call_tool(name, arguments or {}, **options)).content[0].text

    async def clean(tool="clean"):
        equal(await text(tool), ANSWERED)

    async def call():
        equal(await text("read_note", {"title": "A"}), "text of A")

    async def structured():
        equal((await client.call_tool("word_count", {"text": "one two"})).structured_content, {"words": 2})

    async def error():
        result = await client.call_tool("fail", {})
        if not result.is_error or "the disk is full" not in result.content[0].text:
            raise AssertionError(repr(result))

    async def questions():
        asked.clear()
        await clean()
        equal(asked, QUESTIONS)

    async def again():
        asked.clear()
        await clean()
        await clean()
        equal(asked, QUESTIONS * 2)

    async def parallel():
        asked.clear()
        await asyncio.gather(clean(), clean())
        equal(sorted(asked), sorted(QUESTIONS * 2))

    async def at_once():
        asked.clear()
        await clean("clean_at_once")
        equal(sorted(asked), QUESTIONS)

    async def sampling():
        equal(await text("summarize"), "summary of Summarize note A | summary of Summarize note B")

    async def shared_roots():
        equal(await text("folders"), "file:///notes")

    async def progress():
        seen = []

        async def note(done, *_):
            seen.append(done)

        await client.call_tool("import_notes", {"count": 3}, progress_callback=note)
        # The SDK can deliver progress that arrives together with the response after that response.
        equal(seen, [1, 2, 3][: max(len(seen), 1)])

    async def logging():
        if not is_2026:
            try:
                await client.set_logging_level("info")
            except Exception:
                pass
        await client.call_tool("import_notes", {"count": 1})
        await logged.wait()

    async def resources():
        equal((await client.read_resource("notes://list")).contents[0].text, "A, B")

    async def templates():
        equal((await client.list_resource_templates()).resource_templates[0].uri_template, "notes://note/{title}")
        equal((await client.read_resource("notes://note/B")).contents[0].text, "text of B")

    async def touch_again_and_again():
        while True:
            await client.call_tool("touch_note", {})
            await asyncio.sleep(1)

    async def subscription():
        if is_2026:
            async with client.listen(resource_subscriptions=["notes://list"]) as events:
                # A server can confirm a subscription before it is in effect, so the note is changed repeatedly.
                async with anyio.create_task_group() as touching:
                    touching.start_soon(touch_again_and_again)
                    async for _ in events:
                        touching.cancel_scope.cancel()
                return
        await client.subscribe_resource("notes://list")
        await client.call_tool("touch_note", {})
        await updated.wait()

    async def prompts():
        prompt = await client.get_prompt("review", {"language": "go"})
        equal(prompt.messages[0].content.text, "Review this go code.")

    async def completion():
        found = await client.complete(PromptReference(type="ref/prompt", name="review"), {"name": "language", "value": "py"})
        equal(found.completion.values, ["python"])

    async def cancellation():
        try:
            async with asyncio.timeout(0.1):
                await client.call_tool("wait", {})
            raise AssertionError("answered")
        except TimeoutError:
            await call()

    return [
        ("call", True, call),
        ("structured", True, structured),
        ("error", True, error),
        ("questions", True, questions),
        ("questions again", True, again),
        ("questions in parallel", True, parallel),
        ("questions at once", True, at_once),
        ("sampling", True, sampling),
        ("roots", True, shared_roots),
        ("progress", True, progress),
        ("logging", able.logging is not None, logging),
        ("resources", True, resources),
        ("templates", True, templates),
        ("subscription", bool(able.resources and able.resources.subscribe), subscription),
        ("prompts", True, prompts),
        ("completion", able.completions is not None, completion),
        ("cancellation", True, cancellation),
    ]


def detail(error):
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return repr(error)[:300]


async def main():
    async with AsyncExitStack() as stack:
        target = MCP_URL
        if os.environ.get("SIGN_IN"):
            http = await stack.enter_async_context(httpx2.AsyncClient(auth=await make_provider(), timeout=60))
            target = streamable_http_client(MCP_URL, http_client=http)
        client = await stack.enter_async_context(
            Client(
                target,
                mode=MODE,
                elicitation_callback=elicit,
                sampling_callback=sample,
                list_roots_callback=roots,
                logging_callback=log,
                log_level="info",
                message_handler=heard,
            )
        )
        if os.environ.get("SIGN_IN"):
            report(signed_in=True)
        report(revision=client.protocol_version)
        for check, has, use in features(client):
            if not has:
                report(check=check, verdict="none")
                continue
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await use()
                report(check=check, verdict="ok")
            except Exception as error:
                report(check=check, verdict="failed", detail=detail(error))
        if os.environ.get("SIGN_IN"):
            try:
                async with asyncio.timeout(60):
                    result = await client.call_tool("delete_note", {"title": "A"})
                report(stepped_up=result.content[0].text == "deleted A")
            except Exception as error:
                report(stepped_up=False, detail=detail(error))
    report(done=True)


try:
    asyncio.run(main())
except BaseException as error:
    report(ended=detail(error))
    sys.exit(1)
