// A server built with the TypeScript SDK 2, written like the examples in the SDK's documentation. A tool that needs an
// answer returns its question as the result.
import { setTimeout as sleep } from 'node:timers/promises';
import {
  completable, createRequestStateCodec, inputRequired, inputResponse, McpServer, ResourceTemplate,
} from '@modelcontextprotocol/server';
import { serveStdio } from '@modelcontextprotocol/server/stdio';
import * as z from 'zod/v4';

const codec = createRequestStateCodec({ key: crypto.getRandomValues(new Uint8Array(32)), ttlSeconds: 600 });
const text = (value) => ({ content: [{ type: 'text', text: value }] });
const none = z.object({});
const requestedSchema = { type: 'object', properties: { confirm: { type: 'boolean' } }, required: ['confirm'] };
const ask = (message) => inputRequired.elicit({ message, requestedSchema });
const sample = (prompt) => inputRequired.createMessage({
  messages: [{ role: 'user', content: { type: 'text', text: prompt } }],
  maxTokens: 60,
});

serveStdio((connection) => {
  const server = new McpServer({ name: 'notes', version: '1.0.0' }, {
    capabilities: { logging: {}, resources: { subscribe: true } },
    requestState: { verify: codec.verify },
  });

  server.registerTool('read_note', { description: 'Reads a note.', inputSchema: z.object({ title: z.string() }) },
    async ({ title }) => text(`text of ${title}`));

  server.registerTool('delete_note', { description: 'Deletes a note.', inputSchema: z.object({ title: z.string() }) },
    async ({ title }) => text(`deleted ${title}`));

  server.registerTool('word_count', {
    description: 'Counts the words of a text.',
    inputSchema: z.object({ text: z.string() }),
    outputSchema: z.object({ words: z.number() }),
  }, async (input) => {
    const output = { words: input.text.split(' ').length };
    return { content: [{ type: 'text', text: JSON.stringify(output) }], structuredContent: output };
  });

  server.registerTool('fail', { description: 'Never works.', inputSchema: none }, async () => {
    throw new Error('the disk is full');
  });

  server.registerTool('clean', { description: 'Removes temporary files, and all files if the user agrees.', inputSchema: none },
    async (_, ctx) => {
      const state = ctx.mcpReq.requestState();
      if (!state) {
        const temporary = inputResponse(ctx.mcpReq.inputResponses, 'temporary');
        if (temporary.kind === 'missing') return inputRequired({ inputRequests: { temporary: ask('Delete 1 temporary file?') } });
        return inputRequired({
          inputRequests: { everything: ask('Delete ALL 10000 files?') },
          requestState: await codec.mint({ temporary: temporary.action }),
        });
      }
      const everything = inputResponse(ctx.mcpReq.inputResponses, 'everything');
      return text(`temporary=${state.temporary} ALL=${everything.action}`);
    });

  server.registerTool('clean_at_once', { description: 'The same, with both questions at once.', inputSchema: none },
    async (_, ctx) => {
      const temporary = inputResponse(ctx.mcpReq.inputResponses, 'temporary');
      const everything = inputResponse(ctx.mcpReq.inputResponses, 'everything');
      if (temporary.kind === 'missing' || everything.kind === 'missing') {
        return inputRequired({
          inputRequests: { temporary: ask('Delete 1 temporary file?'), everything: ask('Delete ALL 10000 files?') },
        });
      }
      return text(`temporary=${temporary.action} ALL=${everything.action}`);
    });

  server.registerTool('summarize', { description: 'Summarizes two notes.', inputSchema: none }, async (_, ctx) => {
    const state = ctx.mcpReq.requestState();
    if (!state) {
      const first = inputResponse(ctx.mcpReq.inputResponses, 'first');
      if (first.kind === 'missing') return inputRequired({ inputRequests: { first: sample('Summarize note A') } });
      return inputRequired({
        inputRequests: { second: sample('Summarize note B') },
        requestState: await codec.mint({ first: first.result.content.text }),
      });
    }
    const second = inputResponse(ctx.mcpReq.inputResponses, 'second');
    return text(`${state.first} | ${second.result.content.text}`);
  });

  server.registerTool('folders', { description: 'The folders that the client shares.', inputSchema: none }, async (_, ctx) => {
    const answer = inputResponse(ctx.mcpReq.inputResponses, 'roots');
    if (answer.kind === 'missing') return inputRequired({ inputRequests: { roots: inputRequired.listRoots() } });
    return text(answer.roots.map((root) => root.uri).join(' '));
  });

  server.registerTool('import_notes', {
    description: 'Imports notes and reports progress.',
    inputSchema: z.object({ count: z.number() }),
  }, async ({ count }, ctx) => {
    await ctx.mcpReq.log('info', `importing ${count} notes`);
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (let progress = 1; progressToken !== undefined && progress <= count; progress += 1) {
      await ctx.mcpReq.notify({ method: 'notifications/progress', params: { progressToken, progress, total: count } });
      await sleep(50);
    }
    return text(`imported ${count}`);
  });

  const subscribed = new Set();
  server.server.setRequestHandler('resources/subscribe', ({ params }) => {
    subscribed.add(params.uri);
    return {};
  });
  server.server.setRequestHandler('resources/unsubscribe', ({ params }) => {
    subscribed.delete(params.uri);
    return {};
  });

  server.registerTool('touch_note', { description: 'Changes the list of notes.', inputSchema: none }, async () => {
    if (connection.era === 'modern' || subscribed.has('notes://list')) {
      await server.server.sendResourceUpdated({ uri: 'notes://list' });
    }
    return text('touched');
  });

  server.registerTool('wait', { description: 'Takes a minute.', inputSchema: none }, async (_, ctx) => {
    await sleep(60_000, undefined, { signal: ctx.mcpReq.signal });
    return text('done');
  });

  server.registerResource('list', 'notes://list', { description: 'All notes' },
    async (uri) => ({ contents: [{ uri: uri.href, text: 'A, B' }] }));

  server.registerResource('note', new ResourceTemplate('notes://note/{title}', { list: undefined }), { description: 'A note' },
    async (uri, { title }) => ({ contents: [{ uri: uri.href, text: `text of ${title}` }] }));

  const languages = ['go', 'python', 'rust'];
  server.registerPrompt('review', {
    description: 'Asks for a review.',
    argsSchema: z.object({
      language: completable(z.string(), (value) => languages.filter((language) => language.startsWith(value))),
    }),
  }, ({ language }) => ({
    messages: [{ role: 'user', content: { type: 'text', text: `Review this ${language} code.` } }],
  }));
  return server;
});
