// The fixture built with the TypeScript SDK 2.x. It supports both eras, or only the stateless one with --modern-only.
import { CLIENT_CAPABILITIES_META_KEY, LOG_LEVEL_META_KEY, Server } from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import { answers, capabilities } from './content.mjs';

const legacy = process.argv.includes('--modern-only') ? { legacy: 'reject' } : {};

// In the stateless revision, a server asks a question in its result, and the next request contains the answer.
const ask = ({ inputResponses }, method, params) => {
  if (inputResponses?.ask) return inputResponses.ask;
  throw Object.assign(new Error('asks'), { asks: { method, params } });
};

serveStdio(() => {
  const server = new Server({ name: 'conformance-ts-v2', version: '1.0.0' }, { capabilities });
  for (const [method, answer] of Object.entries(answers)) {
    server.setRequestHandler(method, ({ params }, context) => {
      const { mcpReq } = context;
      const isModern = mcpReq.envelope !== undefined;
      return answer(params ?? {}, {
        progressToken: mcpReq._meta?.progressToken,
        wantsLogs: mcpReq.envelope?.[LOG_LEVEL_META_KEY] !== undefined,
        capabilities: isModern ? mcpReq.envelope[CLIENT_CAPABILITIES_META_KEY] : server.getClientCapabilities(),
        changed: (list) => (list === 'tools' ? server.sendToolListChanged() : server.sendPromptListChanged()),
        notify: (name, values) => mcpReq.notify({ method: name, params: values }),
        request: (name, values) => (isModern ? ask(mcpReq, name, values) : mcpReq.send({ method: name, params: values })),
        rounds: isModern ? { responses: mcpReq.inputResponses, state: mcpReq.requestState() } : undefined,
      });
    });
  }
  return server;
}, legacy);
