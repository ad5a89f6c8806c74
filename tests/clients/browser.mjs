// Acts as a user with a browser, over plain HTTP: follows redirects, keeps cookies, signs in and gives consent.

const MOST_STEPS = 15;

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

function unescape(text) {
  return text.replace(/&(#x?[0-9a-f]+|[a-z]+);/gi, (whole, name) => {
    if (!name.startsWith("#")) return ENTITIES[name.toLowerCase()] ?? whole;
    return String.fromCodePoint(/^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10));
  });
}

function attributes(tag) {
  const found = {};
  for (const [, name, double, single, bare] of tag.matchAll(/\s([\w-]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+)))?/g)) {
    found[name.toLowerCase()] = unescape(double ?? single ?? bare ?? "");
  }
  return found;
}

/** Fills the first form of a page as a user would. Returns its target and the values of its fields. */
function fillFirstForm(html, page, { username, password, newPassword }) {
  const form = /<form\b[^>]*>[\s\S]*?<\/form>/i.exec(html)?.[0];
  if (!form) throw new Error(`${page} shows no form to continue with:\n${html.slice(0, 2000)}`);
  const typed = { username, password, new_password: newPassword ?? password, new_password_repeat: newPassword ?? password };
  const body = new URLSearchParams();
  for (const [tag] of form.matchAll(/<(?:input|button)\b[^>]*>/gi)) {
    const { name, type = "text", value = "", checked } = attributes(tag);
    if (!name) continue;
    if (name === "decision") body.set("decision", "allow");
    else if (name in typed) body.set(name, typed[name]);
    else if (!["checkbox", "radio", "submit"].includes(type) || checked !== undefined) body.append(name, value);
  }
  const action = attributes(/<form\b[^>]*>/i.exec(form)[0]).action;
  return { action: new URL(action || page, page), body };
}

/**
 * Completes login and consent. Returns the URL of the client to which the authorization server redirects the
 * browser. Adds the pages in between to `person.pages`.
 */
export async function authorizeInBrowser(authorizationUrl, redirectUri, person) {
  const cookies = new Map();
  let next = { url: new URL(authorizationUrl), init: { method: "GET" } };
  for (let step = 0; step < MOST_STEPS; step += 1) {
    const response = await fetch(next.url, {
      ...next.init,
      redirect: "manual",
      headers: {
        accept: "text/html",
        ...(next.init.method === "POST" ? { origin: next.url.origin } : {}),
        ...(cookies.size ? { cookie: [...cookies].map(([name, value]) => `${name}=${value}`).join("; ") } : {}),
      },
    });
    for (const line of response.headers.getSetCookie()) {
      const [pair] = line.split(";");
      const [name, ...value] = pair.split("=");
      if (/max-age=0\b/i.test(line)) cookies.delete(name.trim());
      else cookies.set(name.trim(), value.join("="));
    }
    const location = response.headers.get("location");
    if (location) {
      if (location.startsWith(redirectUri)) return new URL(location);
      next = { url: new URL(location, next.url), init: { method: "GET" } };
      continue;
    }
    const html = await response.text();
    if (response.status !== 200) throw new Error(`${next.url} answered ${response.status}:\n${html.slice(0, 2000)}`);
    person.pages?.push(html);
    const { action, body } = fillFirstForm(html, next.url, person);
    next = { url: action, init: { method: "POST", body } };
  }
  throw new Error(`no redirect to the client after ${MOST_STEPS} steps; the last page was ${next.url}`);
}
