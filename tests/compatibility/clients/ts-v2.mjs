// The TypeScript SDK 2 as a client, which detects the revision that the server supports.
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';
import { capabilities, elicit, info, logged, roots, run, sample, updated, url } from './checks.mjs';

await run({
  make(authProvider) {
    const client = new Client(info, { capabilities, versionNegotiation: { mode: process.env.MODE ?? 'auto' } });
    client.setRequestHandler('elicitation/create', elicit);
    client.setRequestHandler('sampling/createMessage', sample);
    client.setRequestHandler('roots/list', roots);
    client.setNotificationHandler('notifications/message', () => logged.tell());
    client.setNotificationHandler('notifications/resources/updated', () => updated.tell());
    return { client, transport: new StreamableHTTPClientTransport(url, { authProvider }) };
  },
  call: (client, params, options) => client.callTool(params, options),
  finish: (transport, callback) => transport.finishAuth(callback.searchParams),
  isUnauthorized: (error) => error instanceof UnauthorizedError,
  isModern: (client) => client.getProtocolEra() === 'modern',
  revision: (client) => client.getNegotiatedProtocolVersion(),
});
