// A client built with the unchanged TypeScript SDK 2, which detects whether the server supports the stateless revision.

import { load, run, url, watchedFetch } from "./common.mjs";

const { Client, StreamableHTTPClientTransport, UnauthorizedError } = load("@modelcontextprotocol/client");

await run({
  connect(authProvider) {
    const transport = new StreamableHTTPClientTransport(url, { authProvider, fetch: watchedFetch });
    const client = new Client({ name: "ts-v2", version: "1" }, { versionNegotiation: { mode: "auto" } });
    return { client, transport };
  },
  async finish(transport, callback) {
    // The SDK receives the whole response, so that it can check `iss` (RFC 9207).
    await transport.finishAuth(callback.searchParams);
  },
  isUnauthorized: (error) => error instanceof UnauthorizedError,
});
