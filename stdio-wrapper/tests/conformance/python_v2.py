"""The fixture built with the Python SDK 2.x. Texts and schemas are in content.json. Tools whose result is not fixed are
here."""

import hashlib
import hmac
import json
import pathlib
import re
import secrets

import anyio
import mcp_types as types
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, PromptsListChanged, ToolsListChanged
from mcp.shared.exceptions import MCPError

CONTENT = json.loads((pathlib.Path(__file__).parent / "content.json").read_text())


def text(value):
    return {"type": "text", "text": value}


async def logging(_, session, __, request_id):
    for data in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await session.send_log_message("info", data, related_request_id=request_id)
        await anyio.sleep(0.05)
    return [text("Logged three messages.")]


async def progress(_, session, token, request_id):
    for done in (0, 50, 100):
        if token is not None:
            await session.send_progress_notification(token, done, 100, related_request_id=request_id)
        await anyio.sleep(0.05)
    return [text("Reported progress.")]


async def fail(*_):
    raise ValueError("This tool intentionally returns an error for testing")


async def reconnection(*_):
    await anyio.sleep(0.5)
    return [text("Still here.")]


async def sampling(arguments, session, _, __):
    message = types.SamplingMessage.model_validate({"role": "user", "content": text(arguments["prompt"])})
    answer = await session.create_message([message], max_tokens=100)
    return [text(f"LLM response: {answer.content.text}")]


def elicitation(tool, message, lead):
    async def ask(arguments, session, _, __):
        schema = CONTENT["elicitations"][tool]
        answer = await session.elicit_form(message or arguments["message"], schema)
        return [text(f"{lead}: action={answer.action}, content={json.dumps(answer.content or {})}")]

    return ask


PREFIX = "io.modelcontextprotocol/"
KEY = secrets.token_bytes(32)
BUS = InMemorySubscriptionBus()


def seal(number):
    return f"{number}.{hmac.new(KEY, str(number).encode(), hashlib.sha256).hexdigest()}"


def unseal(state):
    number = state.split(".")[0]
    if not hmac.compare_digest(seal(number), state):
        raise MCPError(-32602, "The request state was changed")
    return int(number)


CAPABILITY = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


def questions(name, context, params):
    """Returns the questions that the client has not answered yet, or None if there are none."""
    found, meta = CONTENT["questions"].get(name), (context.params or {}).get("_meta", {})
    capabilities = meta.get(PREFIX + "clientCapabilities")
    if found is None or capabilities is None:
        return None
    for needed in found.get("requires", []):
        if needed not in capabilities:
            raise MCPError(-32021, f"This tool needs {needed}", {"requiredCapabilities": {needed: {}}})
    responses = params.input_responses or {}
    number = unseal(params.request_state) if params.request_state is not None else 0

    def chosen(number):
        asked = found["rounds"][number]
        if name.endswith("_capabilities"):
            asked = {key: ask for key, ask in asked.items() if CAPABILITY[ask["method"]] in capabilities}
        return asked

    if all(key in responses for key in chosen(number)):
        number += 1
    if number == len(found["rounds"]):
        return None
    result = {"resultType": "input_required", "inputRequests": chosen(number)}
    if found.get("state"):
        result["requestState"] = seal(number)
    return types.InputRequiredResult.model_validate(result)


async def logs_if_asked(_, session, __, request_id):
    await session.send_log_message("info", "Asked for", related_request_id=request_id)
    return [text("Done.")]


def trigger(event, legacy):
    async def announce(_, session, __, ___):
        await BUS.publish(event)
        await getattr(session, legacy)()
        return [text("Announced.")]

    return announce


async def echo(arguments, *_):
    return [text(json.dumps(arguments))]


MOVING = {
    "test_tool_with_logging": logging,
    "test_tool_with_progress": progress,
    "test_error_handling": fail,
    "test_reconnection": reconnection,
    "test_sampling": sampling,
    "test_elicitation": elicitation("test_elicitation", None, "User response"),
    "test_elicitation_sep1034_defaults": elicitation(
        "test_elicitation_sep1034_defaults", "Please check these values", "Elicitation completed"
    ),
    "test_elicitation_sep1330_enums": elicitation(
        "test_elicitation_sep1330_enums", "Please choose", "Elicitation completed"
    ),
    "json_schema_2020_12_tool": echo,
    "test_logging_tool": logs_if_asked,
    "test_trigger_tool_change": trigger(ToolsListChanged(), "send_tool_list_changed"),
    "test_trigger_prompt_change": trigger(PromptsListChanged(), "send_prompt_list_changed"),
}


async def list_tools(_, __):
    return types.ListToolsResult.model_validate({"tools": [entry["tool"] for entry in CONTENT["tools"]]})


async def call_tool(context, params):
    content = next((entry.get("content") for entry in CONTENT["tools"] if entry["tool"]["name"] == params.name), None)
    try:
        if asked := questions(params.name, context, params):
            return asked
        if content is None and params.name in CONTENT["questions"]:
            content = [text("All is known: state-ok")]
        if content is None:
            token = (context.meta or {}).get("progress_token")
            content = await MOVING[params.name](params.arguments or {}, context.session, token, context.request_id)
        return types.CallToolResult.model_validate({"content": content})
    except MCPError:
        raise
    except Exception as error:
        return types.CallToolResult.model_validate({"content": [text(str(error))], "isError": True})


async def list_resources(_, __):
    return types.ListResourcesResult.model_validate({"resources": [entry["resource"] for entry in CONTENT["resources"]]})


async def list_templates(_, __):
    return types.ListResourceTemplatesResult.model_validate({"resourceTemplates": CONTENT["templates"]})


async def read_resource(_, params):
    uri = str(params.uri)
    if found := re.fullmatch(r"test://template/([^/]+)/data", uri):
        data = {"id": found[1], "templateTest": True, "data": f"Data for ID: {found[1]}"}
        content = {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}
    else:
        content = next((entry["content"] for entry in CONTENT["resources"] if entry["resource"]["uri"] == uri), None)
        if content is None:
            raise MCPError(-32602, "Unknown resource", {"uri": uri})
    return types.ReadResourceResult.model_validate({"contents": [content]})


async def list_prompts(_, __):
    return types.ListPromptsResult.model_validate({"prompts": [entry["prompt"] for entry in CONTENT["prompts"]]})


async def get_prompt(context, params):
    if asked := questions(params.name, context, params):
        return asked
    messages = next(entry["messages"] for entry in CONTENT["prompts"] if entry["prompt"]["name"] == params.name)
    filled = json.dumps(messages)
    for name, value in (params.arguments or {}).items():
        filled = filled.replace("{" + name + "}", value)
    return types.GetPromptResult.model_validate({"messages": json.loads(filled)})


async def complete(_, params):
    values = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return types.CompleteResult.model_validate({"completion": {"values": values, "hasMore": False}})


async def empty(_, __):
    return types.EmptyResult()


server = Server(
    "conformance-python-v2",
    version="1.0.0",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_subscriptions_listen=ListenHandler(BUS),
    on_list_resources=list_resources,
    on_list_resource_templates=list_templates,
    on_read_resource=read_resource,
    on_subscribe_resource=empty,
    on_unsubscribe_resource=empty,
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_completion=complete,
    on_set_logging_level=empty,
)


async def main():
    options = server.create_initialization_options(NotificationOptions(True, True, True))
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, options)


anyio.run(main)
