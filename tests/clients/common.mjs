// What both TypeScript SDK drivers share: where the SDKs are, what is reported, and an OAuth provider in memory.

import { createRequire } from "node:module";
import { authorizeInBrowser } from "./browser.mjs";

const { MCP_URL, ACCOUNT, PASSWORD, NEW_PASSWORD, MCP_GATE_TOOLS } = process.env;
const { TOOL = "echo", TOOL_ARGUMENTS = '{"message":"hello"}' } = process.env;

export const url = new URL(MCP_URL);
export const load = createRequire(`${MCP_GATE_TOOLS}/npm/package.json`);

/** One JSON line for each thing that happened, in order. */
export function report(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

/** The SDK's own requests, reported. Nothing is changed on the way. */
export async function watchedFetch(input, init) {
  const response = await fetch(input, init);
  const form = init?.body instanceof URLSearchParams ? Object.fromEntries(init.body) : undefined;
  report({
    http: (init?.method ?? "GET").toUpperCase(),
    path: new URL(input).pathname,
    status: response.status,
    challenge: response.headers.get("www-authenticate") ?? undefined,
    grant_type: form?.grant_type,
    resource: form?.resource,
  });
  return response;
}

export class Provider {
  redirectUrl = "http://127.0.0.1:9/callback";
  clientMetadata = {
    client_name: "an SDK in a test",
    redirect_uris: [this.redirectUrl],
    grant_types: ["authorization_code", "refresh_token"],
    response_types: ["code"],
    token_endpoint_auth_method: "none",
  };

  state() {
    return (this.sentState = crypto.randomUUID());
  }
  clientInformation() {
    return this.client;
  }
  saveClientInformation(client) {
    this.client = client;
    report({ registered: Boolean(client.client_id) });
  }
  tokens() {
    return this.held;
  }
  saveTokens(tokens) {
    this.held = tokens;
  }
  saveCodeVerifier(verifier) {
    this.verifier = verifier;
  }
  codeVerifier() {
    return this.verifier;
  }
  saveDiscoveryState(state) {
    this.discovery = state;
  }
  discoveryState() {
    return this.discovery;
  }
  async redirectToAuthorization(authorizationUrl) {
    const query = authorizationUrl.searchParams;
    report({ authorize: query.get("code_challenge_method"), resource: query.get("resource") });
    const person = { username: ACCOUNT, password: PASSWORD, newPassword: NEW_PASSWORD };
    this.callback = await authorizeInBrowser(authorizationUrl, this.redirectUrl, person);
    if (this.callback.searchParams.get("state") !== this.sentState) throw new Error(`the state changed: ${this.callback}`);
    report({ iss: this.callback.searchParams.get("iss") });
  }
}

/** The whole story. `connect` makes a client and a transport; `finish` hands the SDK the authorization response. */
export async function run({ connect, finish, isUnauthorized }) {
  const provider = new Provider();
  let { client, transport } = connect(provider);
  try {
    await client.connect(transport);
    throw new Error("the first connection needed no login");
  } catch (error) {
    if (!isUnauthorized(error)) throw error;
  }
  await finish(transport, provider.callback);
  report({ token_type: provider.held.token_type, expires_in: provider.held.expires_in, refreshable: "refresh_token" in provider.held });

  ({ client, transport } = connect(provider));
  await client.connect(transport);
  const call = async () => (await client.callTool({ name: TOOL, arguments: JSON.parse(TOOL_ARGUMENTS) })).content;
  report({ protocol: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion });
  report({ tools: (await client.listTools()).tools.map((tool) => tool.name) });
  report({ called: await call() });

  // A token that the edge refuses: the SDK finds out by the challenge and refreshes by itself.
  const before = provider.held;
  provider.held = { ...before, access_token: `${before.access_token.slice(0, -8)}AAAAAAAA` };
  report({ called_again: await call() });
  report({ refreshed: provider.held.access_token !== before.access_token, rotated: provider.held.refresh_token !== before.refresh_token });

  await transport.terminateSession?.();
  await client.close();
  report({ done: true });
}
