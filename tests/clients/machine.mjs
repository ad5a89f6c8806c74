// A client without a user, with the TypeScript SDK's own providers: client credentials with a secret or a signed
// assertion, and cross-app access with an assertion of an enterprise's identity provider. This program also acts as
// that identity provider.

import { load, report, url, watchedFetch } from "./common.mjs";

const { SDK, WAY, ISSUER, CLIENT_ID, CLIENT_SECRET, PRIVATE_KEY, ALGORITHM, PROVIDER } = process.env;

const v1 = (name) => load(`@modelcontextprotocol/sdk/client/${name}.js`);
const sdk =
  SDK === "2"
    ? load("@modelcontextprotocol/client")
    : { ...v1("index"), ...v1("streamableHttp"), ...v1("auth-extensions") };

const common = { clientId: CLIENT_ID, expectedIssuer: ISSUER };

/** Creates an assertion of the identity provider about the user, for one exchange. */
async function assertion({ authorizationServerUrl, resourceUrl, scope }) {
  const { SignJWT, importPKCS8 } = load("jose");
  report({ id_jag_for: String(authorizationServerUrl) });
  return new SignJWT({ client_id: CLIENT_ID, resource: String(resourceUrl), scope })
    .setProtectedHeader({ alg: ALGORITHM, kid: "k", typ: "oauth-id-jag+jwt" })
    .setIssuer(PROVIDER)
    .setAudience(String(authorizationServerUrl))
    .setSubject("emp-7")
    .setJti(crypto.randomUUID())
    .setIssuedAt()
    .setExpirationTime("5m")
    .sign(await importPKCS8(PRIVATE_KEY, ALGORITHM));
}

const providers = {
  secret: () => new sdk.ClientCredentialsProvider({ ...common, clientSecret: CLIENT_SECRET }),
  assertion: () => new sdk.PrivateKeyJwtProvider({ ...common, privateKey: PRIVATE_KEY, algorithm: ALGORITHM }),
  enterprise: () => new sdk.CrossAppAccessProvider({ ...common, clientSecret: CLIENT_SECRET, assertion, fetchFn: watchedFetch }),
};
const authProvider = providers[WAY]();

const transport = new sdk.StreamableHTTPClientTransport(url, { authProvider, fetch: watchedFetch });
const options = SDK === "2" ? { versionNegotiation: { mode: "auto" } } : undefined;
const client = new sdk.Client({ name: `machine-${SDK}`, version: "1" }, options);
await client.connect(transport);
const { content } = await client.callTool({ name: "echo", arguments: { message: "hello" } });
report({ called: content });
await transport.terminateSession?.();
await client.close();
report({ done: true });
