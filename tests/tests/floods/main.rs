//! Floods of auth-service and of the wrapper, by strangers and by a user with an account. Each program has the
//! memory and the number of processes that its compose file allows. No process may be killed, other users must be
//! served during the flood, and the memory must be released.
//!
//! Times are only printed, because another load on the machine would change them. They are in docs/limits.md.
//! `cargo test --workspace --test floods -- --test-threads=1`
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod auth_service;
mod caller;
mod honest;
mod large_texts;
#[path = "../../../auth-service/tests/support/redis_server.rs"]
mod redis_server;
mod scene;
mod wrapper;

use std::time::{Duration, Instant};

use tests::next_door::{MINUTE, is_for_a_table};
use tests::{Stack, Tier, say};
use tokio::sync::Mutex;

/// Runs one flood at a time, because two would slow each other down.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// The time limit for memory to be released. An idle machine needs less than a minute.
const BACK: Duration = Duration::from_secs(300);

/// The memory in bytes that can remain in use even if less was in use before. It consists of caches, and of
/// fragments that the allocator keeps.
const KEPT: u64 = 64 << 20;

/// The memory of a program before, during and after a flood.
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

    /// Waits until the memory is released. No process may have been killed.
    #[track_caller]
    fn is_back(mut self, stack: &mut Stack, name: &str) {
        let start = Instant::now();
        let mut held = self.most;
        let kept = (2 * self.idle).max(KEPT);
        // For a table, the test waits for a minute to find out how much is really kept.
        let (wanted, patience) = if is_for_a_table() { (2 * self.idle, MINUTE) } else { (kept, BACK) };
        while held > wanted && start.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(200));
            self.look(stack);
            held = stack.group(self.tier).held().unwrap();
        }
        let group = stack.group(self.tier);
        // Kernels before 5.19 do not report the peak of a group of version 2.
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
        assert!(held <= kept, "memory is not released: {figures}");
    }
}
