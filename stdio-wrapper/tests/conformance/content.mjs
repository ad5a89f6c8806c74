// What the conformance suite expects of a server, independent of any SDK. Texts and schemas are in content.json,
// which the Python fixture also reads. Tools whose result is not fixed are here. `peer` is the client:
// peer.notify(method, params), await peer.request(method, params), peer.progressToken, peer.wantsLogs,
// peer.changed(list), peer.capabilities. A peer of the stateless revision also has peer.rounds: { responses, state
// }. A tool asks such a peer by returning its questions.
import { createHmac, randomBytes } from 'node:crypto';
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
  test_logging_tool: async (_, peer) => {
    if (peer.wantsLogs) await peer.notify('notifications/message', { level: 'info', data: 'Asked for' });
    return [text('Done.')];
  },
  test_trigger_tool_change: async (_, peer) => {
    await peer.changed('tools');
    return [text('Announced.')];
  },
  test_trigger_prompt_change: async (_, peer) => {
    await peer.changed('prompts');
    return [text('Announced.')];
  },
  json_schema_2020_12_tool: (input) => [text(JSON.stringify(input))],
};

const key = randomBytes(32);
const seal = (round) => `${round}.${createHmac('sha256', key).update(String(round)).digest('base64url')}`;
const unseal = (state) => {
  const round = Number(state.split('.')[0]);
  if (seal(round) !== state) throw Object.assign(new Error('The request state was changed'), { code: -32602 });
  return round;
};

const capabilityOf = { 'elicitation/create': 'elicitation', 'sampling/createMessage': 'sampling', 'roots/list': 'roots' };

// Asks the questions of a tool or prompt in rounds. Returns undefined when all questions have been answered.
const questions = async (name, peer) => {
  const found = content.questions[name];
  if (!found) return undefined;
  const declared = ([, { method }]) => peer.capabilities?.[capabilityOf[method]] !== undefined;
  const choose = (round) => {
    const all = Object.entries(round);
    return name.endsWith('_capabilities') ? all.filter(declared) : all;
  };
  if (!peer.rounds) {
    for (const round of found.rounds) {
      await Promise.all(choose(round).map(([id, { method, params }]) =>
        peer.request(method, { ...params, _meta: { 'mcp-gate/inputKey': id } })));
    }
    return undefined;
  }
  for (const capability of found.requires ?? []) {
    if (peer.capabilities?.[capability] === undefined) {
      throw Object.assign(new Error(`This tool needs ${capability}`), {
        code: -32021, data: { requiredCapabilities: { [capability]: {} } },
      });
    }
  }
  const { responses, state } = peer.rounds;
  let round = state === undefined ? 0 : unseal(state);
  const isAnswered = ([id]) => typeof responses?.[id] === 'object';
  if (choose(found.rounds[round]).every(isAnswered)) round += 1;
  if (round === found.rounds.length) return undefined;
  return {
    resultType: 'input_required',
    inputRequests: Object.fromEntries(choose(found.rounds[round])),
    ...(found.state ? { requestState: seal(round) } : {}),
  };
};

const unknown = (what, data) => {
  throw Object.assign(new Error(`Unknown ${what}`), { code: -32602, data });
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
      const asked = await questions(name, peer);
      if (asked) return asked;
      const fixed = found.content ?? (content.questions[name] && [text('All is known: state-ok')]);
      return { content: fixed ?? (await moving[name](input, peer)) };
    } catch (error) {
      if (error.code <= -32000) throw error;
      if (error.asks) return { resultType: 'input_required', inputRequests: { ask: error.asks } };
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
    const found = content.resources.find(({ resource }) => resource.uri === uri) ?? unknown('resource', { uri });
    return { contents: [found.content] };
  },
  'resources/subscribe': () => ({}),
  'resources/unsubscribe': () => ({}),
  'prompts/list': () => ({ prompts: content.prompts.map(({ prompt }) => prompt) }),
  'prompts/get': async ({ name, arguments: input = {} }, peer) => {
    const found = content.prompts.find(({ prompt }) => prompt.name === name) ?? unknown('prompt');
    const asked = await questions(name, peer);
    if (asked) return asked;
    const filled = JSON.stringify(found.messages).replace(/\{(arg1|arg2|resourceUri)\}/g, (_, key) => input[key] ?? '');
    return { messages: JSON.parse(filled) };
  },
};
