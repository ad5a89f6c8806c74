//! `X-Auth-*` headers that the edge sets. They are trustworthy only if the wrapper can be reached only through
//! the edge.

use contract::headers::{CLIENT_ID, GROUPS, SCOPE, SUBJECT, USERNAME};

use super::{Caller, Header, Refused};
use crate::policy::UnmetRules;

/// Reads a header that must occur exactly once, and must not be empty.
pub(super) fn required<'h>(
    header: &dyn Fn(&'static str) -> Header<'h>,
    name: &'static str,
) -> Result<&'h str, Refused> {
    optional(header, name)?.ok_or(Refused::Missing(name))
}

/// Reads a header that can be absent or empty.
fn optional<'h>(
    header: &dyn Fn(&'static str) -> Header<'h>,
    name: &'static str,
) -> Result<Option<&'h str>, Refused> {
    match header(name) {
        Header::Absent => Ok(None),
        Header::One(text) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
        Header::Repeated => Err(Refused::Doubled(name)),
        Header::NotText => Err(Refused::NotText(name)),
    }
}

pub(super) fn read<'h>(header: &dyn Fn(&'static str) -> Header<'h>) -> Result<Caller, Refused> {
    let text = |name| optional(header, name).map(|text| text.unwrap_or_default().to_owned());
    let list = |text: String, separator: char| {
        text.split(separator).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    };
    Ok(Caller {
        subject: required(header, SUBJECT)?.to_owned(),
        username: text(USERNAME)?,
        client_id: text(CLIENT_ID)?,
        groups: list(text(GROUPS)?, ','),
        scopes: list(text(SCOPE)?, ' '),
        unmet_rules: UnmetRules::default(),
        token_expires: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_needs_a_subject_and_no_header_twice() {
        let full = |name| match name {
            SUBJECT => Header::One("u1"),
            GROUPS => Header::One("dev, ops"),
            SCOPE => Header::One("mcp mcp:write"),
            _ => Header::Absent,
        };
        let caller = read(&full).unwrap();
        assert_eq!((caller.subject.as_str(), caller.groups.len(), caller.scopes.len()), ("u1", 2, 2));
        assert_eq!(read(&|_| Header::Absent), Err(Refused::Missing(SUBJECT)));
        assert_eq!(read(&|_| Header::One(" ")), Err(Refused::Missing(SUBJECT)));
        assert_eq!(read(&|_| Header::Repeated), Err(Refused::Doubled(SUBJECT)));
        assert_eq!(read(&|_| Header::NotText), Err(Refused::NotText(SUBJECT)));
    }
}
