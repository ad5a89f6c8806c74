// The code of both TypeScript clients: they sign in without stored tokens, step up, and use every feature of the
// server once. They report each event as a line of JSON. The program that reads the lines visits the URLs in place
// of a user.
import { createServer } from 'node:http';

const { MCP_URL, SIGN_IN, GRANTS = 'authorization_code refresh_token' } = process.env;

export const url = new URL(MCP_URL);
export const info = { name: 'compatibility', version: '1.0.0' };
export const capabilities = { elicitation: { form: {} }, sampling: {}, roots: {} };
const LOG_LEVEL = 'io.modelcontextprotocol/logLevel';
const CHECK_MS = Number(process.env.CHECK_SECONDS ?? 40) * 1000;

export const report = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

/** The questions of the server. The user declines the one about ALL files, and ticks every box of the others. */
const asked = [];
export function elicit({ params }) {
  asked.push(params.message);
  if (params.message.includes('ALL')) return { action: 'decline' };
  const fields = Object.keys(params.requestedSchema?.properties ?? {});
  return { action: 'accept', content: Object.fromEntries(fields.map((field) => [field, true])) };
}

export function sample({ params }) {
  const content = params.messages.at(-1).content;
  const { text } = Array.isArray(content) ? content[0] : content;
  return { role: 'assistant', model: 'm', content: { type: 'text', text: `summary of ${text}` } };
}

export const roots = () => ({ roots: [{ uri: 'file:///notes', name: 'notes' }] });

/** A notification for which the client waits. */
class Told {
  constructor() {
    this.seen = new Promise((resolve) => { this.tell = resolve; });
  }
}
export const logged = new Told();
export const updated = new Told();

/** An OAuth provider in memory with a listener on loopback, as in the SDK's examples. */
class Provider {
  static async listening() {
    const provider = new Provider();
    const listener = createServer((request, response) => {
      response.end('You can close this window.');
      const callback = new URL(request.url, provider.redirectUrl);
      if (callback.pathname === '/callback') provider.answer?.(callback);
    });
    await new Promise((resolve) => { listener.listen(0, '127.0.0.1', resolve); });
    listener.unref();
    provider.redirectUrl = `http://127.0.0.1:${listener.address().port}/callback`;
    return provider;
  }

  get clientMetadata() {
    return {
      client_name: 'Compatibility',
      redirect_uris: [this.redirectUrl],
      grant_types: GRANTS.split(' '),
      response_types: ['code'],
      token_endpoint_auth_method: 'none',
    };
  }

  state() { return crypto.randomUUID(); }
  clientInformation() { return this.client; }
  saveClientInformation(client) { this.client = client; }
  tokens() { return this.held; }
  saveTokens(tokens) { this.held = tokens; }
  saveCodeVerifier(verifier) { this.verifier = verifier; }
  codeVerifier() { return this.verifier; }
  saveDiscoveryState(state) { this.discovery = state; }
  discoveryState() { return this.discovery; }
  redirectToAuthorization(authorizationUrl) {
    this.callback = new Promise((resolve) => { this.answer = resolve; });
    report({ visit: authorizationUrl.href, redirect_uri: this.redirectUrl, scope: authorizationUrl.searchParams.get('scope') });
  }
}

const within = (promise, ms = CHECK_MS) => {
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error(`nothing within ${ms} ms`)), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

const is = (found, expected) => {
  const [left, right] = [found, expected].map((value) => JSON.stringify(value));
  if (left !== right) throw new Error(`${left} instead of ${right}`);
};

async function connect(sdk, provider) {
  const { client, transport } = sdk.make(provider);
  try {
    await client.connect(transport);
    return { client, transport };
  } catch (error) {
    if (!provider || !sdk.isUnauthorized(error)) throw error;
    await sdk.finish(transport, await provider.callback);
    report({ signed_in: true });
    return connect(sdk, provider);
  }
}

/** Calls the tool that needs more scopes than the first login has. */
async function stepUp(sdk, { transport }, provider, call) {
  const text = (result) => result.content[0].text;
  try {
    return text(await call('delete_note', { title: 'A' }));
  } catch (error) {
    if (!provider || !sdk.isUnauthorized(error)) throw error;
    await sdk.finish(transport, await provider.callback);
    return text(await call('delete_note', { title: 'A' }));
  }
}

/** Every feature: its name, whether the server has it, and a function that uses it and checks the result. */
function features(sdk, connection) {
  const { client } = connection;
  const is2026 = sdk.isModern(client);
  const call = (name, args = {}, options = undefined, meta = undefined) =>
    sdk.call(client, { name, arguments: args, ...(meta && { _meta: meta }) }, options);
  const text = async (...rest) => (await call(...rest)).content[0].text;
  const able = client.getServerCapabilities() ?? {};
  const answered = 'temporary=accept ALL=decline';
  const questions = ['Delete 1 temporary file?', 'Delete ALL 10000 files?'];
  const clean = async (tool, times) => {
    asked.length = 0;
    await times(async () => is(await text(tool), answered));
  };
  const once = (act) => act();
  return [
    ['call', true, async () => is(await text('read_note', { title: 'A' }), 'text of A')],
    ['structured', true, async () => is((await call('word_count', { text: 'one two' })).structuredContent, { words: 2 })],
    ['error', true, async () => {
      const result = await call('fail');
      if (!result.isError || !result.content[0].text.includes('the disk is full')) throw new Error(JSON.stringify(result));
    }],
    ['questions', true, async () => {
      await clean('clean', once);
      is(asked, questions);
    }],
    ['questions again', true, async () => {
      await clean('clean', async (act) => { await act(); await act(); });
      is(asked, [...questions, ...questions]);
    }],
    ['questions in parallel', true, async () => {
      await clean('clean', (act) => Promise.all([act(), act()]));
      is(asked.toSorted(), [...questions, ...questions].toSorted());
    }],
    ['questions at once', true, async () => {
      await clean('clean_at_once', once);
      is(asked.toSorted(), questions);
    }],
    ['sampling', true, async () => is(await text('summarize'), 'summary of Summarize note A | summary of Summarize note B')],
    ['roots', true, async () => is(await text('folders'), 'file:///notes')],
    ['progress', true, async () => {
      const seen = [];
      await call('import_notes', { count: 3 }, { onprogress: ({ progress }) => seen.push(progress) });
      // This SDK drops progress notifications that it reads together with the response.
      is(seen, [1, 2, 3].slice(0, Math.max(seen.length, 1)));
    }],
    ['logging', able.logging !== undefined, async () => {
      if (!is2026) await client.setLoggingLevel('info').catch(() => {});
      await call('import_notes', { count: 1 }, undefined, is2026 ? { [LOG_LEVEL]: 'info' } : undefined);
      await logged.seen;
    }],
    ['resources', true, async () => is((await client.readResource({ uri: 'notes://list' })).contents[0].text, 'A, B')],
    ['templates', true, async () => {
      is((await client.listResourceTemplates()).resourceTemplates[0].uriTemplate, 'notes://note/{title}');
      is((await client.readResource({ uri: 'notes://note/B' })).contents[0].text, 'text of B');
    }],
    ['subscription', able.resources?.subscribe === true, async () => {
      if (is2026) await client.listen({ resourceSubscriptions: ['notes://list'] });
      else await client.subscribeResource({ uri: 'notes://list' });
      // A server can confirm a subscription before it is in effect, so the note is changed repeatedly.
      const touching = setInterval(() => call('touch_note').catch(() => {}), 1000);
      await call('touch_note').then(() => updated.seen).finally(() => clearInterval(touching));
    }],
    ['prompts', true, async () => {
      const { messages } = await client.getPrompt({ name: 'review', arguments: { language: 'go' } });
      is(messages[0].content.text, 'Review this go code.');
    }],
    ['completion', able.completions !== undefined, async () => {
      const argument = { name: 'language', value: 'py' };
      is((await client.complete({ ref: { type: 'ref/prompt', name: 'review' }, argument })).completion.values, ['python']);
    }],
    ['cancellation', true, async () => {
      const stop = new AbortController();
      setTimeout(() => stop.abort('enough'), 100);
      const ended = await call('wait', {}, { signal: stop.signal }).then(() => 'answered', () => 'cancelled');
      is(ended, 'cancelled');
      is(await text('read_note', { title: 'A' }), 'text of A');
    }],
  ];
}

/** Signs in, uses every feature, and steps up. */
export async function run(sdk) {
  const provider = SIGN_IN && !sdk.signsInByItself ? await Provider.listening() : undefined;
  const connection = await within(connect(sdk, provider), 60_000);
  if (SIGN_IN && !provider) report({ signed_in: true });
  report({ revision: sdk.revision(connection.client, connection.transport) });
  for (const [check, has, use] of features(sdk, connection)) {
    if (!has) {
      report({ check, verdict: 'none' });
      continue;
    }
    await within(use()).then(
      () => report({ check, verdict: 'ok' }),
      (error) => report({ check, verdict: 'failed', detail: String(error.message ?? error).slice(0, 300) }),
    );
  }
  if (SIGN_IN) {
    const call = (name, args) => sdk.call(connection.client, { name, arguments: args });
    await within(stepUp(sdk, connection, provider, call), 60_000).then(
      (text) => report({ stepped_up: text === 'deleted A' }),
      (error) => report({ stepped_up: false, detail: String(error.message ?? error).slice(0, 300) }),
    );
  }
  report({ done: true });
  process.exit(0);
}
