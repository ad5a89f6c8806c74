"""An MCP server for floods. It processes one message after another, and uses very little memory itself. Uses only
the standard library."""

import json
import sys
import time

OUT = sys.stdout.buffer
PIECE = b"b" * 65536


def say(**message):
    OUT.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
    OUT.flush()


def big(number, pieces):
    """Responds with `pieces` times 64 KiB of text, of which this process keeps only one piece in memory at a
    time."""
    OUT.write(b'{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"' % json.dumps(number).encode())
    for _ in range(pieces):
        OUT.write(PIECE)
    OUT.write(b'"}]}}\n')
    OUT.flush()


def arrays(number, count):
    """Writes this many empty arrays in one line, a thousand at a time."""
    OUT.write(b'{"jsonrpc":"2.0","id":%s,"result":{"content":[],"structuredContent":{"x":[[]' % json.dumps(number).encode())
    for _ in range(count // 1000):
        OUT.write(b",[]" * 1000)
    OUT.write(b"]}}}\n")
    OUT.flush()


for line in sys.stdin.buffer:
    message = json.loads(line)
    number, method, params = message.get("id"), message.get("method"), message.get("params", {})
    if number is None or method is None:
        continue
    if method == "initialize":
        capabilities = {"tools": {"listChanged": True}, "resources": {"subscribe": True}}
        server = {"name": "plain", "version": "1"}
        say(id=number, result={"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": server})
    elif method == "tools/call" and params["name"] == "big":
        big(number, params["arguments"]["pieces"])
    elif method == "tools/call" and params["name"] == "swallow":
        say(id=number, result={"content": []})
    elif method == "tools/call" and params["name"] == "arrays":
        arrays(number, params["arguments"]["count"])
    elif method == "tools/call":
        say(id=number, result={"content": [{"type": "text", "text": json.dumps(params.get("arguments"))}]})
        while params["name"] == "deaf":
            time.sleep(60)
    else:
        say(id=number, result={"tools": []} if method == "tools/list" else {})
