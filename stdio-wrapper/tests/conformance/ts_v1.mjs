// The fixture built with the TypeScript SDK 1.x.
import { Server } from '@modelcontextprotocol/sdk/server/index.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import * as types from '@modelcontextprotocol/sdk/types.js';
import { answers, capabilities } from './content.mjs';

const requests = {
  'logging/setLevel': types.SetLevelRequestSchema,
  'completion/complete': types.CompleteRequestSchema,
  'tools/list': types.ListToolsRequestSchema,
  'tools/call': types.CallToolRequestSchema,
  'resources/list': types.ListResourcesRequestSchema,
  'resources/templates/list': types.ListResourceTemplatesRequestSchema,
  'resources/read': types.ReadResourceRequestSchema,
  'resources/subscribe': types.SubscribeRequestSchema,
  'resources/unsubscribe': types.UnsubscribeRequestSchema,
  'prompts/list': types.ListPromptsRequestSchema,
  'prompts/get': types.GetPromptRequestSchema,
};
const results = {
  'sampling/createMessage': types.CreateMessageResultSchema,
  'elicitation/create': types.ElicitResultSchema,
  'roots/list': types.ListRootsResultSchema,
};

const server = new Server({ name: 'conformance-ts-v1', version: '1.0.0' }, { capabilities });
for (const [method, schema] of Object.entries(requests)) {
  server.setRequestHandler(schema, ({ params }, extra) => answers[method](params ?? {}, {
    progressToken: extra._meta?.progressToken,
    notify: (name, values) => extra.sendNotification({ method: name, params: values }),
    capabilities: server.getClientCapabilities(),
    changed: (list) => (list === 'tools' ? server.sendToolListChanged() : server.sendPromptListChanged()),
    request: (name, values) => extra.sendRequest({ method: name, params: values }, results[name]),
  }));
}
await server.connect(new StdioServerTransport());
