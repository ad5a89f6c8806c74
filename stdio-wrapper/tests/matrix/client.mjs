// A TypeScript client that reports the result of each check as a line. Usage: client.mjs v1|v2 MODE URL
const [, , sdk, mode, url] = process.argv;
const info = { name: 'matrix', version: '1.0.0' };
const capabilities = { elicitation: {}, sampling: {} };
const sampled = { role: 'assistant', model: 'm', content: { type: 'text', text: 'sampled' } };
const elicited = { action: 'accept', content: { name: 'Ana' } };

let client, transport, changed;
const toolsChanged = new Promise((done) => { changed = done; });

if (sdk === 'v1') {
  const { Client } = await import('@modelcontextprotocol/sdk/client/index.js');
  const { StreamableHTTPClientTransport } = await import('@modelcontextprotocol/sdk/client/streamableHttp.js');
  const types = await import('@modelcontextprotocol/sdk/types.js');
  client = new Client(info, { capabilities });
  client.setRequestHandler(types.ElicitRequestSchema, () => elicited);
  client.setRequestHandler(types.CreateMessageRequestSchema, () => sampled);
  client.setNotificationHandler(types.ToolListChangedNotificationSchema, () => changed());
  transport = new StreamableHTTPClientTransport(new URL(url));
} else {
  const { Client, StreamableHTTPClientTransport } = await import('@modelcontextprotocol/client');
  const versionNegotiation = { mode: mode === 'pinned' ? { pin: '2026-07-28' } : mode };
  client = new Client(info, { capabilities, versionNegotiation });
  client.setRequestHandler('elicitation/create', () => elicited);
  client.setRequestHandler('sampling/createMessage', () => sampled);
  client.setNotificationHandler('notifications/tools/list_changed', () => changed());
  transport = new StreamableHTTPClientTransport(new URL(url));
}

const call = (name, input = {}, options) => sdk === 'v1'
  ? client.callTool({ name, arguments: input }, undefined, options)
  : client.callTool({ name, arguments: input }, options);
const within = (promise, ms) => Promise.race([
  promise, new Promise((_, fail) => { setTimeout(() => fail(new Error(`nothing within ${ms} ms`)), ms); }),
]);
const text = (result) => result.content[0].text;
const has = (value, part) => { if (!value.includes(part)) throw new Error(`${part} is missing in ${value}`); };

const checks = {
  list: async () => has(JSON.stringify((await client.listTools()).tools), 'test_simple_text'),
  call: async () => has(text(await call('test_simple_text')), 'simple text'),
  progress: async () => {
    let seen = 0;
    await call('test_tool_with_progress', {}, { onprogress: () => { seen += 1; } });
    if (seen < 1) throw new Error('no progress');
  },
  elicitation: async () => has(text(await call('test_elicitation', { message: 'Who?' })), 'accept'),
  sampling: async () => has(text(await call('test_sampling', { prompt: 'x' })), 'sampled'),
  subscription: async () => {
    if (client.getProtocolEra?.() === 'modern') await client.listen({ toolsListChanged: true });
    await call('test_trigger_tool_change');
    await within(toolsChanged, 3000);
  },
  cancellation: async () => {
    const stop = new AbortController();
    setTimeout(() => stop.abort('enough'), 100);
    const ended = call('test_reconnection', {}, { signal: stop.signal }).then(() => 'answered', () => 'cancelled');
    if (await within(ended, 3000) !== 'cancelled') throw new Error('the call got a response although it was cancelled');
    has(text(await call('test_simple_text')), 'simple text');
  },
};

const report = (name, error) => console.log(`${name} ${error ? `FAILED ${String(error.message ?? error).slice(0, 160).replaceAll('\n', ' ')}` : 'ok'}`);
try {
  await within(client.connect(transport), 10000);
  for (const [name, check] of Object.entries(checks)) {
    await within(check(), 8000).then(() => report(name), (error) => report(name, error));
  }
} catch (error) {
  for (const name of Object.keys(checks)) report(name, error);
}
process.exit(0);
