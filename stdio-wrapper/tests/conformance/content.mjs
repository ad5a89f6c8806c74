// What the conformance suite expects of a server, independent of any SDK. Texts and schemas stand in content.json, which
// the Python fixture reads too; what moves stands here. `peer` is the client: peer.notify(method, params),
// await peer.request(method, params), peer.progressToken.
import { readFileSync } from 'node:fs';

const content = JSON.parse(readFileSync(new URL('./content.json', import.meta.url)));
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const text = (value) => ({ type: 'text', text: value });

const ask = async (tool, message, lead, peer) => {
  const answer = await peer.request('elicitation/create', { message, requestedSchema: content.elicitations[tool] });
  return [text(`${lead}: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`)];
};

const moving = {
  test_tool_with_logging: async (_, peer) => {
    for (const data of ['Tool execution started', 'Tool processing data', 'Tool execution completed']) {
      await peer.notify('notifications/message', { level: 'info', data });
      await pause(50);
    }
    return [text('Logged three messages.')];
  },
  test_tool_with_progress: async (_, peer) => {
    for (const progress of [0, 50, 100]) {
      if (peer.progressToken !== undefined) {
        await peer.notify('notifications/progress', { progressToken: peer.progressToken, progress, total: 100 });
      }
      await pause(50);
    }
    return [text('Reported progress.')];
  },
  test_error_handling: () => {
    throw new Error('This tool intentionally returns an error for testing');
  },
  test_reconnection: async () => {
    await pause(500);
    return [text('Still here.')];
  },
  test_sampling: async ({ prompt }, peer) => {
    const messages = [{ role: 'user', content: text(prompt) }];
    const answer = await peer.request('sampling/createMessage', { messages, maxTokens: 100 });
    return [text(`LLM response: ${answer.content?.text ?? JSON.stringify(answer.content)}`)];
  },
  test_elicitation: ({ message }, peer) => ask('test_elicitation', message, 'User response', peer),
  test_elicitation_sep1034_defaults: (_, peer) =>
    ask('test_elicitation_sep1034_defaults', 'Please check these values', 'Elicitation completed', peer),
  test_elicitation_sep1330_enums: (_, peer) =>
    ask('test_elicitation_sep1330_enums', 'Please choose', 'Elicitation completed', peer),
  json_schema_2020_12_tool: (input) => [text(JSON.stringify(input))],
};

const unknown = (what) => {
  throw Object.assign(new Error(`Unknown ${what}`), { code: -32602 });
};

export const capabilities = {
  completions: {},
  logging: {},
  prompts: { listChanged: true },
  resources: { subscribe: true, listChanged: true },
  tools: { listChanged: true },
};

export const answers = {
  'logging/setLevel': () => ({}),
  'completion/complete': ({ argument }) => ({
    completion: { values: ['paris', 'park', 'party'].filter((value) => value.startsWith(argument.value)), hasMore: false },
  }),
  'tools/list': () => ({ tools: content.tools.map(({ tool }) => tool) }),
  'tools/call': async ({ name, arguments: input = {} }, peer) => {
    const found = content.tools.find(({ tool }) => tool.name === name) ?? unknown('tool');
    try {
      return { content: found.content ?? (await moving[name](input, peer)) };
    } catch (error) {
      return { isError: true, content: [text(error.message)] };
    }
  },
  'resources/list': () => ({ resources: content.resources.map(({ resource }) => resource) }),
  'resources/templates/list': () => ({ resourceTemplates: content.templates }),
  'resources/read': ({ uri }) => {
    const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
    if (id !== undefined) {
      const data = JSON.stringify({ id, templateTest: true, data: `Data for ID: ${id}` });
      return { contents: [{ uri, mimeType: 'application/json', text: data }] };
    }
    const found = content.resources.find(({ resource }) => resource.uri === uri) ?? unknown('resource');
    return { contents: [found.content] };
  },
  'resources/subscribe': () => ({}),
  'resources/unsubscribe': () => ({}),
  'prompts/list': () => ({ prompts: content.prompts.map(({ prompt }) => prompt) }),
  'prompts/get': ({ name, arguments: input = {} }) => {
    const found = content.prompts.find(({ prompt }) => prompt.name === name) ?? unknown('prompt');
    const filled = JSON.stringify(found.messages).replace(/\{(arg1|arg2|resourceUri)\}/g, (_, key) => input[key] ?? '');
    return { messages: JSON.parse(filled) };
  },
};
