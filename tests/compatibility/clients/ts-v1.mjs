// The TypeScript SDK 1 as a client.
import { UnauthorizedError } from '@modelcontextprotocol/sdk/client/auth.js';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import {
  CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema, LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { capabilities, elicit, info, logged, roots, run, sample, updated, url } from './checks.mjs';

await run({
  make(authProvider) {
    const client = new Client(info, { capabilities });
    client.setRequestHandler(ElicitRequestSchema, elicit);
    client.setRequestHandler(CreateMessageRequestSchema, sample);
    client.setRequestHandler(ListRootsRequestSchema, roots);
    client.setNotificationHandler(LoggingMessageNotificationSchema, () => logged.tell());
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, () => updated.tell());
    return { client, transport: new StreamableHTTPClientTransport(url, { authProvider }) };
  },
  call: (client, params, options) => client.callTool(params, undefined, options),
  finish: (transport, callback) => transport.finishAuth(callback.searchParams.get('code')),
  isUnauthorized: (error) => error instanceof UnauthorizedError,
  isModern: () => false,
  revision: (client, transport) => transport.protocolVersion,
});
