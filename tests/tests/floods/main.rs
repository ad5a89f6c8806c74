//! Floods of auth-service and of the wrapper, by strangers and by somebody with an account, each within the memory and the
//! processes that its compose file gives it. Nothing is killed, others are served meanwhile, and memory comes back.
//!
//! Figures are printed, not asserted: a machine that is busy with something else would break them. docs/limits.md has them.
//! `cargo test --workspace --test floods -- --test-threads=1`
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod auth_service;
mod caller;
mod honest;
#[path = "../../../auth-service/tests/support/redis_server.rs"]
mod redis_server;
mod wrapper;

use std::io::Write as _;
use std::time::{Duration, Instant};

use tests::control_group::{Bounds, ControlGroup};
use tests::{Stack, Tier};
use tokio::sync::Mutex;

/// One flood at a time: two would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// By when memory has to be back: within a minute, on a machine that has nothing else to do.
const BACK: Duration = Duration::from_secs(300);

/// What may be left however little there was before: caches, and fragments of what was allocated.
const KEPT: u64 = 64 << 20;

/// Past the test runner, which shows what a test prints only when it fails.
fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Whether this machine lets us make control groups. If not, says that the test is skipped.
fn can_bound(bounds: Bounds, test: &str) -> bool {
    ControlGroup::make(bounds).inspect_err(|why| say(&format!("SKIPPED {test}: {why:#}"))).is_ok()
}

/// What a program holds before and after a flood.
struct Memory {
    tier: Tier,
    idle: u64,
    most: u64,
}

impl Memory {
    fn before(stack: &Stack, tier: Tier) -> Self {
        let idle = stack.group(tier).held().unwrap();
        Self { tier, idle, most: idle }
    }

    fn look(&mut self, stack: &Stack) {
        self.most = self.most.max(stack.group(self.tier).held().unwrap());
    }

    /// Waits until it is back; nothing was killed.
    #[track_caller]
    fn is_back(mut self, stack: &mut Stack, name: &str) {
        let start = Instant::now();
        let mut held = self.most;
        let kept = (2 * self.idle).max(KEPT);
        while held > kept && start.elapsed() < BACK {
            std::thread::sleep(Duration::from_millis(200));
            self.look(stack);
            held = stack.group(self.tier).held().unwrap();
        }
        let group = stack.group(self.tier);
        // Kernels before 5.19 do not tell the most of a group of version 2.
        let (killed, peak) = (group.killed().unwrap(), group.peak().unwrap_or_default());
        let mib = |bytes: u64| bytes >> 20;
        let figures = format!(
            "{name}: {} MiB idle, {} at most, {} counted by the kernel at most, {} after {:.0} s",
            mib(self.idle),
            mib(self.most),
            mib(peak),
            mib(held),
            start.elapsed().as_secs_f32()
        );
        say(&format!("FIGURE {figures}"));
        assert_eq!(killed, 0, "{figures}\n{}", stack.logs());
        assert!(stack.runs(self.tier), "{figures}\n{}", stack.logs());
        assert!(held <= kept, "memory does not come back: {figures}");
    }
}
