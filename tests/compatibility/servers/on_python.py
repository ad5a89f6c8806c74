"""A server built with the Python SDK 2, written like the examples in the SDK's documentation. Questions to the user are
dependencies of a tool."""

import asyncio
from typing import Annotated

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Elicit, ElicitationResult, ListRoots, Resolve, Sample
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import (
    Completion,
    CompletionArgument,
    CompletionContext,
    CreateMessageResult,
    ListRootsResult,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    TextContent,
)
from pydantic import BaseModel

mcp = MCPServer("notes")

LANGUAGES = ["go", "python", "rust"]


class Count(BaseModel):
    words: int


class Confirm(BaseModel):
    confirm: bool


@mcp.tool()
def read_note(title: str) -> str:
    """Reads a note."""
    return f"text of {title}"


@mcp.tool()
def delete_note(title: str) -> str:
    """Deletes a note."""
    return f"deleted {title}"


@mcp.tool()
def word_count(text: str) -> Count:
    """Counts the words of a text."""
    return Count(words=len(text.split()))


@mcp.tool()
def fail() -> str:
    """Always fails."""
    raise ToolError("the disk is full")


def ask_temporary() -> Elicit[Confirm]:
    return Elicit("Delete 1 temporary file?", Confirm)


def ask_everything() -> Elicit[Confirm]:
    return Elicit("Delete ALL 10000 files?", Confirm)


def ask_everything_then(
    temporary: Annotated[ElicitationResult[Confirm], Resolve(ask_temporary)],
) -> Elicit[Confirm]:
    return Elicit("Delete ALL 10000 files?", Confirm)


@mcp.tool()
async def clean(
    temporary: Annotated[ElicitationResult[Confirm], Resolve(ask_temporary)],
    everything: Annotated[ElicitationResult[Confirm], Resolve(ask_everything_then)],
) -> str:
    """Removes temporary files, and all files if the user agrees."""
    return f"temporary={temporary.action} ALL={everything.action}"


@mcp.tool()
async def clean_at_once(
    temporary: Annotated[ElicitationResult[Confirm], Resolve(ask_temporary)],
    everything: Annotated[ElicitationResult[Confirm], Resolve(ask_everything)],
) -> str:
    """The same, with both questions at once."""
    return f"temporary={temporary.action} ALL={everything.action}"


def sample(prompt: str) -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text=prompt))], max_tokens=60)


def summary_of_a() -> Sample:
    return sample("Summarize note A")


def summary_of_b(first: Annotated[CreateMessageResult, Resolve(summary_of_a)]) -> Sample:
    return sample("Summarize note B")


@mcp.tool()
async def summarize(
    first: Annotated[CreateMessageResult, Resolve(summary_of_a)],
    second: Annotated[CreateMessageResult, Resolve(summary_of_b)],
) -> str:
    """Summarizes two notes."""
    return f"{first.content.text} | {second.content.text}"


def roots_of_the_client() -> ListRoots:
    return ListRoots()


@mcp.tool()
async def folders(roots: Annotated[ListRootsResult, Resolve(roots_of_the_client)]) -> str:
    """The folders that the client shares."""
    return " ".join(str(root.uri) for root in roots.roots)


@mcp.tool()
async def import_notes(count: int, ctx: Context) -> str:
    """Imports notes and reports progress."""
    for done in range(1, count + 1):
        await ctx.report_progress(done, total=count)
        await asyncio.sleep(0.05)
    return f"imported {count}"


@mcp.tool()
async def touch_note(ctx: Context) -> str:
    """Changes the list of notes."""
    await ctx.notify_resource_updated("notes://list")
    return "touched"


@mcp.tool()
async def wait() -> str:
    """Takes a minute."""
    await asyncio.sleep(60)
    return "done"


@mcp.resource("notes://list")
def list_of_notes() -> str:
    return "A, B"


@mcp.resource("notes://note/{title}")
def note(title: str) -> str:
    return f"text of {title}"


@mcp.prompt()
def review(language: str) -> str:
    """Asks for a review."""
    return f"Review this {language} code."


@mcp.completion()
async def complete(
    ref: PromptReference | ResourceTemplateReference,
    argument: CompletionArgument,
    context: CompletionContext | None,
) -> Completion | None:
    if isinstance(ref, PromptReference) and argument.name == "language":
        return Completion(values=[language for language in LANGUAGES if language.startswith(argument.value)])
    return None


if __name__ == "__main__":
    mcp.run()
