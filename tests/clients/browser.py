"""Acts as a user with a browser, over plain HTTP: follows redirects, keeps cookies, signs in and gives consent."""

import os
from html.parser import HTMLParser
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2

MOST_STEPS = 15


class FirstForm(HTMLParser):
    """The target of the first form of a page, and its inputs and buttons."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: list[dict[str, str]] = []
        self.state = "before"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form" and self.state == "before":
            self.state, self.action = "inside", values.get("action", "")
        elif tag in ("input", "button") and self.state == "inside":
            self.fields.append(values)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form" and self.state == "inside":
            self.state = "after"


def fill(form: FirstForm, username: str, password: str) -> dict[str, str]:
    new = os.environ.get("NEW_PASSWORD", password)
    typed = {"username": username, "password": password, "new_password": new, "new_password_repeat": new}
    body: dict[str, str] = {}
    for field in form.fields:
        name = field.get("name")
        if not name:
            continue
        if name == "decision":
            body["decision"] = "allow"
        elif name in typed:
            body[name] = typed[name]
        elif field.get("type") == "hidden" or "checked" in field:
            body[name] = field.get("value", "")
    return body


async def authorize(
    url: str, redirect_uri: str, username: str, password: str, pages: list[str] | None = None
) -> dict[str, str]:
    """Completes login and consent. Returns the parameters of the redirect to the client.

    Adds the pages in between to `pages`.
    """
    body: dict[str, str] | None = None
    async with httpx2.AsyncClient(follow_redirects=False) as browser:
        for _ in range(MOST_STEPS):
            if body is None:
                response = await browser.get(url)
            else:
                parts = urlsplit(url)
                response = await browser.post(url, data=body, headers={"origin": f"{parts.scheme}://{parts.netloc}"})
            location = response.headers.get("location")
            if location:
                if location.startswith(redirect_uri):
                    return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
                url, body = urljoin(url, location), None
                continue
            if response.status_code != 200:
                raise RuntimeError(f"{url} answered {response.status_code}:\n{response.text[:2000]}")
            if pages is not None:
                pages.append(response.text)
            form = FirstForm()
            form.feed(response.text)
            if form.action is None:
                raise RuntimeError(f"{url} shows no form to continue with:\n{response.text[:2000]}")
            url, body = urljoin(url, form.action), fill(form, username, password)
    raise RuntimeError(f"no redirect to the client after {MOST_STEPS} steps; the last page was {url}")
