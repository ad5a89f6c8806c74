// A client built with the unchanged TypeScript SDK 1.

import { load, run, url, watchedFetch } from "./common.mjs";

const { Client } = load("@modelcontextprotocol/sdk/client/index.js");
const { StreamableHTTPClientTransport } = load("@modelcontextprotocol/sdk/client/streamableHttp.js");
const { UnauthorizedError } = load("@modelcontextprotocol/sdk/client/auth.js");

await run({
  connect(authProvider) {
    const transport = new StreamableHTTPClientTransport(url, { authProvider, fetch: watchedFetch });
    return { client: new Client({ name: "ts-v1", version: "1" }), transport };
  },
  async finish(transport, callback) {
    await transport.finishAuth(callback.searchParams.get("code"));
  },
  isUnauthorized: (error) => error instanceof UnauthorizedError,
});
