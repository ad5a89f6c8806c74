// A server built with the TypeScript SDK 1, written like the examples in the SDK's documentation. It supports the
// revisions with sessions.
import { setTimeout as sleep } from 'node:timers/promises';
import { completable } from '@modelcontextprotocol/sdk/server/completable.js';
import { McpServer, ResourceTemplate } from '@modelcontextprotocol/sdk/server/mcp.js';
import { StdioServerTransport } from '@modelcontextprotocol/sdk/server/stdio.js';
import { ListRootsResultSchema, SubscribeRequestSchema, UnsubscribeRequestSchema } from '@modelcontextprotocol/sdk/types.js';
import * as z from 'zod';

const server = new McpServer(
  { name: 'notes', version: '1.0.0' },
  { capabilities: { logging: {}, resources: { subscribe: true } } },
);
const text = (value) => ({ content: [{ type: 'text', text: value }] });

server.registerTool('read_note', { description: 'Reads a note.', inputSchema: { title: z.string() } },
  async ({ title }) => text(`text of ${title}`));

server.registerTool('delete_note', { description: 'Deletes a note.', inputSchema: { title: z.string() } },
  async ({ title }) => text(`deleted ${title}`));

server.registerTool('word_count', {
  description: 'Counts the words of a text.',
  inputSchema: { text: z.string() },
  outputSchema: { words: z.number() },
}, async (input) => {
  const output = { words: input.text.split(' ').length };
  return { content: [{ type: 'text', text: JSON.stringify(output) }], structuredContent: output };
});

server.registerTool('fail', { description: 'Never works.' }, async () => {
  throw new Error('the disk is full');
});

const requestedSchema = { type: 'object', properties: { confirm: { type: 'boolean' } }, required: ['confirm'] };
const ask = (message) => server.server.elicitInput({ message, requestedSchema });

server.registerTool('clean', { description: 'Removes temporary files, and all files if the user agrees.' }, async () => {
  const temporary = await ask('Delete 1 temporary file?');
  const everything = await ask('Delete ALL 10000 files?');
  return text(`temporary=${temporary.action} ALL=${everything.action}`);
});

server.registerTool('clean_at_once', { description: 'The same, with both questions at once.' }, async () => {
  const [temporary, everything] = await Promise.all([ask('Delete 1 temporary file?'), ask('Delete ALL 10000 files?')]);
  return text(`temporary=${temporary.action} ALL=${everything.action}`);
});

const sample = async (prompt) => {
  const response = await server.server.createMessage({
    messages: [{ role: 'user', content: { type: 'text', text: prompt } }],
    maxTokens: 60,
  });
  return response.content.text;
};

server.registerTool('summarize', { description: 'Summarizes two notes.' }, async () => {
  const first = await sample('Summarize note A');
  return text(`${first} | ${await sample('Summarize note B')}`);
});

server.registerTool('folders', { description: 'The folders that the client shares.' }, async (extra) => {
  const { roots } = await extra.sendRequest({ method: 'roots/list' }, ListRootsResultSchema);
  return text(roots.map((root) => root.uri).join(' '));
});

server.registerTool('import_notes', {
  description: 'Imports notes and reports progress.',
  inputSchema: { count: z.number() },
}, async ({ count }, extra) => {
  await server.sendLoggingMessage({ level: 'info', data: `importing ${count} notes` });
  const progressToken = extra._meta?.progressToken;
  for (let progress = 1; progressToken !== undefined && progress <= count; progress += 1) {
    await extra.sendNotification({ method: 'notifications/progress', params: { progressToken, progress, total: count } });
    await sleep(50);
  }
  return text(`imported ${count}`);
});

const subscribed = new Set();
server.server.setRequestHandler(SubscribeRequestSchema, async ({ params }) => {
  subscribed.add(params.uri);
  return {};
});
server.server.setRequestHandler(UnsubscribeRequestSchema, async ({ params }) => {
  subscribed.delete(params.uri);
  return {};
});

server.registerTool('touch_note', { description: 'Changes the list of notes.' }, async () => {
  if (subscribed.has('notes://list')) await server.server.sendResourceUpdated({ uri: 'notes://list' });
  return text('touched');
});

server.registerTool('wait', { description: 'Takes a minute.' }, async (extra) => {
  await sleep(60_000, undefined, { signal: extra.signal });
  return text('done');
});

server.registerResource('list', 'notes://list', { description: 'All notes' },
  async (uri) => ({ contents: [{ uri: uri.href, text: 'A, B' }] }));

server.registerResource('note', new ResourceTemplate('notes://note/{title}', { list: undefined }), { description: 'A note' },
  async (uri, { title }) => ({ contents: [{ uri: uri.href, text: `text of ${title}` }] }));

const languages = ['go', 'python', 'rust'];
server.registerPrompt('review', {
  description: 'Asks for a review.',
  argsSchema: { language: completable(z.string(), (value) => languages.filter((language) => language.startsWith(value))) },
}, ({ language }) => ({
  messages: [{ role: 'user', content: { type: 'text', text: `Review this ${language} code.` } }],
}));

await server.connect(new StdioServerTransport());
