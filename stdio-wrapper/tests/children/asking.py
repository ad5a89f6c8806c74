"""A server with sessions whose tools ask the user, like a server that is written with an SDK: questions have no
names, their ids are numbers that start at 0 in every process, and a tool can ask several times. By default, a
cancelled call gets an error as its response, as in FastMCP. With "--goes-on", the tool continues and the call
gets no response, as in the TypeScript SDK. Uses only the standard library."""

import json
import os
import sys
import threading
import time

LOCK = threading.Lock()
NEXT = [0]
WAITING = {}
CANCELLED = set()
LATER = threading.Event()


def say(**message):
    with LOCK:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def note(text):
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


class Failed(Exception):
    pass


class Gone(Exception):
    pass


class Refused(Exception):
    def __init__(self, code, data):
        self.error = {"code": code, "message": "refused", "data": data}


def send(method, params):
    with LOCK:
        number = NEXT[0]
        NEXT[0] += 1
    WAITING[number] = slot = {"answered": threading.Event()}
    say(id=number, method=method, params=params)
    return number, slot


def outcome(call, slot):
    while not slot["answered"].wait(0.05):
        if call in CANCELLED and "--goes-on" not in sys.argv:
            raise Gone
    if "error" in slot:
        raise Failed(slot["error"]["message"])
    return slot["result"]


def elicit(call, message, field="answer"):
    schema = {"type": "object", "properties": {field: {"type": "string"}}, "required": [field]}
    _, slot = send("elicitation/create", {"mode": "form", "message": message, "requestedSchema": schema})
    found = outcome(call, slot)
    return found.get("content", {}).get(field) if found["action"] == "accept" else found["action"]


def sample(call, message):
    content = {"type": "text", "text": message}
    _, slot = send("sampling/createMessage", {"messages": [{"role": "user", "content": content}], "maxTokens": 10})
    return outcome(call, slot)["content"]["text"]


def tool(call, name, given, token):
    if name == "clean":
        return [elicit(call, "Delete 1 temporary file?"), elicit(call, "Delete ALL 10000 files?")]
    if name == "register":
        return [elicit(call, "Name of " + given.get("who", "x"), "name"), elicit(call, "Colour of " + given.get("who", "x"), "colour")]
    if name == "complete":
        return [sample(call, "first"), sample(call, "second")]
    if name == "roots":
        return [outcome(call, send("roots/list", {})[1])["roots"] for _ in range(2)]
    if name == "mixed":
        return [elicit(call, "one"), sample(call, "two"), elicit(call, "three")]
    if name == "both":
        slots = [send("elicitation/create", {"message": text, "requestedSchema": {"type": "object", "properties": {}}})[1] for text in ("this", "that")]
        return [outcome(call, slot)["action"] for slot in slots]
    if name == "insist":
        count = 1
        while elicit(call, f"Type yes ({count})") != "yes":
            count += 1
        return count
    if name == "flood":
        for count in range(given["count"]):
            send("elicitation/create", {"message": f"flood {count}" + "x" * given.get("size", 0), "requestedSchema": {"type": "object", "properties": {}}})
        return "flooded"
    if name == "leave":
        # The call ends without waiting for the answer, like a tool that starts a background task and does not
        # await it.
        _, slot = send("elicitation/create", {"message": "left behind", "requestedSchema": {"type": "object", "properties": {}}})

        def wait():
            slot["answered"].wait(30)
            note(f"left behind got {slot.get('error', slot.get('result'))}")

        threading.Thread(target=wait, daemon=True).start()
        return "left"
    if name == "reconsider":
        number, _ = send("elicitation/create", {"message": "taken back", "requestedSchema": {"type": "object", "properties": {}}})
        say(method="notifications/cancelled", params={"requestId": number, "reason": "no longer of interest"})
        return elicit(call, "asked instead")
    if name == "swap":
        # Cancels its question while the user thinks, and asks another one with the same id.
        number, _ = send("elicitation/create", {"message": "Delete 1 file?", "requestedSchema": {"type": "object", "properties": {}}})
        time.sleep(1)
        say(method="notifications/cancelled", params={"requestId": number})
        WAITING[number] = slot = {"answered": threading.Event()}
        say(id=number, method="elicitation/create", params={"message": "Delete ALL files?", "requestedSchema": {"type": "object", "properties": {}}})
        note("swapped its question")
        return outcome(call, slot)["action"]
    if name == "ponder":
        # Continues for some time after the answer has arrived.
        found = elicit(call, "Sure?")
        time.sleep(given["seconds"])
        return found
    if name == "later":
        # Waits until another tool sets LATER, and then asks. With "--goes-on", it does so even after its call was
        # cancelled.
        note("later has begun")
        LATER.wait(30)
        try:
            return elicit(call, "asked later")
        except Failed as error:
            note(f"later was refused: {error}")
            raise
    if name == "rouse":
        # Makes "later" ask after two seconds. This call never ends.
        time.sleep(2)
        LATER.set()
        threading.Event().wait()
    if name == "meanwhile":
        # Makes "later" ask while this tool runs, and asks a question itself.
        LATER.set()
        time.sleep(0.5)
        return elicit(call, "asked meanwhile")
    if name == "pid":
        return os.getpid()
    if name == "steps":
        say(method="notifications/progress", params={"progressToken": token, "progress": 1})
        found = elicit(call, "go on?")
        say(method="notifications/progress", params={"progressToken": token, "progress": 2})
        return found
    if name == "unable":
        raise Refused(-32021, {"requiredCapabilities": {"sampling": {"tools": {}}}})
    raise KeyError(name)


def run(message):
    number, params = message["id"], message["params"]
    try:
        found = tool(number, params["name"], params.get("arguments", {}), params.get("_meta", {}).get("progressToken"))
        result = {"content": [{"type": "text", "text": json.dumps(found)}], "isError": False}
    except Gone:
        return
    except Refused as refused:
        return say(id=number, error=refused.error)
    except Failed as error:
        result = {"content": [{"type": "text", "text": f"Error: {error}"}], "isError": True}
    if number not in CANCELLED:
        say(id=number, result=result)


def main():
    for line in sys.stdin:
        message = json.loads(line)
        method, number = message.get("method"), message.get("id")
        if method is None:
            slot = WAITING.pop(number, None)
            if slot is None:
                note(f"an answer to no question: {line.strip()}")
                continue
            slot.update({name: message[name] for name in ("result", "error") if name in message})
            slot["answered"].set()
        elif method == "initialize":
            version = message["params"]["protocolVersion"]
            say(id=number, result={"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": {"name": "asking", "version": "1"}})
        elif method == "notifications/cancelled":
            CANCELLED.add(message["params"]["requestId"])
            if "--goes-on" not in sys.argv:
                say(id=message["params"]["requestId"], error={"code": 0, "message": "Request cancelled"})
            note("cancelled a call")
        elif method == "tools/list":
            say(id=number, result={"tools": []})
        elif method == "tools/call":
            threading.Thread(target=run, args=(message,), daemon=True).start()
        elif method == "resources/read" and "--goes-on" in sys.argv:
            # This is the error of the TypeScript SDK for an unknown resource. The next branch returns the error of
            # FastMCP.
            say(id=number, error={"code": -32602, "message": f"MCP error -32602: Resource {message['params']['uri']} not found"})
        elif method == "resources/read":
            say(id=number, error={"code": -32002, "message": f"Resource not found: {message['params']['uri']!r}"})
        elif number is not None:
            say(id=number, error={"code": -32601, "message": "Method not found"})


main()
