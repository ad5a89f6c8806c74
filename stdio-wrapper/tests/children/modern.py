"""A server of the stateless revision for tests. It behaves well by default, and its tools make it misbehave. Uses
only the standard library."""

import json
import os
import sys
import threading
import time

FLAGS = set(sys.argv[1:])
LOCK = threading.Lock()
LISTENS = {}
CANCELLED = []
TOOLS = [
    {"name": "echo", "inputSchema": {"type": "object"}},
    {"name": "here", "inputSchema": {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}, "shard": {"type": "integer", "x-mcp-header": "Shard"}}}},
]
# With the argument "fresh", lists are valid for a minute, and with "public" for all users. With "deaf", the server
# refuses subscriptions. With "pinned", it responds to a ping, and has sessions from then on if the ping was the
# first message. With "both", it also supports sessions.
FRESH = {"ttlMs": 60000 if "fresh" in FLAGS else 0, "cacheScope": "public" if "public" in FLAGS else "private"}
ANSWERED = []
LISTENED = []
PREFIX = "io.modelcontextprotocol/"


def say(**message):
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def text(value):
    return {"resultType": "complete", "content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value)}]}


def tell(method, **params):
    for number, wanted in list(LISTENS.items()):
        say(method=method, params={**params, "_meta": {PREFIX + "subscriptionId": number}})


def call(number, params):
    name, given, meta = params["name"], params.get("arguments", {}), params.get("_meta", {})
    if name in ("echo", "here"):
        return text(given)
    if name == "seen":
        return text({"id": number, "params": params, "env": dict(os.environ)})
    if name == "print":
        # {ID} stands for the id of this call, and {ID-1} for the previous id if ids are counted up.
        with LOCK:
            print(given["text"].replace("{ID}", str(number)).replace("{ID-1}", str(number - 1)), flush=True)
        return text("printed")
    if name == "listened":
        return text(str(len(LISTENED)))
    if name == "pid":
        return text(str(os.getpid()))
    if name == "sleep":
        time.sleep(given["seconds"])
        return text("slept")
    if name == "progress":
        for step in range(given.get("steps", 1)):
            say(method="notifications/progress", params={"progressToken": meta["progressToken"], "progress": step, "message": given.get("mark", "")})
        return text(given.get("mark", "done"))
    if name == "log":
        for _ in range(given.get("lines", 1)):
            say(method="notifications/message", params={"level": "info", "data": given.get("mark", "")})
        time.sleep(given.get("seconds", 0))
        return text("logged")
    if name == "changed":
        if given.get("add"):
            TOOLS.append(given["add"])
        tell("notifications/tools/list_changed")
        return text("told")
    if name == "updated":
        for each, wanted in list(LISTENS.items()):
            if given["uri"] in wanted.get("resourceSubscriptions", []):
                say(method="notifications/resources/updated", params={"uri": given["uri"], "_meta": {PREFIX + "subscriptionId": each}})
        return text("told")
    if name == "untagged":
        say(method="notifications/tools/list_changed")
        return text("untagged")
    if name == "demand":
        say(id="demand", method="sampling/createMessage", params={})
        return text("demanded")
    if name == "nameless":
        say(id=None, error={"code": -32700, "message": "cannot read " + given["mark"]})
        return text("said")
    if name == "end_listens":
        for each in list(LISTENS):
            say(method="notifications/cancelled", params={"requestId": each})
        LISTENS.clear()
        return text("ended")
    if name == "cancelled":
        return text(CANCELLED)
    if name == "ask":
        if "inputResponses" in params:
            return text({"state": params.get("requestState"), "responses": params["inputResponses"]})
        return {"resultType": "input_required", "requestState": "opaque", "future": 1.0, "inputRequests": {"who": {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}}}}
    if name == "ask_much":
        question = {"method": "elicitation/create", "params": {"message": "One of many", "requestedSchema": {"type": "object", "properties": {}}}}
        return {"resultType": "input_required", "inputRequests": {f"q{at}": question for at in range(given["count"])}}
    if name == "ask_twice":
        # As with an SDK, the state records the progress of the call, and the question has the same name in every
        # round.
        state = {None: 0, "one": 1, "two": 2}[params.get("requestState")]
        if state == 2:
            return text(params["inputResponses"]["q"]["action"])
        question = {"method": "elicitation/create", "params": {"message": ["first", "second"][state], "requestedSchema": {"type": "object", "properties": {}}}}
        return {"resultType": "input_required", "inputRequests": {"q": question}, "requestState": ["one", "two"][state]}
    if name == "fail":
        return {"error": given}
    if name == "crash":
        os._exit(3)
    raise KeyError(name)


def answer(message):
    method, number, params = message["method"], message["id"], message.get("params", {})
    try:
        if method == "server/discover":
            result = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
                      "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}},
                      "_meta": {PREFIX + "serverInfo": {"name": "modern child", "version": str(os.getpid())}}}
        elif method == "tools/list" and "--never-lists" in FLAGS:
            return
        elif method == "tools/list":
            at = int(params.get("cursor", 0))
            ANSWERED.append(method)
            result = {"resultType": "complete", "tools": TOOLS[at:at + 1], **FRESH, "_meta": {"answer": f"{os.getpid()} {len(ANSWERED)}"}}
            if at + 1 < len(TOOLS):
                result["nextCursor"] = str(at + 1)
        elif method == "tools/call":
            result = call(number, params)
        elif method == "resources/read":
            result = {"resultType": "complete", "contents": [{"uri": params["uri"], "text": "x"}], "ttlMs": 0, "cacheScope": "private"}
        elif method == "subscriptions/listen" and "deaf" not in FLAGS:
            LISTENS[number] = params["notifications"]
            LISTENED.append(number)
            say(method="notifications/subscriptions/acknowledged", params={"notifications": params["notifications"], "_meta": {PREFIX + "subscriptionId": number}})
            return
        else:
            return say(id=number, error={"code": -32601, "message": "unknown"})
        if "error" in result:
            return say(id=number, error=result["error"])
        say(id=number, result=result)
    except Exception as error:
        say(id=number, error={"code": -32603, "message": repr(error)})


is_first = True
for line in sys.stdin:
    message = json.loads(line)
    if "--tells-methods" in FLAGS:
        sys.stderr.write(f"asked {message.get('method')} {message.get('params', {}).get('notifications', '')}\n")
        sys.stderr.flush()
    if "pinned" in FLAGS and message.get("method") == "ping":
        # The first message determines the era of the process.
        FLAGS.update({"legacy"} if is_first else ())
        say(id=message["id"], result={})
    elif "legacy" in FLAGS:
        say(id=message["id"], error={"code": -32601, "message": "this process has sessions"})
    elif message.get("method") == "initialize" and "both" in FLAGS:
        say(id=message["id"], result={"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": {"name": "both", "version": str(os.getpid())}})
    elif message.get("method") == "initialize":
        say(id=message["id"], error={"code": -32022, "message": "stateless only", "data": {"supported": ["2026-07-28"], "requested": "2025-11-25"}})
    elif "id" in message and "method" in message:
        threading.Thread(target=answer, args=(message,), daemon=True).start()
    elif message.get("method") == "notifications/cancelled":
        CANCELLED.append(message["params"]["requestId"])
        LISTENS.pop(message["params"]["requestId"], None)
    is_first = False
