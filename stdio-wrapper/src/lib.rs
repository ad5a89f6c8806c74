//! stdio-wrapper: a stdio MCP server over Streamable HTTP.
