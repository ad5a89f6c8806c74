//! A user with a browser, over plain HTTP. It follows redirects, keeps cookies, logs in and allows the request.

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::header::{LOCATION, ORIGIN};
use url::Url;

/// The maximum number of pages and redirects during a login. No flow has that many.
const MAX_STEPS: usize = 15;

/// The user of the browser.
#[derive(Debug, Clone)]
pub struct Person {
    /// The user name of the account.
    pub username: String,
    /// The current password, which can be a one-time password.
    pub password: String,
    /// The password to choose on a page that asks for a new one.
    pub new_password: String,
    /// The names of the form fields.
    pub forms: FormNames,
}

/// The names of the fields of the login and consent forms. The defaults are those of auth-service.
#[derive(Debug, Clone)]
pub struct FormNames {
    /// The name of the field for the user name.
    pub username: String,
    /// The name of the field for the password.
    pub password: String,
    /// The name of the field that allows the request, and its value.
    pub consent: (String, String),
}

impl Default for FormNames {
    fn default() -> Self {
        let consent = ("decision".to_owned(), "allow".to_owned());
        Self { username: "username".to_owned(), password: "password".to_owned(), consent }
    }
}

impl Person {
    /// A user who keeps this password.
    pub fn new(username: &str, password: &str) -> Self {
        Self {
            username: username.into(),
            password: password.into(),
            new_password: password.into(),
            forms: FormNames::default(),
        }
    }

    /// The same user, for forms with these field names.
    #[must_use]
    pub fn at_forms(mut self, names: FormNames) -> Self {
        self.forms = names;
        self
    }

    /// The same user, who chooses this password when asked for a new one.
    #[must_use]
    pub fn choosing(mut self, new_password: &str) -> Self {
        new_password.clone_into(&mut self.new_password);
        self
    }
}

/// Logs in and allows the request, in a new browser. Returns the URL of the redirect to the client.
pub async fn authorize(authorization_url: Url, redirect_uri: &str, person: &Person) -> Result<Url> {
    authorize_in(&browser()?, authorization_url, redirect_uri, person).await
}

/// A browser without cookies.
pub fn browser() -> Result<reqwest::Client> {
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).cookie_store(true);
    Ok(builder.timeout(std::time::Duration::from_secs(30)).build()?)
}

/// Like [`authorize`], in a browser in which the user might already be logged in.
pub async fn authorize_in(
    browser: &reqwest::Client,
    authorization_url: Url,
    redirect_uri: &str,
    person: &Person,
) -> Result<Url> {
    let mut url = authorization_url;
    let mut body: Option<Vec<(String, String)>> = None;
    for _ in 0..MAX_STEPS {
        let request = match &body {
            None => browser.get(url.clone()),
            Some(fields) => {
                browser.post(url.clone()).header(ORIGIN, url.origin().ascii_serialization()).form(fields)
            }
        };
        let response = request.header("accept", "text/html").send().await?;
        if let Some(location) = response.headers().get(LOCATION) {
            let location = location.to_str().context("a Location that is not text")?;
            if location.starts_with(redirect_uri) {
                return Ok(Url::parse(location)?);
            }
            url = url.join(location)?;
            body = None;
            continue;
        }
        let status = response.status();
        let html = response.text().await?;
        ensure!(status == 200, "{url} answered {status}: {}", head(&html));
        let form = Form::first_of(&html).with_context(|| format!("{url} shows no form: {}", head(&html)))?;
        body = Some(form.fill(person));
        url = url.join(&form.action)?;
    }
    bail!("no redirect to the client after {MAX_STEPS} steps; the last page was {url}")
}

fn head(html: &str) -> String {
    html.chars().take(1500).collect()
}

/// The first form of a page.
#[derive(Debug, PartialEq, Eq)]
struct Form {
    action: String,
    fields: Vec<Field>,
}

#[derive(Debug, PartialEq, Eq, Default)]
struct Field {
    name: String,
    kind: String,
    value: String,
}

impl Form {
    fn first_of(html: &str) -> Option<Self> {
        let start = html.find("<form")?;
        let inside = &html[start..start + html[start..].find("</form")?];
        let mut tags = inside.split('<').skip(1).map(|tag| &tag[..tag.find('>').unwrap_or(tag.len())]);
        let action = attribute(tags.next()?, "action").unwrap_or_default();
        let fields = tags
            .filter(|tag| tag.starts_with("input") || tag.starts_with("button"))
            .filter_map(|tag| {
                Some(Field {
                    name: attribute(tag, "name")?,
                    kind: attribute(tag, "type").unwrap_or_default(),
                    value: attribute(tag, "value").unwrap_or_default(),
                })
            })
            .collect();
        Some(Self { action, fields })
    }

    /// The fields that a user would send: the hidden fields unchanged, the known fields filled in, and the button
    /// for consent.
    fn fill(&self, person: &Person) -> Vec<(String, String)> {
        let mut body: Vec<(String, String)> = Vec::new();
        for field in &self.fields {
            let value = match field.name.as_str() {
                name if name == person.forms.username => person.username.clone(),
                name if name == person.forms.password => person.password.clone(),
                "new_password" | "new_password_repeat" => person.new_password.clone(),
                name if name == person.forms.consent.0 => person.forms.consent.1.clone(),
                _ if field.kind == "hidden" => field.value.clone(),
                _ => continue,
            };
            if !body.iter().any(|(name, _)| *name == field.name) {
                body.push((field.name.clone(), value));
            }
        }
        body
    }
}

/// The value of an attribute in a tag such as `input type="hidden" name=x`.
fn attribute(tag: &str, name: &str) -> Option<String> {
    let mut rest = tag;
    loop {
        let at = rest.find(name)?;
        let (before, after) = (&rest[..at], &rest[at + name.len()..]);
        rest = after;
        if !before.ends_with(char::is_whitespace) {
            continue;
        }
        let Some(value) = after.trim_start().strip_prefix('=') else {
            continue;
        };
        let value = value.trim_start();
        let raw = match value.chars().next()? {
            quote @ ('"' | '\'') => value[1..].split(quote).next()?,
            _ => value.split(|c: char| c.is_whitespace() || c == '/').next()?,
        };
        return Some(unescape(raw));
    }
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let entity = rest.find(';').map_or("", |end| &rest[1..end]);
        let code = entity.strip_prefix('#').and_then(|code| {
            match code.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16).ok(),
                None => code.parse().ok(),
            }
            .and_then(char::from_u32)
        });
        let known = code.or(match entity {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => None,
        });
        out.push(known.unwrap_or('&'));
        rest = &rest[if known.is_some() { entity.len() + 2 } else { 1 }..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_filled_as_a_person_would() {
        let page = r#"<h1>Log in</h1><form method="post" action="/login?t=a&amp;u=b">
            <input type="hidden" name="csrf" value="x&#39;y&#x2F;z"><input name='username'>
            <input type=password name=password /><input type="checkbox" name="stay" value="1">
            <button name="decision" value="deny">No</button><button name="decision" value="allow">Yes</button>
            </form><form action="/other"><input name="never" type="hidden"></form>"#;
        let form = Form::first_of(page).unwrap();
        assert_eq!(form.action, "/login?t=a&u=b");
        let pairs = form.fill(&Person::new("ana", "pw"));
        let expected = [("csrf", "x'y/z"), ("username", "ana"), ("password", "pw"), ("decision", "allow")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
