// Starts Chromium or Firefox without a window and with its own profile, and controls it over WebDriver BiDi.

import { chmodSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

const { default: puppeteer } = createRequire(`${process.env.MCP_GATE_TOOLS}/npm/package.json`)("puppeteer-core");

/** The sites of clients. The test serves them on this machine, with its own certificate. */
const SITES = ["app.example", "other.example"];
/** The schemes of applications that the user has installed. */
const SCHEMES = ["cursor", "claude"];

/**
 * Installs a program that represents every application. It records the URLs with which it is opened. Chromium
 * opens applications with a program of this name.
 */
function installApplication(profile) {
  const program = `${profile}/bin/xdg-open`;
  mkdirSync(`${profile}/bin`);
  writeFileSync(program, `#!/bin/sh\nprintf '%s\\n' "$1" >>'${profile}/opened'\n`);
  chmodSync(program, 0o755);
  writeFileSync(`${profile}/opened`, "");
  return program;
}

/**
 * The options for Chromium. Its preferences allow `origins` to open applications, because there is no user to
 * allow it.
 */
function chromium(profile, origins) {
  const applications = Object.fromEntries(SCHEMES.map((scheme) => [scheme, true]));
  const allowed = Object.fromEntries(origins.map((origin) => [origin, applications]));
  mkdirSync(`${profile}/Default`);
  const preferences = { protocol_handler: { allowed_origin_protocol_pairs: allowed } };
  writeFileSync(`${profile}/Default/Preferences`, JSON.stringify(preferences));
  const resolve = SITES.map((site) => `MAP ${site} 127.0.0.1`).join(", ");
  return {
    browser: "chrome",
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", `--host-resolver-rules=${resolve}`,
    ],
  };
}

/** The options for Firefox. Its settings allow applications by scheme, regardless of the origin. */
function firefox(profile, program) {
  const handler = { action: 2, ask: false, handlers: [{ name: "The application", path: program }] };
  const schemes = Object.fromEntries(SCHEMES.map((scheme) => [scheme, handler]));
  writeFileSync(`${profile}/handlers.json`, JSON.stringify({ defaultHandlersVersion: {}, mimeTypes: {}, schemes }));
  return {
    browser: "firefox",
    extraPrefsFirefox: {
      "network.dns.localDomains": SITES.join(","),
      ...Object.fromEntries(SCHEMES.map((scheme) => [`network.protocol-handler.external.${scheme}`, true])),
    },
  };
}

/** Returns the browser, and a function that returns every URL with which an application has been opened so far. */
export async function start(kind, executablePath, profile, origins) {
  const program = installApplication(profile);
  const options = kind === "firefox" ? firefox(profile, program) : chromium(profile, origins);
  const browser = await puppeteer.launch({
    ...options,
    executablePath,
    protocol: "webDriverBiDi",
    userDataDir: profile,
    acceptInsecureCerts: true,
    defaultViewport: { width: 700, height: 900 },
    timeout: 60_000,
    env: { ...process.env, HOME: profile, PATH: `${profile}/bin:${process.env.PATH}` },
  });
  const opened = () => readFileSync(`${profile}/opened`, "utf8").split("\n").filter(Boolean);
  return { browser, opened };
}
