//! `GET /errors`: what each error code means and what to do about it, the page that `error_uri` leads to. It is
//! docs/errors.md, so that the repository and every installation say the same.

use std::sync::LazyLock;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use pulldown_cmark::{CowStr, Event, Parser, Tag, TagEnd, TextMergeStream, html};

use crate::pages::{DocumentPage, FormTarget, page};

const TEXT: &str = include_str!("../../../docs/errors.md");
static HTML: LazyLock<String> = LazyLock::new(|| rendered(TEXT));

/// Shows the page.
pub async fn show() -> HttpResponse {
    let template = DocumentPage { title: "Errors and what to do about them", html: &HTML };
    page(StatusCode::OK, &template, FormTarget::Ourselves)
}

/// HTML in which each heading below the first level has its own text as its anchor.
fn rendered(markdown: &str) -> String {
    let mut events: Vec<Event<'_>> = TextMergeStream::new(Parser::new(markdown)).collect();
    for at in 1..events.len() {
        let [heading, text] = events.get_mut(at - 1..=at).unwrap_or_default() else { continue };
        if let (Event::Start(Tag::Heading { id, .. }), Event::Text(text)) = (heading, text) {
            *id = Some(CowStr::from(text.to_string()));
        }
    }
    // The page's own first heading is its title.
    let title = events.iter().position(|event| matches!(event, Event::End(TagEnd::Heading(_))));
    let events = events.into_iter().skip(title.map_or(0, |at| at + 1));
    let mut out = String::new();
    html::push_html(&mut out, events);
    out
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
    fn the_page_leads_nowhere_else_and_loads_nothing() {
        // What is relative in the repository would lead astray here.
        assert!(!HTML.contains("<a ") && !HTML.contains("<img") && !HTML.contains("<script"), "{}", *HTML);
    }
}
