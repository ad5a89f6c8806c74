"""An echo server for benchmarks, built with the Python SDK 2.x. Its tool `echo` has the argument `size`."""

import anyio
import mcp_types as types
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server


async def call_tool(_, params):
    return types.CallToolResult(content=[types.TextContent(type="text", text="x" * params.arguments["size"])])


async def list_tools(_, __):
    return types.ListToolsResult(tools=[types.Tool(name="echo", input_schema={"type": "object"})])


async def main():
    server = Server("echo-python", version="1.0.0", on_call_tool=call_tool, on_list_tools=list_tools)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


anyio.run(main)
