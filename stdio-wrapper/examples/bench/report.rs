//! The table, and the ratios that the goals speak of.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::client::{Connection, wait_for};
use crate::load::{self, Outcome, Style};
use crate::{Target, start_wrapper};

/// Prints as it goes.
pub(crate) struct Report {
    time: Duration,
    bare: Outcome,
    wrapper: Outcome,
}

impl Report {
    pub(crate) fn new(time: Duration) -> Self {
        Self { time, bare: Outcome::default(), wrapper: Outcome::default() }
    }

    pub(crate) fn heading(size: usize, in_flight: usize) {
        println!("\n{size} B results, {in_flight} in flight");
        println!("  {:34} {:>10} {:>11} {:>11}  ratios", "", "calls/s", "p50", "p99");
    }

    /// Measures over HTTP. `direct` is the floor of the same child.
    pub(crate) async fn http(
        &mut self,
        target: &Target,
        size: usize,
        in_flight: usize,
        direct: Option<Outcome>,
    ) {
        let measured = load::http(&target.host, &target.path, Style::Session, size, in_flight, self.time);
        let limit = self.time * 3 + Duration::from_secs(10);
        let outcome = match tokio::time::timeout(limit, measured).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => return println!("  {:34} failed: {error:#}", target.name),
            Err(_) => return println!("  {:34} failed: it hangs", target.name),
        };
        let mut ratios = String::new();
        if target.name == "bare handler" {
            self.bare = outcome;
        } else if let Some(direct) = direct {
            let added = outcome.p50.saturating_sub(direct.p50);
            ratios = format!(
                "{:.2} of direct, p50 +{} µs",
                outcome.per_second / direct.per_second,
                added.as_micros()
            );
            if target.name.contains("compiled") {
                self.wrapper = outcome;
                let _ = write!(ratios, ", {:.2} of bare", outcome.per_second / self.bare.per_second);
            }
        } else {
            ratios = format!("wrapper is {:.1} ×", self.wrapper.per_second / outcome.per_second);
        }
        line(&target.name, outcome, &ratios);
    }

    /// Measures the child alone.
    pub(crate) async fn direct(
        &mut self,
        name: &str,
        command: &[String],
        size: usize,
        in_flight: usize,
    ) -> anyhow::Result<Outcome> {
        let outcome = load::direct(command, Style::Session, size, in_flight, self.time).await?;
        line(&format!("direct, {name}"), outcome, "");
        Ok(outcome)
    }

    /// How long `initialize` takes with a spare ready.
    pub(crate) async fn first_byte(
        &self,
        wrapper: &str,
        children: &[(String, Vec<String>)],
    ) -> anyhow::Result<()> {
        for (index, (name, command)) in children.iter().enumerate() {
            let port = 18650 + 2 * u16::try_from(index)?;
            let process = start_wrapper(wrapper, port, command).await?;
            let host = format!("127.0.0.1:{port}");
            wait_for(&host).await?;
            println!(
                "resident memory of a fresh wrapper with one spare ({name}): {} MiB",
                process.resident_mib()
            );
            let mut times = Vec::new();
            for _ in 0..5 {
                // Time for the spare to be up; that it is there in time is its purpose.
                tokio::time::sleep(Duration::from_millis(2500)).await;
                let mut connection = Connection::open(&host, "/mcp", None).await?;
                let before = Instant::now();
                connection.initialize().await?;
                times.push(before.elapsed());
            }
            times.sort_unstable();
            println!(
                "new session with a warm spare ({name}), initialize and initialized: median {:?}, worst {:?}",
                times.get(2).copied().unwrap_or_default(),
                times.last().copied().unwrap_or_default()
            );
        }
        Ok(())
    }
}

pub(crate) fn line(name: &str, outcome: Outcome, ratios: &str) {
    println!(
        "  {name:34} {:>10.0} {:>11.1?} {:>11.1?}  {ratios}",
        outcome.per_second, outcome.p50, outcome.p99
    );
}
