//! Compares stateless requests with their baselines, and translated calls with calls that need no
//! translation.

use std::time::Duration;

use crate::client::{Process, wait_for};
use crate::load::{self, Outcome, Style};
use crate::report::{Report, line};
use crate::start_wrapper;

/// The port of the bare handler.
const BARE: u16 = 18590;
/// The wrapper for a server with sessions.
const SESSIONS: u16 = 18620;
/// The wrapper for a stateless server.
const STATELESS: u16 = 18630;

/// Measures native and translated calls of both eras, and prints them as a table.
pub(crate) async fn compare(wrapper: &str, seconds: u64, sizes: &[usize]) -> anyhow::Result<()> {
    let own = std::env::current_exe()?.display().to_string();
    let time = Duration::from_secs(seconds);
    let with_sessions = vec![own.clone(), "echo".to_owned()];
    let stateless = vec![own.clone(), "echo".to_owned(), "--stateless".to_owned()];
    let _bare = Process::start(&[own, "bare".to_owned(), BARE.to_string()])?;
    wait_for(&format!("127.0.0.1:{BARE}")).await?;
    let one = start_wrapper(wrapper, SESSIONS, &with_sessions).await?;
    let two = start_wrapper(wrapper, STATELESS, &stateless).await?;
    for size in sizes {
        for in_flight in [1, 16, 64] {
            Report::heading(*size, in_flight);
            let over_http = async |port: u16, style| {
                load::http(&format!("127.0.0.1:{port}"), "/mcp", style, *size, in_flight, time).await
            };
            let bare = over_http(BARE, Style::Stateless).await?;
            line("bare handler, stateless requests", bare, "");
            let direct = load::direct(&stateless, Style::Stateless, *size, in_flight, time).await?;
            line("direct, stateless child", direct, "");
            let native = over_http(STATELESS, Style::Stateless).await?;
            line("stateless", native, &ratios(native, &[("direct", direct), ("bare", bare)]));
            let session = over_http(SESSIONS, Style::Session).await?;
            line("sessions", session, &ratios(session, &[("bare", bare)]));
            for (name, port, style, next_to) in [
                ("stateless → sessions", SESSIONS, Style::Stateless, ("stateless", native)),
                ("the same, may be asked", SESSIONS, Style::Asked, ("stateless", native)),
                ("sessions → stateless", STATELESS, Style::Session, ("sessions", session)),
            ] {
                let outcome = over_http(port, style).await?;
                line(name, outcome, &ratios(outcome, &[next_to]));
            }
        }
    }
    for (name, process) in [("sessions", one), ("stateless", two)] {
        println!(
            "resident memory of the wrapper after all measurements, {name}: {} MiB",
            process.resident_mib()
        );
    }
    Ok(())
}

fn ratios(outcome: Outcome, floors: &[(&str, Outcome)]) -> String {
    let of = |(name, floor): &(&str, Outcome)| {
        let added = outcome.p50.as_secs_f64() - floor.p50.as_secs_f64();
        format!("{:.2} of {name}, p50 {:+.0} µs", outcome.per_second / floor.per_second, added * 1e6)
    };
    floors.iter().map(of).collect::<Vec<_>>().join("; ")
}
