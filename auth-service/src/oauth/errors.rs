//! `GET /errors`: explains each error code and its remedy. `error_uri` links to this page. Its text is
//! `docs/errors.md`, so that the page and the document are always the same.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, TextMergeStream, html};

use crate::pages::{DocumentPage, FormTarget, page};

const TEXT: &str = include_str!("../../../docs/errors.md");
static HTML: LazyLock<String> = LazyLock::new(|| rendered(TEXT));

/// Returns the page that explains the error codes.
pub async fn show() -> HttpResponse {
    let template = DocumentPage { title: "Errors and what to do about them", html: &HTML };
    page(StatusCode::OK, &template, FormTarget::Ourselves)
}

/// Renders Markdown to HTML. Each heading is an anchor, see [`anchor`].
fn rendered(markdown: &str) -> String {
    let parser = Parser::new_ext(markdown, Options::ENABLE_TABLES);
    let mut events: Vec<Event<'_>> = TextMergeStream::new(parser).collect();
    for at in 1..events.len() {
        let [heading, text] = events.get_mut(at - 1..=at).unwrap_or_default() else { continue };
        if let (Event::Start(Tag::Heading { id, .. }), Event::Text(text)) = (heading, text) {
            *id = Some(CowStr::from(anchor(text)));
        }
    }
    // The first heading of the text is omitted, because the page template already has a title.
    let title = events.iter().position(|event| matches!(event, Event::End(TagEnd::Heading(_))));
    let events = events.into_iter().skip(title.map_or(0, |at| at + 1));
    // A table can be wider than a small screen. The element around it scrolls, also with the keyboard, so that the
    // rest of the page does not have to.
    let events = events.flat_map(|event| match event {
        Event::Start(Tag::Table(_)) => {
            vec![Event::Html("<div class=\"table\" tabindex=\"0\">".into()), event]
        }
        Event::End(TagEnd::Table) => vec![event, Event::Html("</div>\n".into())],
        _ => vec![event],
    });
    let mut out = String::new();
    html::push_html(&mut out, events);
    out
}

/// The `id` of a heading. For an error code, it is the code itself. An `id` must not contain spaces, so a sentence gets
/// hyphens, as in the links between the documents.
fn anchor(heading: &str) -> String {
    heading.to_lowercase().replace(' ', "-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error_code::ErrorCode;

    #[test]
    fn every_code_has_its_anchor_and_every_anchor_is_a_code() {
        let mut anchors: Vec<_> =
            HTML.split("<h2 id=\"").skip(1).map(|rest| rest.split('"').next()).collect();
        let mut codes: Vec<_> = ErrorCode::ALL.iter().map(|code| Some(code.as_str())).collect();
        anchors.sort_unstable();
        codes.sort_unstable();
        assert_eq!(anchors, codes);
    }

    #[test]
    fn an_anchor_has_no_spaces() {
        assert!(HTML.contains("<h1 id=\"what-the-edge-answers-by-itself\">"), "{}", *HTML);
        for rest in HTML.split(" id=\"").skip(1) {
            let id = rest.split('"').next().unwrap();
            assert!(!id.contains(char::is_whitespace), "{id}");
        }
    }

    #[test]
    fn a_table_is_a_table_that_scrolls() {
        assert!(!HTML.contains("|---"), "{}", *HTML);
        let tables = HTML.matches("<table>").count();
        assert!(tables > 0, "{}", *HTML);
        assert_eq!(HTML.matches("<div class=\"table\" tabindex=\"0\"><table>").count(), tables);
        assert_eq!(HTML.matches("</table>\n</div>").count(), tables);
    }

    #[test]
    fn what_pages_say_is_there() {
        use crate::clients::documents::DocumentError;
        use crate::domain::client::InvalidClientId;
        use crate::identity::form_token::BadFormToken;
        use crate::oauth::authorize::AuthorizeError;
        use crate::oauth::consent::ConsentError;
        use crate::oauth::device::DeviceError;
        use crate::oauth::login::LoginError;
        use crate::oauth::login_attempt::NotProven;
        use crate::oauth::params::Params;

        let broken =
            || Params::of_query("a=%ff&a=1").and_then(|params| params.one("a").map(drop)).unwrap_err();
        let said = [
            AuthorizeError::Params(broken()).to_string(),
            AuthorizeError::NoClient(InvalidClientId).to_string(),
            AuthorizeError::UnknownClient.to_string(),
            AuthorizeError::Disabled.to_string(),
            AuthorizeError::Document("https://app.example".to_owned(), DocumentError::Host).to_string(),
            AuthorizeError::DocumentAway("https://app.example".to_owned(), DocumentError::TooFast)
                .to_string(),
            AuthorizeError::DocumentAway("https://app.example".to_owned(), DocumentError::Crowded)
                .to_string(),
            AuthorizeError::Redirect.to_string(),
            AuthorizeError::RequestUri.to_string(),
            AuthorizeError::NeedsOperator.to_string(),
            AuthorizeError::Unavailable.to_string(),
            NotProven::Wrong.to_string(),
            NotProven::TooFast(1).to_string(),
            NotProven::Crowded.to_string(),
            NotProven::Busy.to_string(),
            LoginError::Params(broken()).to_string(),
            LoginError::LongLink.to_string(),
            LoginError::NeedsOperator.to_string(),
            LoginError::Unavailable.to_string(),
            ConsentError::Params(broken()).to_string(),
            ConsentError::NoSession.to_string(),
            ConsentError::FormToken(BadFormToken::Expired).to_string(),
            ConsentError::PageRequired.to_string(),
            ConsentError::AnsweredBefore.to_string(),
            ConsentError::ClientGone.to_string(),
            ConsentError::ClientChanged.to_string(),
            ConsentError::Barred.to_string(),
            ConsentError::NoDecision.to_string(),
            ConsentError::NeedsOperator.to_string(),
            ConsentError::Unavailable.to_string(),
            DeviceError::Params(broken()).to_string(),
            DeviceError::NoSession.to_string(),
            DeviceError::FormToken(BadFormToken::Foreign).to_string(),
            DeviceError::Over.to_string(),
            DeviceError::ClientGone.to_string(),
            DeviceError::ClientChanged.to_string(),
            DeviceError::Barred.to_string(),
            DeviceError::NoDecision.to_string(),
            DeviceError::NeedsOperator.to_string(),
            DeviceError::Unavailable.to_string(),
        ];
        let (_, pages) = TEXT.split_once("\n# What pages say to users\n").unwrap();
        let lines: Vec<_> = pages.lines().filter_map(|line| line.strip_prefix("- ")).collect();
        for text in said {
            let fits =
                |line: &&str| line.replace("URL", "REASON").split("REASON").all(|piece| text.contains(piece));
            assert!(lines.iter().any(fits), "{text}");
        }
    }

    #[test]
    fn the_page_leads_nowhere_else_and_loads_nothing() {
        // A relative link works in the repository, but would point to the wrong place here.
        assert!(!HTML.contains("<a ") && !HTML.contains("<img") && !HTML.contains("<script"), "{}", *HTML);
    }
}
