// An echo server for benchmarks, built with the TypeScript SDK 1.x. Its tool `echo` has the argument `size`. The argument
// of the program is the time in microseconds that the tool works before it responds (default: 0).
import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { CallToolRequestSchema } from '@modelcontextprotocol/sdk/types.js';

const work = Number(process.argv[2] ?? 0) / 1000;
const server = new Server({ name: 'echo-node', version: '1.0.0' }, { capabilities: { tools: {} } });
server.setRequestHandler(CallToolRequestSchema, ({ params }) => {
  const until = performance.now() + work;
  while (performance.now() < until);
  return { content: [{ type: 'text', text: 'x'.repeat(params.arguments.size) }] };
});
await server.connect(new StdioServerTransport());
