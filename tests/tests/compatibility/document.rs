//! Reads and writes the parts of `docs/compatibility.md` that the tests generate.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tests::places::repository;

use crate::known;
use crate::programs::{Client, Server};
use crate::run::Seen;

/// All features that a client can use, grouped by the columns of the tables.
pub(crate) const CALLS: [&str; 5] = ["call", "structured", "error", "progress", "cancellation"];
pub(crate) const QUESTIONS: [&str; 6] =
    ["questions", "questions again", "questions in parallel", "questions at once", "sampling", "roots"];
pub(crate) const REST: [&str; 6] =
    ["logging", "resources", "templates", "subscription", "prompts", "completion"];

const END: &str = "<!-- end -->\n";

/// Whether the tests write the document instead of comparing it.
pub(crate) fn writes() -> bool {
    std::env::var_os("COMPATIBILITY").is_some_and(|what| what == "write")
}

/// Writes or compares the table of one server.
pub(crate) fn section(server: Server, rows: &[(Client, Seen)]) {
    let mut text = format!("### {}\n\nSupports {}.\n\n", server.name(), server.era());
    text.push_str("| client | revision | sign-in | step-up | calls | questions | the rest | remarks |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for (client, seen) in rows {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let of = |features: &[&str]| {
            let (worked, had) = seen.count(features);
            format!("{worked} of {had}")
        };
        let (calls, questions, rest) = (of(&CALLS), of(&QUESTIONS), of(&REST));
        writeln!(
            text,
            "| {} | {} | {} | {} | {calls} | {questions} | {rest} | {} |",
            client.name(),
            seen.revision,
            yes(seen.signed_in),
            yes(seen.stepped_up),
            special(server, *client, seen),
        )
        .unwrap();
    }
    check(&format!("{server:?}"), &text);
}

fn special(server: Server, client: Client, seen: &Seen) -> String {
    let absent = seen.with("none").join(", ");
    let absent = (!absent.is_empty()).then(|| format!("the server has no {absent}"));
    let known = known::of(server, client).map(|known| known.why.to_owned());
    absent.into_iter().chain(known).collect::<Vec<_>>().join("; ")
}

/// Compares a part of the document with `made`, or writes it.
#[track_caller]
pub(crate) fn check(name: &str, made: &str) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let text = fs::read_to_string(file()).unwrap();
    let begin = format!("<!-- {name}: written by scripts/compatibility -->\n");
    let (before, rest) =
        text.split_once(&begin).unwrap_or_else(|| panic!("docs/compatibility.md has no part {name}"));
    let (committed, after) = rest.split_once(END).unwrap();
    if writes() {
        fs::write(file(), format!("{before}{begin}{made}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            committed, made,
            "docs/compatibility.md differs from the results; scripts/compatibility writes it"
        );
    }
}

/// A part of the document in its committed version.
pub(crate) fn committed(name: &str) -> String {
    let text = fs::read_to_string(file()).unwrap();
    let begin = format!("<!-- {name}: written by scripts/compatibility -->\n");
    text.split_once(&begin).and_then(|(_, rest)| rest.split_once(END)).unwrap().0.to_owned()
}

fn file() -> PathBuf {
    repository().join("docs/compatibility.md")
}
