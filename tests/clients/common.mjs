// Code that the programs for both TypeScript SDKs share: loading the SDKs, reports, and an OAuth provider in
// memory.

import { createRequire } from "node:module";
import { authorizeInBrowser } from "./browser.mjs";

const { MCP_URL, ACCOUNT, PASSWORD, NEW_PASSWORD, MCP_GATE_TOOLS } = process.env;
const { TOOL = "echo", TOOL_ARGUMENTS = '{"message":"hello"}' } = process.env;
// The client registers as CLIENT_NAME, or uses the metadata document at CLIENT_METADATA_URL instead (SEP-991).
// With STEP_UP_FROM, the first login requests this scope, which is less than the server requires, and the second
// login requests the rest. With STEP_UP_IN_CALL, the scope of the first login is unchanged, and the call needs
// more.
const { CLIENT_NAME = "an SDK in a test", CLIENT_METADATA_URL, RECONNECTS, STEP_UP_FROM, STEP_UP_IN_CALL, GRANTS } = process.env;

export const url = new URL(MCP_URL);
export const load = createRequire(`${MCP_GATE_TOOLS}/npm/package.json`);

/** Prints an event as a line of JSON. */
export function report(event) {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

/** Sends a request of the SDK unchanged, and reports it. */
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
  clientMetadataUrl = CLIENT_METADATA_URL;

  /** `port` is the loopback port of the redirect URI. Real clients use another one in each run. */
  constructor(port = 9) {
    this.redirectUrl = `http://127.0.0.1:${port}/callback`;
    this.clientMetadata = {
      client_name: CLIENT_NAME,
      redirect_uris: [this.redirectUrl],
      grant_types: GRANTS?.split(" ") ?? ["authorization_code", "refresh_token"],
      response_types: ["code"],
      token_endpoint_auth_method: "none",
    };
  }

  state() {
    return (this.sentState = crypto.randomUUID());
  }
  clientInformation() {
    return this.client;
  }
  saveClientInformation(client) {
    this.client = client;
    report({ registered: Boolean(client.client_id), registered_scope: client.scope });
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
    this.askedAs = query.get("client_id");
    if (this.staysOut) return;
    if (this.less) query.set("scope", this.less);
    this.less = undefined;
    report({ authorize: query.get("code_challenge_method"), resource: query.get("resource"), scope: query.get("scope") });
    const person = { username: ACCOUNT, password: PASSWORD, newPassword: NEW_PASSWORD, pages: [] };
    this.callback = await authorizeInBrowser(authorizationUrl, this.redirectUrl, person);
    if (this.callback.searchParams.get("state") !== this.sentState) throw new Error(`the state changed: ${this.callback}`);
    report({ iss: this.callback.searchParams.get("iss"), consent: person.pages.at(-1) });
  }
}

/**
 * Connects without tokens, until the SDK needs a user. By then, the SDK has read the metadata, registered, and
 * built the authorization URL.
 */
async function askForLogin({ connect, isUnauthorized }, provider) {
  const { client, transport } = connect(provider);
  try {
    await client.connect(transport);
  } catch (error) {
    if (!isUnauthorized(error)) throw error;
    return transport;
  }
  throw new Error("the first connection needed no login");
}

/**
 * Connects `runs` times, each time as a client that has stored nothing. Only the first connection and every
 * fortieth after it sign in and make a call, because the server limits the number of logins per minute.
 */
async function reconnect(sdk, runs) {
  for (let run = 0; run < runs; run += 1) {
    const provider = new Provider(21000 + run);
    provider.staysOut = run % 40 !== 0;
    const transport = await askForLogin(sdk, provider);
    if (!provider.staysOut) {
      await sdk.finish(transport, provider.callback);
      const second = sdk.connect(provider);
      await second.client.connect(second.transport);
      const { content } = await second.client.callTool({ name: TOOL, arguments: JSON.parse(TOOL_ARGUMENTS) });
      report({ called: content });
      await second.transport.terminateSession?.();
      await second.client.close();
    }
    report({ reconnected: run, client_id: provider.askedAs });
  }
  report({ done: true });
}

/** Signs in with too few scopes. After a 403, the SDK asks the user for the missing ones. */
async function stepUp(sdk) {
  const provider = new Provider();
  provider.less = STEP_UP_FROM;
  await sdk.finish(await askForLogin(sdk, provider), provider.callback);
  await sdk.finish(await askForLogin(sdk, provider), provider.callback);
  const { client, transport } = sdk.connect(provider);
  await client.connect(transport);
  report({ called: (await client.callTool({ name: TOOL, arguments: JSON.parse(TOOL_ARGUMENTS) })).content });
  await transport.terminateSession?.();
  await client.close();
  report({ done: true });
}

/** The server refuses a call because of its scope. The SDK asks the user for the missing scopes, and the client repeats the call. */
async function stepUpInCall(sdk) {
  const provider = new Provider();
  await sdk.finish(await askForLogin(sdk, provider), provider.callback);
  const call = async () => {
    const { client, transport } = sdk.connect(provider);
    await client.connect(transport);
    try {
      const { content } = await client.callTool({ name: TOOL, arguments: JSON.parse(TOOL_ARGUMENTS) });
      report({ called: content });
      await transport.terminateSession?.();
      await client.close();
    } catch (error) {
      if (!sdk.isUnauthorized(error)) throw error;
      return { client, transport };
    }
  };
  const refused = await call();
  if (!refused) throw new Error("the first call needed no more than the first login");
  await sdk.finish(refused.transport, provider.callback);
  await refused.client.close();
  if (await call()) throw new Error("the second login was too little again");
  report({ done: true });
}

/**
 * Runs the scenario that the environment selects. `sdk.connect` creates a client and a transport. `sdk.finish`
 * passes the authorization response to the SDK.
 */
export async function run(sdk) {
  if (RECONNECTS) return reconnect(sdk, Number(RECONNECTS));
  if (STEP_UP_FROM) return stepUp(sdk);
  if (STEP_UP_IN_CALL) return stepUpInCall(sdk);
  const provider = new Provider();
  await sdk.finish(await askForLogin(sdk, provider), provider.callback);
  report({ token_type: provider.held.token_type, expires_in: provider.held.expires_in, refreshable: "refresh_token" in provider.held });

  const { client, transport } = sdk.connect(provider);
  await client.connect(transport);
  const call = async () => (await client.callTool({ name: TOOL, arguments: JSON.parse(TOOL_ARGUMENTS) })).content;
  report({ protocol: client.getNegotiatedProtocolVersion?.() ?? transport.protocolVersion });
  report({ tools: (await client.listTools()).tools.map((tool) => tool.name) });
  report({ called: await call() });

  // The edge refuses this token. The SDK receives the challenge, and refreshes the token on its own.
  const before = provider.held;
  provider.held = { ...before, access_token: `${before.access_token.slice(0, -8)}AAAAAAAA` };
  report({ called_again: await call() });
  report({ refreshed: provider.held.access_token !== before.access_token, rotated: provider.held.refresh_token !== before.refresh_token });

  await transport.terminateSession?.();
  await client.close();
  report({ done: true });
}
