//! Prints the results as a table, and the ratios that have target values.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;

use crate::Target;
use crate::client::{Process, Used, wait_for};
use crate::load::{self, Outcome, Style};

/// The port of the first bridge. Each bridge has its own port, because the previous bridge might still be
/// listening.
const BRIDGE: u16 = 18700;

/// A report that prints each measurement immediately.
pub(crate) struct Report {
    time: Duration,
    bare: Outcome,
    wrapper: Outcome,
    bridges: u16,
}

impl Report {
    pub(crate) fn new(time: Duration) -> Self {
        Self { time, bare: Outcome::default(), wrapper: Outcome::default(), bridges: 0 }
    }

    pub(crate) fn heading(size: usize, in_flight: usize) {
        println!("\n{size} B results, {in_flight} in flight");
        println!("  {:34} {:>10} {:>11} {:>11}  ratios", "", "calls/s", "p50", "p99");
    }

    /// Measures over HTTP. `floors` are the results of the same child without a bridge and through the smallest
    /// bridge.
    pub(crate) async fn http(
        &mut self,
        target: &Target,
        size: usize,
        in_flight: usize,
        floors: Option<(Outcome, Outcome)>,
    ) {
        let measured = load::http(&target.host, &target.path, Style::Session, size, in_flight, self.time);
        let limit = self.time * 3 + Duration::from_secs(10);
        let meter = Meter::start(target.process);
        let outcome = match tokio::time::timeout(limit, measured).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(error)) => return println!("  {:34} failed: {error:#}", target.name),
            Err(_) => return println!("  {:34} failed: the measurement hangs", target.name),
        };
        let mut ratios = String::new();
        if target.name == "bare handler" {
            self.bare = outcome;
        } else if let Some((direct, bridge)) = floors {
            let added = outcome.p50.saturating_sub(direct.p50);
            ratios = format!(
                "{:.2} of direct, p50 +{} µs, {:.2} of bridge",
                outcome.per_second / direct.per_second,
                added.as_micros(),
                outcome.per_second / bridge.per_second
            );
            if target.name.contains("compiled") {
                self.wrapper = outcome;
                let _ = write!(ratios, ", {:.2} of bare", outcome.per_second / self.bare.per_second);
            }
        } else if self.wrapper.per_second > 0.0 {
            ratios = format!("wrapper is {:.1} ×", self.wrapper.per_second / outcome.per_second);
        }
        ratios += &meter.read(outcome);
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
        let meter = Meter::start(None);
        let outcome = load::direct(command, Style::Session, size, in_flight, self.time).await?;
        line(&format!("direct, {name}"), outcome, &meter.read(outcome));
        Ok(outcome)
    }

    /// Measures the smallest bridge to the child, with one thread and with two. Returns the better result.
    pub(crate) async fn bridge(
        &mut self,
        name: &str,
        command: &[String],
        size: usize,
        in_flight: usize,
        direct: Outcome,
    ) -> anyhow::Result<Outcome> {
        let mut best: Option<(usize, Outcome, String)> = None;
        for workers in [1, 2] {
            let port = BRIDGE + self.bridges;
            self.bridges += 1;
            let mut own = vec![std::env::current_exe()?.display().to_string()];
            own.extend(["bridge".to_owned(), port.to_string(), workers.to_string()]);
            own.extend(command.iter().cloned());
            let process = Process::start(&own)?;
            let host = format!("127.0.0.1:{port}");
            wait_for(&host).await?;
            let meter = Meter::start(Some(process.id()));
            let outcome = load::http(&host, "/mcp", Style::Session, size, in_flight, self.time).await?;
            if best.as_ref().is_none_or(|(_, best, _)| best.per_second < outcome.per_second) {
                best = Some((workers, outcome, meter.read(outcome)));
            }
        }
        let (workers, outcome, used) = best.context("no measurement")?;
        let mut ratios = format!("{:.2} of direct", outcome.per_second / direct.per_second);
        if name.contains("compiled") {
            let _ = write!(ratios, ", {:.2} of bare", outcome.per_second / self.bare.per_second);
        }
        let _ = write!(ratios, " (threads: {workers}){used}");
        line(&format!("bridge, {name}"), outcome, &ratios);
        Ok(outcome)
    }
}

/// The processor time that the load generator and the measured program use per call. Other work on the machine
/// affects it less than the number of calls per second.
struct Meter {
    generator: Used,
    process: Option<(u32, Used)>,
}

impl Meter {
    fn start(process: Option<u32>) -> Self {
        Self { generator: Used::now(std::process::id()), process: process.map(|id| (id, Used::now(id))) }
    }

    fn read(&self, outcome: Outcome) -> String {
        let (generator, _) = Used::now(std::process::id()).since(&self.generator);
        let mut text = format!("  processor a call: generator {:.1?}", outcome.a_call(generator));
        if let Some((id, before)) = &self.process {
            let (own, child) = Used::now(*id).since(before);
            // Writing to a string cannot fail.
            let _ = write!(text, ", itself {:.1?}, child {:.1?}", outcome.a_call(own), outcome.a_call(child));
        }
        text
    }
}

pub(crate) fn line(name: &str, outcome: Outcome, ratios: &str) {
    println!(
        "  {name:34} {:>10.0} {:>11.1?} {:>11.1?}  {ratios}",
        outcome.per_second, outcome.p50, outcome.p99
    );
}
