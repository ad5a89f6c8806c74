// The fixture on the TypeScript SDK 2.x.
import { Server } from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import { answers, capabilities } from './content.mjs';

serveStdio(() => {
  const server = new Server({ name: 'conformance-ts-v2', version: '1.0.0' }, { capabilities });
  for (const [method, answer] of Object.entries(answers)) {
    server.setRequestHandler(method, ({ params }, context) => answer(params ?? {}, {
      progressToken: context.mcpReq._meta?.progressToken,
      notify: (name, values) => context.mcpReq.notify({ method: name, params: values }),
      request: (name, values) => context.mcpReq.send({ method: name, params: values }),
    }));
  }
  return server;
});
