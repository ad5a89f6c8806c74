"""A Python client that reports the result of each check as a line. Usage: client.py MODE URL"""

import sys

import anyio
import mcp_types as types
from mcp import Client

MODE, URL = sys.argv[1:]
CHANGED = anyio.Event()


async def elicit(_, __):
    return types.ElicitResult(action="accept", content={"name": "Ana"})


async def sample(_, __):
    return types.CreateMessageResult(role="assistant", model="m", content=types.TextContent(type="text", text="sampled"))


async def heard(message):
    if "ToolListChanged" in type(getattr(message, "root", message)).__name__:
        CHANGED.set()


def text(result):
    return result.content[0].text


def has(value, part):
    if part not in value:
        raise AssertionError(f"{part} is missing in {value}")


async def listing(client):
    has(str([tool.name for tool in (await client.list_tools()).tools]), "test_simple_text")


async def calling(client):
    has(text(await client.call_tool("test_simple_text", {})), "simple text")


async def progress(client):
    seen = []

    async def note(done, *_):
        seen.append(done)

    await client.call_tool("test_tool_with_progress", {}, progress_callback=note)
    has(str(bool(seen)), "True")


async def elicitation(client):
    has(text(await client.call_tool("test_elicitation", {"message": "Who?"})), "accept")


async def sampling(client):
    has(text(await client.call_tool("test_sampling", {"prompt": "x"})), "sampled")


async def subscription(client):
    if client.protocol_version >= "2026-07-28":
        async with client.listen(tools_list_changed=True) as events:
            await client.call_tool("test_trigger_tool_change", {})
            async for _ in events:
                return
    await client.call_tool("test_trigger_tool_change", {})
    await CHANGED.wait()


async def cancellation(client):
    with anyio.move_on_after(0.1) as scope:
        await client.call_tool("test_reconnection", {})
    has(str(scope.cancelled_caught), "True")
    await calling(client)


CHECKS = {"list": listing, "call": calling, "progress": progress, "elicitation": elicitation, "sampling": sampling,
          "subscription": subscription, "cancellation": cancellation}


async def main():
    async with Client(URL, mode=MODE, elicitation_callback=elicit, sampling_callback=sample, message_handler=heard) as client:
        for name, check in CHECKS.items():
            try:
                with anyio.fail_after(8):
                    await check(client)
                print(name, "ok", flush=True)
            except Exception as error:
                print(name, "FAILED", repr(error).replace("\n", " ")[:160], flush=True)


try:
    anyio.run(main)
except BaseException as error:
    for name in CHECKS:
        print(name, "FAILED", repr(error).replace("\n", " ")[:160])
