"""An MCP server that reports what it received: its arguments, its environment, and every message so far.

Uses only the standard library, so that any Python can run it.
"""

import json
import os
import sys

TOOL = {
    "name": "what_reached_you",
    "description": "Arguments, environment and messages of this process.",
    "inputSchema": {"type": "object", "additionalProperties": True},
}

messages: list[object] = []


def result_of(request: dict) -> dict:
    method, params = request["method"], request.get("params", {})
    if method == "initialize":
        return {
            "protocolVersion": params.get("protocolVersion", "2025-06-18"),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "recorder", "version": "1"},
        }
    if method == "tools/list":
        return {"tools": [TOOL]}
    if method == "tools/call":
        seen = {"argv": sys.argv, "environment": dict(os.environ), "messages": messages}
        return {"content": [{"type": "text", "text": json.dumps(seen)}]}
    if method == "ping":
        return {}
    raise LookupError(method)


for line in sys.stdin:
    message = json.loads(line)
    messages.append(message)
    if "method" not in message or "id" not in message:
        continue
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    try:
        answer["result"] = result_of(message)
    except LookupError as error:
        answer["error"] = {"code": -32601, "message": f"no method {error}"}
    print(json.dumps(answer), flush=True)
