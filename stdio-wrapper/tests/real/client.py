"""Uses a wrapped server like a client: it initializes a session, lists tools, calls one, and deletes the session.
Uses only the standard library."""

import http.client
import json
import sys
import time


class Client:
    def __init__(self, port):
        self.port, self.session, self.next = port, None, 0

    def send(self, method, message=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self.session:
            headers |= {"Mcp-Session-Id": self.session, "MCP-Protocol-Version": "2025-11-25"}
        connection.request(method, "/mcp", json.dumps(message) if message else None, headers)
        return connection.getresponse()

    def request(self, method, params=None):
        # Every request has the same id, like the requests of some hosted clients.
        response = self.send("POST", {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}})
        self.session = self.session or response.headers.get("Mcp-Session-Id")
        text = response.read().decode()
        if response.headers.get_content_type() == "text/event-stream":
            events = [line[6:] for line in text.splitlines() if line.startswith("data: {")]
            messages = [json.loads(event) for event in events]
            return next(message for message in messages if "result" in message or "error" in message)
        return json.loads(text)


def main():
    port, tool, arguments, expected = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
    client = Client(port)
    start = time.monotonic()
    info = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "real", "version": "1"}}
    opened = client.request("initialize", info)
    first = time.monotonic() - start
    server = opened["result"]["serverInfo"]
    assert client.send("POST", {"jsonrpc": "2.0", "method": "notifications/initialized"}).status == 202
    tools = client.request("tools/list")["result"]["tools"]
    assert any(entry["name"] == tool for entry in tools), [entry["name"] for entry in tools]
    start = time.monotonic()
    answer = client.request("tools/call", {"name": tool, "arguments": arguments})
    took = time.monotonic() - start
    text = json.dumps(answer["result"]["content"])
    assert not answer["result"].get("isError") and expected in text, text
    assert client.send("DELETE").status == 204
    assert client.send("POST", {"jsonrpc": "2.0", "id": 1, "method": "ping"}).status == 404
    version = opened["result"]["protocolVersion"]
    print(f"{server['name']} {server.get('version', '')}, {version}, {len(tools)} tools; initialize {first * 1000:.0f} ms, {tool} {took * 1000:.1f} ms")


main()
