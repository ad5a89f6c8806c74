//! A simple browser for tests of pages. It keeps cookies, fills in forms and returns every redirect to the test.

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use reqwest::{RequestBuilder, StatusCode};
use url::Url;

use super::app::TestApp;

/// The response to a request: a page or a redirect.
pub(crate) struct Page {
    pub(crate) status: StatusCode,
    pub(crate) location: Option<String>,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Page {
    /// The value of a query parameter in the target of the redirect.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let url = Url::parse(self.location.as_ref()?).unwrap();
        url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    fn attribute(&self, before: &str) -> String {
        let (_, rest) =
            self.body.split_once(before).unwrap_or_else(|| panic!("no {before} in {}", self.body));
        rest.split('"').next().unwrap().to_owned()
    }

    pub(crate) fn form_token(&self) -> String {
        self.attribute("name=\"form_token\" value=\"")
    }

    fn action(&self) -> String {
        self.attribute("action=\"")
    }
}

/// Paths of the pages that show the result of a form.
const ANSWERS: [&str; 5] =
    ["/login/again", "/login/done", "/login/password", "/device/again", "/consent/answered"];

/// A browser that keeps cookies, and returns every redirect to the test.
pub(crate) struct Browser<'a> {
    app: &'a TestApp,
    pub(crate) cookies: Vec<(String, String)>,
}

impl<'a> Browser<'a> {
    /// A browser with these cookies.
    pub(crate) fn new(app: &'a TestApp, cookies: Vec<(String, String)>) -> Self {
        Self { app, cookies }
    }
}

impl Browser<'_> {
    /// Opens a path of the service.
    pub(crate) async fn open(&mut self, path: &str) -> Page {
        let request = self.app.http.get(format!("{}{path}", self.app.public));
        self.send(request).await
    }

    /// Opens a path, and follows redirects within the service.
    pub(crate) async fn follow(&mut self, path: &str) -> Page {
        let mut page = self.open(path).await;
        while let Some(ours) =
            page.location.as_ref().and_then(|location| location.strip_prefix(&self.app.issuer))
        {
            let next = ours.to_owned();
            page = self.open(&next).await;
        }
        page
    }

    /// Fills in the page's form. If the response redirects to a page that shows the result, returns that
    /// page.
    pub(crate) async fn submit(&mut self, page: &Page, fields: &[(&str, &str)]) -> Page {
        let form_token = page.form_token();
        let fields: Vec<_> =
            [("form_token", form_token.as_str())].into_iter().chain(fields.iter().copied()).collect();
        let action = page.action();
        let action = action.strip_prefix(&self.app.issuer).unwrap();
        let answer = self.answer(action, &fields).await;
        // After a reload of a page that was the direct response to a form, browsers ask for confirmation and send
        // the form again. Therefore the response to a form must be a redirect, with few exceptions.
        let is_worth_sending_again =
            answer.status == StatusCode::TOO_MANY_REQUESTS || answer.status.is_server_error();
        let is_address_too_long = form_token.len() > 4 * 1024;
        let is_unknown = !self.cookies.iter().any(|(name, _)| name.ends_with("_session"));
        assert!(
            answer.location.is_some() || is_worth_sending_again || is_address_too_long || is_unknown,
            "the response to {action} was a page: {}",
            answer.body
        );
        self.show(answer).await
    }

    /// Fills in the page's form, and follows one redirect within the service.
    pub(crate) async fn submit_and_follow(&mut self, page: &Page, fields: &[(&str, &str)]) -> Page {
        let answer = self.submit(page, fields).await;
        let ours = answer.location.as_ref().and_then(|location| location.strip_prefix(&self.app.issuer));
        match ours {
            Some(path) => self.open(path).await,
            None => answer,
        }
    }

    pub(crate) async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let answer = self.answer(path, fields).await;
        self.show(answer).await
    }

    async fn answer(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let request = self.app.http.post(format!("{}{path}", self.app.public)).form(fields);
        self.send(request).await
    }

    async fn show(&mut self, answer: Page) -> Page {
        let ours = answer.location.as_ref().and_then(|location| location.strip_prefix(&self.app.issuer));
        let shown = ours.filter(|path| ANSWERS.iter().any(|answer| path.starts_with(answer)));
        match shown.map(str::to_owned) {
            Some(path) => self.open(&path).await,
            None => answer,
        }
    }

    /// Sends an authorization request and allows it. Returns the code.
    pub(crate) async fn allow(&mut self, query: &str) -> String {
        let page = self.follow(&format!("/authorize?{query}")).await;
        let answer = self.submit(&page, &[("decision", "allow")]).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.body);
        answer.parameter("code").unwrap()
    }

    pub(crate) fn cookie_header(&self) -> String {
        let jar: Vec<_> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        jar.join("; ")
    }

    async fn send(&mut self, request: RequestBuilder) -> Page {
        let cookies = self.cookie_header();
        let request = if cookies.is_empty() { request } else { request.header(COOKIE, cookies) };
        let response = request.send().await.unwrap();
        for header in response.headers().get_all(SET_COOKIE) {
            let (name, rest) = header.to_str().unwrap().split_once('=').unwrap();
            let value = rest.split(';').next().unwrap();
            self.cookies.retain(|(known, _)| known != name);
            if !value.is_empty() {
                self.cookies.push((name.to_owned(), value.to_owned()));
            }
        }
        let headers = response.headers().clone();
        let location = headers.get(LOCATION).map(|value| value.to_str().unwrap().to_owned());
        Page { status: response.status(), location, headers, body: response.text().await.unwrap() }
    }
}
