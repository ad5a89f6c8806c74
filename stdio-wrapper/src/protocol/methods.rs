//! Finds methods that two programs might interpret differently. This module is pure.

use super::malformed::Malformed;

/// The methods that clients send in any revision. The wrapper handles or changes some of them itself, and rules
/// apply to some.
const KNOWN: [&str; 25] = [
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/initialized",
    "notifications/message",
    "notifications/progress",
    "notifications/roots/list_changed",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "subscriptions/listen",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "tools/call",
    "tools/list",
];

/// Maximum length of a method, in bytes. The method is kept while a call waits.
const MAX_LEN: usize = 256;

/// Refuses a method that a server might interpret differently from the wrapper (attack 106). A server that
/// ignores case might also fold some non-ASCII letters (the long s, the Kelvin sign), and a server that trims
/// names removes spaces. A server that treats a method like a path might ignore an empty segment or a dot segment. No
/// MCP method contains any of these.
pub(super) fn check_method(method: &str) -> Result<(), Malformed> {
    if method.len() > MAX_LEN {
        return Err(Malformed::Envelope(format!("`method` has more than {MAX_LEN} bytes")));
    }
    if method.is_empty() || !method.bytes().all(|byte| byte.is_ascii_graphic()) {
        let why = "`method` must consist of visible ASCII characters, without spaces";
        return Err(Malformed::Envelope(why.to_owned()));
    }
    if method.split('/').any(|segment| ["", ".", ".."].contains(&segment)) {
        let why = "`method` must not begin or end with a slash, or contain `//`, `/./` or `/../`";
        return Err(Malformed::Envelope(why.to_owned()));
    }
    let refolded = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(method) && **known != method);
    match refolded {
        Some(known) => {
            let why = format!("`method` differs from `{known}` only in upper and lower case");
            Err(Malformed::Envelope(why))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a106_a_method_is_what_every_reader_takes_it_for() {
        for good in KNOWN.into_iter().chain(["x", "acme.example/Do_it-now", "Acme/Do", "a/.b/c.."]) {
            assert_eq!(check_method(good), Ok(()), "{good}");
        }
        for bad in
            ["", " ", "tools/call ", "tool\u{17f}/call", "x\u{7f}", "a b", "\0", "Ping", "logging/setlevel"]
        {
            assert!(check_method(bad).is_err(), "{bad:?}");
        }
        for bad in
            ["tools/call/", "/tools/call", "tools//call", "/", "tools/./call", "x/../tools/call", "..", "./x"]
        {
            assert!(check_method(bad).is_err_and(|error| error.to_string().contains("slash")), "{bad:?}");
        }
        let why = check_method("Tools/Call").unwrap_err().to_string();
        assert!(why.contains("`tools/call`"), "{why}");
    }
}
