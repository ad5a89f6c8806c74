// Acts as a user in a real browser. Usage: walk.mjs KIND PROGRAM PROFILE SITE, with the steps as JSON on standard
// input. KIND is chromium or firefox, and SITE is the origin of the client's site. Clicks are mouse events of the
// browser, so the browser treats them as clicks of a user. Prints one JSON line per step: the URL and content of
// the page, every document that the browser requested and every URL with which it opened an application since the
// last step, and the messages of its console and its dialogs.

import { readFile } from "node:fs/promises";
import { start } from "./real-browser.mjs";

const MOST = 45_000;
const [kind, program, profile, site] = process.argv.slice(2);
const steps = JSON.parse(await readFile("/dev/stdin", "utf8"));

// When this process exits, the browser exits as well.
process.on("SIGTERM", () => process.exit(1));
const { browser, opened } = await start(kind, program, profile, [new URL(steps[0].open).origin, site]);

let asked = [];
let complaints = [];
function note(url) {
  if (asked.at(-1) !== url) asked.push(url);
}

/** The number of application URLs that have already been reported. */
let noted = 0;
function noteOpened() {
  const all = opened();
  all.slice(noted).forEach(note);
  noted = all.length;
}

const tabs = [];
async function openTab() {
  const page = await browser.newPage();
  page.setDefaultTimeout(MOST);
  page.on("request", (request) => { if (request.isNavigationRequest()) note(request.url()); });
  page.on("console", (message) => complaints.push(message.text()));
  page.on("dialog", (dialog) => complaints.push(`a dialog: ${dialog.message()}`));
  // Firefox reports violations of the page's policy only to the page itself.
  await page.evaluateOnNewDocument(() => {
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) => {
      // Firefox requests an icon for its tab, which the pages do not have.
      if (blockedURI.endsWith("/favicon.ico")) return;
      console.error(`Content Security Policy: ${violatedDirective} forbids ${blockedURI}`);
    });
  });
  tabs.push(page);
}
let tab = 0;
const evaluate = (what, ...values) => tabs[tab].evaluate(what, ...values);

/** Returns the URL, the title and the text of the page, or null while the page is being loaded or left. */
async function look() {
  try {
    const page = await evaluate(() => (document.readyState === "complete"
      ? { url: location.href, title: document.title, text: document.body?.innerText ?? "" }
      : null));
    if (!page?.text.includes("ERR_NETWORK_CHANGED")) return page;
    // Another program on this machine has added or removed a network. Chromium then asks the user to reload the
    // page.
    await tabs[tab].reload();
    return null;
  } catch {
    return null;
  }
}

/** Calls `ask` until it returns a value. Fails early if a policy has blocked something. */
async function until(what, ask) {
  const deadline = Date.now() + MOST;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    if (Date.now() > deadline || complaints.some((one) => one.includes("Content Security Policy"))) {
      throw new Error(`${what} did not come. Now: ${JSON.stringify({ ...(await look()), asked, complaints })}`);
    }
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** The centre of the button or link with this text. */
function place(words) {
  const found = [...document.querySelectorAll("button, a")].find((one) => one.innerText.trim() === words);
  if (!found) return null;
  found.scrollIntoView();
  const { x, y, width, height } = found.getBoundingClientRect();
  return { x: x + width / 2, y: y + height / 2 };
}

/** Waits until the page is drawn, but at most a second. A click before that has no effect. */
const drawn = () => Promise.race([
  new Promise((done) => { requestAnimationFrame(() => requestAnimationFrame(() => done(true))); }),
  new Promise((enough) => { setTimeout(() => enough(true), 1000); }),
]);

/**
 * Clicks this number of times. Chromium drops clicks on a page that is not completely drawn, so such clicks are
 * repeated.
 */
async function press(words, times) {
  await evaluate(drawn).catch(() => null);
  await until(`a page that accepts the click on ${words}`, async () => {
    const at = await evaluate(place, words).catch(() => null);
    if (!at) return false;
    await evaluate(() => {
      globalThis.pressed = false;
      addEventListener("click", () => { globalThis.pressed = true; }, true);
    });
    // The browser can leave the page before the last click.
    await tabs[tab].mouse.click(at.x, at.y, { count: times }).catch(() => null);
    // If the browser has left the page in the meantime, the click was effective.
    return (await evaluate(() => globalThis.pressed).catch(() => true)) !== false;
  });
}

async function fill(name, value) {
  const field = `input[name="${name}"]`;
  await until(`a field ${name}`, () => evaluate((one) => Boolean(document.querySelector(one)), field).catch(() => false));
  await evaluate((one, typed) => { document.querySelector(one).value = typed; }, field, value);
}

let marks = 0;
/**
 * Calls `go`, and waits until another document is shown. Does not wait for the promise of `go`, which Firefox does
 * not resolve in a tab whose last navigation opened an application.
 */
async function leave(go) {
  marks += 1;
  await evaluate((mark) => { globalThis.left = mark; }, marks);
  go().catch((error) => complaints.push(error.message));
  await until("another page", async () => (await evaluate(() => globalThis.left).catch(() => marks)) !== marks);
}

async function take(step) {
  if (step.tab !== undefined) {
    tab = step.tab;
    while (tabs.length <= tab) await openTab();
    await tabs[tab].bringToFront();
  }
  if (step.forget) {
    const cookies = await browser.cookies();
    await browser.deleteCookie(...cookies.filter(({ name }) => step.forget.includes(name)));
  }
  const page = tabs[tab];
  if (step.open) await leave(() => page.goto(step.open));
  for (const [name, value] of Object.entries(step.fill ?? {})) await fill(name, value);
  if (step.press) await press(step.press, step.times ?? 1);
  if (step.back) await leave(() => page.goBack());
  if (step.reload) await leave(() => page.reload());
  let seen = null;
  if (step.until) {
    const wanted = new RegExp(step.until);
    seen = await until(step.until, async () => {
      const now = await look();
      return now && wanted.test(`${now.url}\n${now.title}\n${now.text}`) ? now : null;
    });
  }
  if (step.opens) {
    // Chromium reports the request before it has started the application. Without this wait, the application could
    // seem to be opened by the next step.
    await until(`an application opened with ${step.opens}`, () =>
      opened().slice(noted).some((url) => url.startsWith(step.opens)));
  }
  if (step.picture) await page.screenshot({ path: step.picture });
  noteOpened();
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
