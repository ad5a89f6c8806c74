// A general OAuth client without any support for MCP: openid-client, which is certified for OpenID Connect and
// FAPI. It checks responses more strictly than the SDKs.

import { authorizeInBrowser } from "./browser.mjs";
import { load, report } from "./common.mjs";

const { ISSUER, MCP_URL, ACCOUNT, PASSWORD } = process.env;
const oauth = load("openid-client");
const jose = load("jose");

const person = { username: ACCOUNT, password: PASSWORD };
const redirectUri = "http://127.0.0.1:9/callback";
const grants = ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"];
const http = [oauth.allowInsecureRequests]; // The test stack uses HTTP on loopback.

const config = await oauth.dynamicClientRegistration(
  new URL(ISSUER),
  { client_name: "openid-client", redirect_uris: [redirectUri], grant_types: grants, token_endpoint_auth_method: "client_secret_basic" },
  undefined,
  { algorithm: "oauth2", execute: http },
);
report({ issuer: config.serverMetadata().issuer, registered: Boolean(config.clientMetadata().client_secret) });

/** Runs the authorization code flow with PKCE, with or without a pushed request, and with or without DPoP. */
async function codeFlow({ pushed, DPoP }) {
  const pkceCodeVerifier = oauth.randomPKCECodeVerifier();
  const expectedState = oauth.randomState();
  const parameters = {
    redirect_uri: redirectUri,
    scope: "mcp",
    state: expectedState,
    resource: MCP_URL,
    code_challenge: await oauth.calculatePKCECodeChallenge(pkceCodeVerifier),
    code_challenge_method: "S256",
  };
  const url = pushed
    ? await oauth.buildAuthorizationUrlWithPAR(config, parameters, { DPoP })
    : oauth.buildAuthorizationUrl(config, parameters);
  const callback = await authorizeInBrowser(url, redirectUri, person);
  const tokens = await oauth.authorizationCodeGrant(config, callback, { pkceCodeVerifier, expectedState }, { resource: MCP_URL }, { DPoP });
  report({ flow: pushed ? "pushed" : "plain", token_type: tokens.token_type, scope: tokens.scope, bound: Boolean(DPoP) });
  return tokens;
}

async function assertActive(token, expected, what) {
  const { active, scope, client_id } = await oauth.tokenIntrospection(config, token);
  report({ introspected: what, active, scope, client_id_is_ours: !active || client_id === config.clientMetadata().client_id });
  if (active !== expected) throw new Error(`${what}: active is ${active}`);
}

async function checked(tokens, DPoP) {
  const response = await oauth.fetchProtectedResource(
    config,
    tokens.access_token,
    new URL(MCP_URL),
    "POST",
    JSON.stringify({ jsonrpc: "2.0", id: 1, method: "initialize", params: { protocolVersion: "2025-06-18", capabilities: {}, clientInfo: { name: "o", version: "1" } } }),
    new Headers({ "content-type": "application/json", accept: "application/json, text/event-stream" }),
    { DPoP },
  );
  await response.text();
  return response.status;
}

// The plain flow, with refresh, introspection and revocation.
const first = await codeFlow({ pushed: false });
report({ passed: await checked(first) });
await assertActive(first.access_token, true, "access token");
const second = await oauth.refreshTokenGrant(config, first.refresh_token, { resource: MCP_URL });
report({ refreshed: second.access_token !== first.access_token, rotated: second.refresh_token !== first.refresh_token });
await assertActive(second.refresh_token, true, "refresh token");
await oauth.tokenRevocation(config, second.refresh_token);
await assertActive(second.refresh_token, false, "revoked refresh token");
await assertActive(second.access_token, false, "access token of a revoked grant");
try {
  await oauth.refreshTokenGrant(config, second.refresh_token);
  throw new Error("a revoked refresh token was accepted");
} catch (error) {
  // The library reports the error as the server sent it.
  report({ refused: error.error, status: error.status, description: error.error_description, uri: error.cause?.error_uri });
}

// The flow with a pushed request, and with tokens that are bound to a key.
const DPoP = oauth.getDPoPHandle(config, await oauth.randomDPoPKeyPair("ES256"));
const bound = await codeFlow({ pushed: true, DPoP });
report({ passed_bound: await checked(bound, DPoP) });
const again = await oauth.refreshTokenGrant(config, bound.refresh_token, undefined, { DPoP });
report({ token_type: again.token_type, thumbprint: jose.decodeJwt(again.access_token).cnf?.jkt === (await DPoP.calculateThumbprint()) });

// The flow for devices.
const device = await oauth.initiateDeviceAuthorization(config, { scope: "mcp", resource: MCP_URL });
const polled = oauth.pollDeviceAuthorizationGrant(config, device);
await authorizeInBrowser(device.verification_uri_complete, "(nowhere)", person).catch((error) => report({ device_page: error.message.slice(0, 60) }));
report({ device_token: (await polled).token_type });
report({ done: true });
