// A user in a real browser: walk.mjs CHROMIUM PROFILE SWITCHES, with the steps as JSON on standard input. It clicks with a
// real mouse, so that the browser treats each click as a user's. Prints one JSON line per step: where the browser is, what
// it shows, every document it asked for since the last step, and what it complained about. Pages of the origin that the
// first step opens, and of app.example, may open applications without a question, which nobody would answer here.

import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { readFile } from "node:fs/promises";

const MOST = 45_000;
const [chromium, profile, switches] = process.argv.slice(2);
const steps = JSON.parse(await readFile("/dev/stdin", "utf8"));

const origins = [new URL(steps[0].open).origin, "https://app.example"];
const applications = {
  allowed_origin_protocol_pairs: Object.fromEntries(origins.map((origin) => [origin, { cursor: true, claude: true }])),
};
mkdirSync(`${profile}/Default`);
writeFileSync(`${profile}/Default/Preferences`, JSON.stringify({ protocol_handler: applications }));

const child = spawn(chromium, [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=700,900",
  `--user-data-dir=${profile}`, "--remote-debugging-port=0", ...JSON.parse(switches), "about:blank",
], { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, HOME: profile } });
process.on("exit", () => child.kill("SIGKILL"));
process.on("SIGTERM", () => process.exit(1));

const address = await new Promise((found, failed) => {
  let text = "";
  child.stderr.on("data", (more) => {
    text += more;
    const line = /DevTools listening on (ws:\S+)/.exec(text);
    if (line) found(line[1]);
  });
  child.on("exit", () => failed(new Error(`Chromium ended: ${text}`)));
});
const socket = new WebSocket(address);
await new Promise((open, failed) => { socket.onopen = open; socket.onerror = failed; });

const waiting = new Map();
let next = 0;
let asked = [];
let complaints = [];
function note(url) {
  if (asked.at(-1) !== url) asked.push(url);
}
socket.onmessage = ({ data }) => {
  const { id, method, params, result, error } = JSON.parse(data);
  if (id) {
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error) reject(new Error(JSON.stringify(error))); else resolve(result);
  } else if (method === "Network.requestWillBeSent" && params.type === "Document") note(params.request.url);
  // An application's own scheme is not asked for over the network.
  else if (method === "Page.frameStartedNavigating") note(params.url);
  else if (method === "Log.entryAdded") complaints.push(params.entry.text);
  else if (method === "Runtime.consoleAPICalled") complaints.push(params.args.map((arg) => arg.value).join(" "));
};
function send(method, params = {}, sessionId = undefined) {
  next += 1;
  const id = next;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    socket.send(JSON.stringify({ id, method, params, sessionId }));
  });
}

const tabs = [];
async function openTab() {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  for (const domain of ["Page", "Network", "Log", "Runtime"]) await send(`${domain}.enable`, {}, sessionId);
  tabs.push({ targetId, sessionId });
}
let tab = 0;
const call = (method, params) => send(method, params, tabs[tab].sessionId);

async function evaluate(expression) {
  const how = { expression, returnByValue: true, awaitPromise: true };
  const { result, exceptionDetails } = await call("Runtime.evaluate", how);
  if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
  return result.value;
}

/** Whether the page is there, and where and what it is. While a page goes, there is nothing to ask. */
async function look() {
  try {
    return await evaluate("document.readyState === 'complete' ? { url: location.href, title: document.title, text: document.body?.innerText ?? '' } : null");
  } catch {
    return null;
  }
}

/** Asks again until there is an answer. */
async function until(what, ask) {
  const deadline = Date.now() + MOST;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > deadline) throw new Error(`${what} did not come. Now: ${JSON.stringify({ ...(await look()), asked, complaints })}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

const place = (words) => `(() => {
  const all = [...document.querySelectorAll("button, a")].filter((one) => one.innerText.trim() === ${JSON.stringify(words)});
  if (!all[0]) return null;
  all[0].scrollIntoView();
  const { x, y, width, height } = all[0].getBoundingClientRect();
  return { x: x + width / 2, y: y + height / 2 };
})()`;

/** Until the page is drawn, or as good as: a click before that hits nothing. */
const DRAWN = `Promise.race([
  new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(() => drawn(true)))),
  new Promise((enough) => setTimeout(() => enough(true), 1000)),
])`;

/** Clicks so many times. Chromium drops the clicks of a page that it has not quite put on the screen: those are repeated. */
async function press(words, times) {
  await evaluate(DRAWN).catch(() => null);
  await until(`a page that takes the click on ${words}`, async () => {
    const at = await evaluate(place(words)).catch(() => null);
    if (!at) return false;
    await evaluate("globalThis.pressed = false; addEventListener('click', () => { pressed = true; }, true)");
    const point = { x: at.x, y: at.y, button: "left", clickCount: 1 };
    const events = [call("Input.dispatchMouseEvent", { ...point, type: "mouseMoved", button: "none" })];
    for (let click = 0; click < times; click += 1) {
      for (const type of ["mousePressed", "mouseReleased"]) {
        events.push(call("Input.dispatchMouseEvent", { ...point, type }));
      }
    }
    await Promise.allSettled(events);
    // A page that has gone meanwhile has taken it.
    return (await evaluate("globalThis.pressed").catch(() => true)) !== false;
  });
}

async function fill(name, value) {
  const field = `document.querySelector('input[name="${name}"]')`;
  await until(`a field ${name}`, () => evaluate(`!!${field}`).catch(() => false));
  await evaluate(`${field}.value = ${JSON.stringify(value)}`);
}

async function back() {
  const { currentIndex, entries } = await call("Page.getNavigationHistory");
  await call("Page.navigateToHistoryEntry", { entryId: entries[currentIndex - 1].id });
}

async function take(step) {
  if (step.tab !== undefined) {
    tab = step.tab;
    while (tabs.length <= tab) await openTab();
    await call("Page.bringToFront");
  }
  for (const name of step.forget ?? []) {
    const { cookies } = await send("Storage.getCookies");
    for (const cookie of cookies.filter((one) => one.name === name)) {
      await call("Network.deleteCookies", { name, domain: cookie.domain, path: cookie.path });
    }
  }
  if (step.open) await call("Page.navigate", { url: step.open });
  for (const [name, value] of Object.entries(step.fill ?? {})) await fill(name, value);
  if (step.press) await press(step.press, step.times ?? 1);
  if (step.back) await back();
  if (step.reload) await call("Page.reload");
  let seen = null;
  if (step.until) {
    const wanted = new RegExp(step.until);
    seen = await until(step.until, async () => {
      const page = await look();
      return page && wanted.test(`${page.url}\n${page.title}\n${page.text}`) ? page : null;
    });
  }
  if (step.asks) {
    await until(step.asks, () => asked.some((url) => url.startsWith(step.asks)));
  }
  if (step.picture) {
    const { data } = await call("Page.captureScreenshot");
    writeFileSync(step.picture, Buffer.from(data, "base64"));
  }
  console.log(JSON.stringify({ ...(seen ?? (await look())), asked, complaints }));
  asked = [];
  complaints = [];
}

await openTab();
try {
  for (const step of steps) {
    await take(step).catch((error) => { throw new Error(`${JSON.stringify(step)}: ${error.message}`); });
  }
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
process.exit();
