// mcp-remote connects clients that can only start a process to a remote server. Here, the TypeScript SDK 1 starts
// it, and mcp-remote signs in.
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import {
  CreateMessageRequestSchema, ElicitRequestSchema, ListRootsRequestSchema, LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from '@modelcontextprotocol/sdk/types.js';
import { capabilities, elicit, info, logged, report, roots, run, sample, updated, url } from './checks.mjs';

const { MCP_REMOTE, MCP_REMOTE_CONFIG_DIR, PATH, HOME } = process.env;

/** Reports the URLs for the browser. Each URL is on its own line. */
function visits(stderr) {
  let line = '';
  const seen = new Set();
  stderr.on('data', (chunk) => {
    process.stderr.write(chunk);
    const lines = (line + chunk).split('\n');
    line = lines.pop();
    for (const found of lines.map((text) => text.trim()).filter((text) => /^https?:.*[?&]redirect_uri=/.test(text))) {
      const { searchParams } = new URL(found);
      if (seen.has(searchParams.get('state'))) continue;
      seen.add(searchParams.get('state'));
      report({ visit: found, redirect_uri: searchParams.get('redirect_uri'), scope: searchParams.get('scope') });
    }
  });
}

await run({
  signsInByItself: true,
  make() {
    const client = new Client(info, { capabilities });
    client.setRequestHandler(ElicitRequestSchema, elicit);
    client.setRequestHandler(CreateMessageRequestSchema, sample);
    client.setRequestHandler(ListRootsRequestSchema, roots);
    client.setNotificationHandler(LoggingMessageNotificationSchema, () => logged.tell());
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, () => updated.tell());
    const transport = new StdioClientTransport({
      command: process.execPath,
      args: [MCP_REMOTE, url.href, '--transport', 'http-only'],
      // The program that reads this program's output acts as the browser.
      env: { PATH, HOME, MCP_REMOTE_CONFIG_DIR, BROWSER: 'true' },
      stderr: 'pipe',
    });
    visits(transport.stderr);
    transport.setProtocolVersion = (version) => { transport.protocolVersion = version; };
    return { client, transport };
  },
  call: (client, params, options) => client.callTool(params, undefined, options),
  isUnauthorized: () => false,
  isModern: () => false,
  revision: (client, transport) => transport.protocolVersion,
});
