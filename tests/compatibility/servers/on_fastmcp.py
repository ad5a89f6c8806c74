"""A server built with FastMCP 3, written like the examples in FastMCP's
documentation."""

import asyncio

from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from pydantic import BaseModel

mcp = FastMCP("notes")


class Count(BaseModel):
    words: int


@mcp.tool
def read_note(title: str) -> str:
    """Reads a note."""
    return f"text of {title}"


@mcp.tool
def delete_note(title: str) -> str:
    """Deletes a note."""
    return f"deleted {title}"


@mcp.tool
def word_count(text: str) -> Count:
    """Counts the words of a text."""
    return Count(words=len(text.split()))


@mcp.tool
def fail() -> str:
    """Always fails."""
    raise ToolError("the disk is full")


@mcp.tool
async def clean(ctx: Context) -> str:
    """Removes temporary files, and all files if the user agrees."""
    temporary = await ctx.elicit("Delete 1 temporary file?", response_type=None)
    everything = await ctx.elicit("Delete ALL 10000 files?", response_type=None)
    return f"temporary={temporary.action} ALL={everything.action}"


@mcp.tool
async def clean_at_once(ctx: Context) -> str:
    """The same, with both questions at once."""
    temporary, everything = await asyncio.gather(
        ctx.elicit("Delete 1 temporary file?", response_type=None),
        ctx.elicit("Delete ALL 10000 files?", response_type=None),
    )
    return f"temporary={temporary.action} ALL={everything.action}"


@mcp.tool
async def summarize(ctx: Context) -> str:
    """Summarizes two notes."""
    first = await ctx.sample("Summarize note A")
    second = await ctx.sample("Summarize note B")
    return f"{first.text} | {second.text}"


@mcp.tool
async def folders(ctx: Context) -> str:
    """The folders that the client shares."""
    return " ".join(str(root.uri) for root in await ctx.list_roots())


@mcp.tool
async def import_notes(count: int, ctx: Context) -> str:
    """Imports notes and reports progress."""
    await ctx.info(f"importing {count} notes")
    for done in range(1, count + 1):
        await ctx.report_progress(done, total=count)
        await asyncio.sleep(0.05)
    return f"imported {count}"


@mcp.tool
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


@mcp.prompt
def review(language: str) -> str:
    """Asks for a review."""
    return f"Review this {language} code."


if __name__ == "__main__":
    mcp.run(show_banner=False)
