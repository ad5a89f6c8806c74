//! Tests that the wrapper opens as many sessions as fit into its container. The control groups are like those of a
//! compose file with limits.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::modern;
use crate::wrapper::{CHILD, Client, Wrapper, call, is_alive};

/// A control group with a limit on processes and a limit on memory. Only root can create one. Both versions of
/// control groups are supported.
pub(crate) struct Group {
    directories: Vec<PathBuf>,
}

impl Group {
    /// Creates a control group. If this machine does not allow that, prints a message and returns `None`.
    pub(crate) fn new(name: &str, tasks: u64, memory: u64) -> Option<Self> {
        let root = PathBuf::from("/sys/fs/cgroup");
        let name = format!("stdio-wrapper-{name}-{}", std::process::id());
        let is_v2 = root.join("cgroup.controllers").exists();
        let (pids, bytes) = if is_v2 {
            // This fails if the controllers are already enabled. If they are not, setting the limits below fails.
            let _ = fs::write(root.join("cgroup.subtree_control"), "+memory +pids");
            (root.join(&name), root.join(&name))
        } else {
            (root.join("pids").join(&name), root.join("memory").join(&name))
        };
        let group = Self { directories: vec![pids.clone(), bytes.clone()] };
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let made = group
            .directories
            .iter()
            .try_for_each(fs::create_dir_all)
            .and_then(|()| fs::write(pids.join("pids.max"), tasks.to_string()))
            .and_then(|()| fs::write(bytes.join(limit), memory.to_string()));
        if let Err(why) = made {
            let told = format!("SKIPPED {name}: a control group cannot be created: {why}\n");
            std::io::stderr().write_all(told.as_bytes()).unwrap();
            return None;
        }
        Some(group)
    }

    async fn wrapper(&self, options: &[&str], child: &[&str]) -> Wrapper {
        self.run(options, &[&["python3", CHILD], child].concat()).await
    }

    /// Starts a wrapper with this command in the control group.
    pub(crate) async fn run(&self, options: &[&str], command: &[&str]) -> Wrapper {
        let entries: Vec<PathBuf> =
            self.directories.iter().map(|directory| directory.join("cgroup.procs")).collect();
        Wrapper::inside(&entries, options, command).await
    }
}

impl Group {
    /// The number of processes that the kernel has killed because memory ran out.
    fn kills(&self) -> u64 {
        let files = ["memory.oom_control", "memory.events"];
        let mut texts = self.directories.iter().flat_map(|directory| files.map(|file| directory.join(file)));
        let text = texts.find_map(|path| fs::read_to_string(path).ok()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap();
        line.parse().unwrap()
    }

    /// The number of processes and threads in the group.
    fn tasks(&self) -> u64 {
        let mut all = self.directories.iter().map(|directory| directory.join("pids.current"));
        all.find_map(|path| fs::read_to_string(path).ok()).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The wrapper has exited, but its last children might still be running.
        for _ in 0..200 {
            self.directories.retain(|directory| fs::remove_dir(directory).is_err() && directory.exists());
            if self.directories.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }
}

fn caller(wrapper: &Wrapper, who: &str) -> Client {
    wrapper.client().with_header("x-auth-subject", who)
}

/// Opens sessions for different callers until one is refused. Returns the sessions and the refusal.
async fn fill(wrapper: &Wrapper) -> (Vec<Client>, String) {
    let mut all = Vec::new();
    for number in 0..200 {
        let mut client = caller(wrapper, &format!("user-{number}"));
        let response = client.try_initialize("2025-11-25").await;
        if response.status() != 200 {
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key("retry-after"));
            return (all, response.text().await.unwrap());
        }
        let session = response.headers().get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
        assert!(session.is_some(), "{}: {}", all.len(), response.text().await.unwrap());
        client.session = session;
        all.push(client);
    }
    panic!("no caller was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_sessions_are_opened_than_processes_fit_and_all_of_them_work() {
    let Some(group) = Group::new("tasks", 60, 1 << 30) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let (all, refusal) = fill(&wrapper).await;
    assert!(refusal.contains("the 60 processes and threads of its container"), "{refusal}");
    assert!(refusal.contains("pids_limit") && refusal.contains("MAX_SESSIONS"), "{refusal}");
    assert!(!all.is_empty() && all.len() < 60, "{}", all.len());
    for client in &all {
        assert_eq!(client.text("echo", serde_json::json!({"a": 1})).await, r#"{"a": 1}"#);
    }
    // /ready returns 503 until a session ends, so that new callers are not sent to this wrapper.
    ready_becomes(&wrapper, 503).await;
    assert_eq!(all[0].delete().await, 204);
    ready_becomes(&wrapper, 200).await;
}

async fn ready_becomes(wrapper: &Wrapper, wanted: u16) {
    for _ in 0..400 {
        if wrapper.ops_status("/ready").await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("/ready did not become {wanted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapper_with_as_many_sessions_as_it_may_have_is_not_ready_for_another_one() {
    let wrapper = Wrapper::start(&["--max-sessions=1"], &[]).await;
    let client = wrapper.session().await;
    ready_becomes(&wrapper, 503).await;
    assert_eq!(client.delete().await, 204);
    ready_becomes(&wrapper, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_counts_for_its_principal_until_nothing_of_its_child_is_left() {
    let options = ["--identity=headers", "--max-sessions-per-principal=1", "--stop-grace=2s"];
    let wrapper = Wrapper::start(&options, &["--ignores-eof", "--ignores-sigterm"]).await;
    let client = caller(&wrapper, "ana").initialize("2025-11-25").await;
    assert_eq!(client.delete().await, 204);
    assert!(is_alive(client.server_pid));
    // The new session waits until the child of the old one has exited.
    assert_eq!(caller(&wrapper, "ana").try_initialize("2025-11-25").await.status(), 200);
    assert!(!is_alive(client.server_pid));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_sessions_are_opened_than_memory_fits() {
    let Some(group) = Group::new("memory", 4096, 256 << 20) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let (all, refusal) = fill(&wrapper).await;
    assert!(refusal.contains("the memory of its container, 256 MiB"), "{refusal}");
    assert!(refusal.contains("mem_limit"), "{refusal}");
    assert!(!all.is_empty(), "{refusal}");
    // The end of a session frees memory for another one.
    assert_eq!(all[0].delete().await, 204);
    for _ in 0..400 {
        if caller(&wrapper, "next").try_initialize("2025-11-25").await.status() == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("there is still no room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_principal_has_a_share_of_the_room_and_the_operator_has_the_last_word() {
    let Some(group) = Group::new("share", 200, 1 << 30) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let ana = caller(&wrapper, "ana");
    let mut opened = 0;
    let refusal = loop {
        let response = ana.try_initialize("2025-11-25").await;
        if response.status() != 200 {
            assert_eq!(response.status(), 429);
            break response.text().await.unwrap();
        }
        opened += 1;
    };
    assert!(refusal.contains("MAX_SESSIONS_PER_PRINCIPAL"), "{refusal}");
    assert!(opened >= 4, "{opened}");
    caller(&wrapper, "bob").initialize("2025-11-25").await;
    let told = group.wrapper(&["--identity=headers", "--max-sessions=2"], &[]).await;
    for _ in 0..2 {
        caller(&told, "ana").initialize("2025-11-25").await;
    }
    let response = caller(&told, "ana").try_initialize("2025-11-25").await;
    assert_eq!(response.status(), 503);
    let refusal = response.text().await.unwrap();
    assert!(refusal.contains("the maximum of 2") && refusal.contains("MAX_SESSIONS"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_that_was_unused_for_the_longest_time_is_given_up_before_anybody_is_refused() {
    let by_number = Wrapper::start(&["--identity=headers", "--max-sessions=2"], &[]).await;
    let Some(group) = Group::new("oldest", 60, 1 << 30) else { return };
    let by_room = group.wrapper(&["--identity=headers"], &[]).await;
    let mut filled = Vec::new();
    for wrapper in [&by_number, &by_room] {
        filled.push(fill(wrapper).await.0);
    }
    // By then, the wrapper has measured how much a test child uses, so the test fills the group again.
    tokio::time::sleep(Duration::from_secs(8)).await;
    filled[1].extend(fill(&by_room).await.0);
    tokio::time::sleep(Duration::from_secs(31)).await;
    for (wrapper, all) in [&by_number, &by_room].into_iter().zip(&filled) {
        for used in &all[1..] {
            assert_eq!(used.status_of_ping().await, 200);
        }
        // The memory use of children changes all the time, so a few more sessions might fit before one is
        // refused.
        let mut number = 0;
        let refused = loop {
            let response = caller(wrapper, &format!("new-{number}")).try_initialize("2025-11-25").await;
            if response.status() != 200 {
                break response.status();
            }
            number += 1;
        };
        assert!(number > 0, "refused before the unused session was given up");
        assert_eq!(refused, 503, "all other sessions were used recently");
        assert_eq!(all[0].status_of_ping().await, 404);
        assert_eq!(all[1].status_of_ping().await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_behind_stateless_clients_is_given_up_as_well_when_none_of_them_uses_it() {
    let wrapper = Wrapper::start(&["--identity=headers", "--max-sessions=1"], &[]).await;
    modern::text(&caller(&wrapper, "ana"), "echo", serde_json::json!({})).await;
    assert_eq!(caller(&wrapper, "bob").try_initialize("2025-11-25").await.status(), 503, "it is in use");
    tokio::time::sleep(Duration::from_secs(31)).await;
    caller(&wrapper, "bob").initialize("2025-11-25").await;
    assert_eq!(wrapper.metric("stdio_wrapper_sessions").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_many_sessions_gives_one_up_for_a_user_with_none_also_while_its_stream_is_open() {
    let options = ["--identity=headers", "--max-sessions=6", "--max-sessions-per-principal=0"];
    let wrapper = Wrapper::start(&options, &[]).await;
    let (mut sessions, mut streams) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        let session = caller(&wrapper, "ana").initialize("2025-11-25").await;
        streams.push(session.get(None).await);
        sessions.push(session);
    }
    let running = tokio::spawn({
        let session = sessions[0].clone();
        async move { session.text("sleep", serde_json::json!({"seconds": 8})).await }
    });
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(caller(&wrapper, "ana").try_initialize("2025-11-25").await.status(), 503, "ana has most");
    ready_becomes(&wrapper, 200).await;
    for name in ["bob", "carol"] {
        caller(&wrapper, name).initialize("2025-11-25").await;
    }
    assert_eq!(caller(&wrapper, "dave").try_initialize("2025-11-25").await.status(), 503, "four stay open");
    let mut answers = Vec::new();
    for session in &sessions {
        answers.push(session.status_of_ping().await);
    }
    assert_eq!(answers, [200, 404, 404, 200, 200, 200], "the running call must not be cut off");
    assert_eq!(running.await.unwrap(), "slept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_makes_servers_grow_loses_one_before_the_kernel_ends_any() {
    let Some(group) = Group::new("growing", 4096, 512 << 20) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    bob.text("keep", serde_json::json!({"mib": 60})).await;
    let (mut sessions, mut running) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let session = caller(&wrapper, "mallory").initialize("2025-11-25").await;
        let call = call(1, "sleep", serde_json::json!({"seconds": 60}));
        running.push(tokio::spawn({
            let session = session.clone();
            async move { session.post(call).await.text().await.unwrap() }
        }));
        sessions.push(session);
    }
    let mut lost = 0;
    for number in 2..400 {
        let session = &sessions[usize::try_from(number).unwrap() % sessions.len()];
        let keep = call(number, "keep", serde_json::json!({"mib": 6}));
        lost += u32::from(session.post(keep).await.status() == 404);
        if lost > 3 {
            break;
        }
        // Memory grows so fast that the kernel would kill a process first if the wrapper measured only once per
        // second.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(lost > 3, "no session was ended");
    assert_eq!(group.kills(), 0);
    let told = wrapper.logged("nearly used up").await;
    assert!(told.contains("mallory"), "{told}");
    assert!(!wrapper.log().iter().any(|line| line.contains("nearly used up") && line.contains("bob")));
    assert_eq!(bob.status_of_ping().await, 200);
    let ended = futures_util::future::select_all(running).await.0.unwrap();
    assert!(ended.contains("-32603") && ended.contains("your sessions take most of it"), "{ended}");
}

/// The kernel attributes the content of a file in memory to the container, but to no process. A server that hides
/// memory in this way with one call of a tool is stopped. A server of another user, which seems to be larger and has
/// called some tools as well, is not.
async fn loses_the_server_that_hides(
    name: &str,
    honest: &[(&str, serde_json::Value)],
    (tool, arguments): (&str, serde_json::Value),
) {
    let Some(group) = Group::new(name, 4096, 512 << 20) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    bob.text("keep", serde_json::json!({"mib": 60})).await;
    for (tool, arguments) in honest {
        bob.text(tool, arguments.clone()).await;
    }
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    let hidden = mallory.post(call(1, tool, arguments)).await.text().await.unwrap();
    let told = wrapper.logged("nearly used up").await;
    assert!(told.contains("mallory"), "{told}: {hidden}");
    assert_eq!(mallory.status_of_ping().await, 404);
    assert_eq!(bob.status_of_ping().await, 200);
    assert!(!wrapper.log().iter().any(|line| line.contains("nearly used up") && line.contains("bob")));
    wrapper.logged("child is killed without time to exit").await;
    assert!(!wrapper.log().iter().any(|line| line.contains("did not exit")), "{:#?}", wrapper.log());
    assert_eq!(wrapper.metric("stdio_wrapper_children_killed_total").await, 0);
    assert_eq!(group.kills(), 0);
}

/// So many threads and files that only a few of them can be examined at once.
fn many_files() -> (&'static str, serde_json::Value) {
    ("open", serde_json::json!({"files": 100, "threads": 100}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_hides_memory_loses_the_server_and_nobody_else_does() {
    let hides = ("hide", serde_json::json!({"mib": 400}));
    loses_the_server_that_hides("hiding", &[many_files()], hides).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_hides_memory_behind_many_files_loses_the_server() {
    let hides = ("hide", serde_json::json!({"mib": 400, "behind": 300}));
    loses_the_server_that_hides("hiding-behind", &[many_files()], hides).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_hides_memory_in_mappings_loses_the_server() {
    let hides = ("hide mapped", serde_json::json!({"mib": 400}));
    loses_the_server_that_hides("hiding-mapped", &[many_files()], hides).await;
}

/// The honest server has workers with thousands of mappings each, like some interpreters.
#[tokio::test(flavor = "multi_thread")]
async fn a100_who_hides_memory_behind_many_mappings_loses_the_server_and_one_with_many_mappings_does_not() {
    let honest =
        [("map pages", serde_json::json!({"count": 2000})), ("fork", serde_json::json!({"count": 9}))];
    let hides = ("hide mapped", serde_json::json!({"mib": 400, "behind": 10_000}));
    loses_the_server_that_hides("hiding-behind-mappings", &honest, hides).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_a_server_with_a_large_mapping_that_it_does_not_use_is_not_charged_with_what_another_one_hides()
{
    let honest = [("map unused", serde_json::json!({"mib": 2000}))];
    let hides = ("hide mapped", serde_json::json!({"mib": 400}));
    loses_the_server_that_hides("hiding-beside-unused", &honest, hides).await;
}

/// Nothing shows where this memory is. When it is about to run out, the time that it took to fill it decides.
#[tokio::test(flavor = "multi_thread")]
async fn a100_who_fills_the_memory_where_nobody_looks_loses_the_server_before_the_kernel_kills_one() {
    let hides = ("hide well", serde_json::json!({"mib": 440, "pause": 0.02}));
    loses_the_server_that_hides("filling-well", &[], hides).await;
}

/// The kernel attributes page tables to the container, but does not count them as resident memory of the process.
#[tokio::test(flavor = "multi_thread")]
async fn a100_who_fills_the_memory_with_page_tables_loses_the_server() {
    let Some(group) = Group::new("mapping", 4096, 512 << 20) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    // This is less than the memory of the page tables, but more than would then count as hidden.
    bob.text("keep", serde_json::json!({"mib": 210})).await;
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    let _answer = mallory.post(call(1, "map", serde_json::json!({"gib": 115}))).await;
    let told = wrapper.logged("nearly used up").await;
    assert!(told.contains("mallory"), "{told}");
    wrapper.metric_becomes("stdio_wrapper_children", 1).await;
    assert_eq!(mallory.status_of_ping().await, 404);
    assert_eq!(bob.status_of_ping().await, 200);
    assert_eq!(group.kills(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_memory_that_is_hidden_where_nobody_looks_costs_no_other_user_a_session() {
    let Some(group) = Group::new("hiding-well", 4096, 512 << 20) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let mut honest = Vec::new();
    for user in ["ana", "bob", "carol", "dave"] {
        let session = caller(&wrapper, user).initialize("2025-11-25").await;
        session.text("keep", serde_json::json!({"mib": 50})).await;
        honest.push(session);
    }
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    mallory.text("hide well", serde_json::json!({"mib": 220})).await;
    // It does not matter here whether there is room for another user.
    let _newcomer = caller(&wrapper, "newcomer").try_initialize("2025-11-25").await;
    // The wrapper measures the memory every 100 ms, and examines files every second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    for session in &honest {
        assert_eq!(session.status_of_ping().await, 200);
    }
    // Mallory might be stopped, because the system time shows who has filled this memory.
    assert_eq!(group.kills(), 0);
}

/// The memory of the container can grow by hundreds of MiB in a tenth of a second, while the kernel reports the same
/// usage as before for each process. The wrapper must be faster than the kernel, which kills the largest process. On a
/// busy machine, it sometimes is not, so half of the attempts suffice.
#[tokio::test(flavor = "multi_thread")]
async fn a100_who_writes_to_all_shared_pages_at_the_same_moment_loses_the_server() {
    let Some(group) = Group::new("writing", 4096, 512 << 20) else { return };
    let mut evaded = 0;
    for number in 0..4 {
        let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
        let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
        bob.text("keep", serde_json::json!({"mib": 180})).await;
        let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
        let write = serde_json::json!({"mib": 100, "count": 20, "after": f64::from(number) * 0.7});
        let _answer = mallory.post(call(1, "write", write)).await;
        wrapper.metric_becomes("stdio_wrapper_children", 1).await;
        evaded += u32::from(bob.status_of_ping().await != 200);
    }
    assert!(evaded <= 2, "{evaded} of 4");
}

/// The kernel attributes the memory of epoll watches to the container, but to no process.
#[tokio::test(flavor = "multi_thread")]
async fn a100_who_hides_memory_in_epoll_watches_loses_the_server() {
    // If another test lowers the limit at the same time, no watches are left for this test.
    let _turn = crate::watches::TURN.lock().await;
    let Some(group) = Group::new("watching", 4096, 512 << 20) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    bob.text("keep", serde_json::json!({"mib": 60})).await;
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    mallory.text("watch", serde_json::json!({"how": "kept"})).await;
    wrapper.metric_becomes("stdio_wrapper_children", 1).await;
    let told = wrapper.logged("the memory of the container is nearly used up").await;
    assert!(told.contains("mallory"), "{told}");
    assert_eq!(mallory.status_of_ping().await, 404);
    assert_eq!(bob.status_of_ping().await, 200);
}

/// After a fork, the kernel counts the same memory for both processes.
#[tokio::test(flavor = "multi_thread")]
async fn a100_forks_do_not_make_up_for_hidden_memory() {
    let Some(group) = Group::new("hiding-behind-forks", 4096, 512 << 20) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    bob.text("keep", serde_json::json!({"mib": 170})).await;
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    mallory.text("keep", serde_json::json!({"mib": 8})).await;
    assert_eq!(mallory.text("fork", serde_json::json!({"count": 8})).await, "forked");
    mallory.text("hide well", serde_json::json!({"mib": 270})).await;
    // The wrapper measures the memory every 100 ms, and examines files every second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    // Mallory might be stopped, because the system time shows who has filled this memory.
    assert_eq!((bob.status_of_ping().await, group.kills()), (200, 0));
}

/// The kernel reports more memory for the honest server, whose workers share nearly all of it.
#[tokio::test(flavor = "multi_thread")]
async fn a100_a_server_with_workers_survives_another_one_that_writes_to_shared_pages_or_grows_in_a_fork() {
    let Some(group) = Group::new("beside-workers", 4096, 512 << 20) else { return };
    let hostile = [
        ("write", serde_json::json!({"mib": 100, "count": 4, "after": 1.0})),
        ("grow", serde_json::json!({"mib": 420, "forks": true, "after": 0.5})),
        ("write", serde_json::json!({"mib": 100, "count": 4, "after": 0.3})),
        ("grow", serde_json::json!({"mib": 420, "forks": true, "after": 1.5})),
    ];
    for (tool, arguments) in hostile {
        let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
        let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
        bob.text("keep", serde_json::json!({"mib": 60})).await;
        assert_eq!(bob.text("fork", serde_json::json!({"count": 9})).await, "forked");
        let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
        let _answer = mallory.post(call(1, tool, arguments)).await;
        wrapper.metric_becomes("stdio_wrapper_children", 1).await;
        assert_eq!(bob.status_of_ping().await, 200, "{tool}: {:?}", wrapper.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forks_workers_is_not_counted_once_for_each_of_them() {
    let Some(group) = Group::new("forking", 4096, 512 << 20) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    bob.text("keep", serde_json::json!({"mib": 40})).await;
    assert_eq!(bob.text("fork", serde_json::json!({"count": 9})).await, "forked");
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    mallory.text("grow", serde_json::json!({"after": 1, "mib": 400})).await;
    let message = wrapper.logged("the memory of the container is nearly used up").await;
    assert!(message.contains("mallory"), "{message}");
    wrapper.metric_becomes("stdio_wrapper_children", 1).await;
    assert_eq!(bob.status_of_ping().await, 200);
    assert_eq!(group.kills(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_a_server_that_grows_after_its_session_has_ended_counts_for_its_user() {
    let Some(group) = Group::new("growing-late", 4096, 512 << 20) else { return };
    let options = ["--identity=headers", "--stop-grace=20s"];
    let wrapper = group.wrapper(&options, &["--ignores-eof", "--ignores-sigterm"]).await;
    let mut honest = Vec::new();
    for user in ["ana", "bob", "carol"] {
        let session = caller(&wrapper, user).initialize("2025-11-25").await;
        session.text("keep", serde_json::json!({"mib": 40})).await;
        honest.push(session);
    }
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    mallory.text("grow", serde_json::json!({"after": 1, "mib": 330})).await;
    assert_eq!(mallory.delete().await, 204);
    let message = wrapper.logged("the memory of the container is nearly used up").await;
    assert!(message.contains("mallory"), "{message}");
    wrapper.metric_becomes("stdio_wrapper_children", 3).await;
    for session in &honest {
        assert_eq!(session.status_of_ping().await, 200);
    }
    assert_eq!(wrapper.metric("stdio_wrapper_children_ended_for_memory_total").await, 1);
    assert_eq!(group.kills(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_fills_the_processes_with_one_session_gives_way_to_a_user_who_has_none() {
    // The limit is 120 processes. New callers are accepted while fewer than 104 are in use. Above 112, the
    // wrapper stops children that grow.
    let Some(group) = Group::new("filled", 120, 1 << 30) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    let running = tokio::spawn({
        let session = mallory.clone();
        async move {
            let call = call(1, "sleep", serde_json::json!({"seconds": 60}));
            session.post(call).await.text().await.unwrap()
        }
    });
    while group.tasks() < 100 {
        mallory.text("workers", serde_json::json!({"count": (100 - group.tasks()).min(4)})).await;
    }
    // The wrapper measures the usage every 2 s.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let response = caller(&wrapper, "bob").try_initialize("2025-11-25").await;
    let status = response.status();
    assert_eq!(status, 200, "{}", response.text().await.unwrap());
    assert_eq!(mallory.status_of_ping().await, 404);
    let told = wrapper.logged("the processes of the container had no room for another user").await;
    assert!(told.contains("mallory"), "{told}");
    let ended = running.await.unwrap();
    assert!(ended.contains("-32603") && ended.contains("processes and threads"), "{ended}");
    assert_eq!(wrapper.metric("stdio_wrapper_children_ended_for_processes_total").await, 1);
}

/// Each process of the server forks forever, into its own session, so whenever one is killed, there is room for
/// another fork.
#[tokio::test(flavor = "multi_thread")]
async fn a107_processes_that_all_fork_for_ever_are_ended_with_their_session() {
    let Some(group) = Group::new("breeding", 120, 1 << 30) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    let mark = format!("breeds-of-{}", wrapper.pid());
    let call = call(1, "breed", serde_json::json!({"mark": mark}));
    let _answer = tokio::time::timeout(Duration::from_secs(5), mallory.post(call)).await;
    let begun = Instant::now();
    while group.tasks() > 40 || caller(&wrapper, "bob").try_initialize("2025-11-25").await.status() != 200 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} processes are left", group.tasks());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(mallory.status_of_ping().await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_fills_the_processes_loses_the_server_before_those_of_others_can_start_nothing() {
    let Some(group) = Group::new("filling", 120, 1 << 30) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    let bob = caller(&wrapper, "bob").initialize("2025-11-25").await;
    let mallory = caller(&wrapper, "mallory").initialize("2025-11-25").await;
    let mut is_lost = false;
    for number in 1..300 {
        let one_more = call(number, "workers", serde_json::json!({"count": 1}));
        is_lost = mallory.post(one_more).await.status() == 404;
        if is_lost {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(is_lost, "no session was ended, with {} processes", group.tasks());
    let told = wrapper.logged("the processes of the container are nearly used up").await;
    assert!(told.contains("mallory"), "{told}");
    assert!(!wrapper.log().iter().any(|line| line.contains("used up") && line.contains("bob")));
    bob.text("workers", serde_json::json!({"count": 4})).await;
    caller(&wrapper, "carol").initialize("2025-11-25").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a100_who_fills_the_processes_with_a_few_sessions_loses_as_many_as_a_newcomer_needs() {
    // The limit is 160 processes. New callers are accepted while fewer than 140 are in use. Above 150, the
    // wrapper stops children that grow.
    let Some(group) = Group::new("several", 160, 1 << 30) else { return };
    let wrapper = group.wrapper(&["--identity=headers"], &[]).await;
    caller(&wrapper, "bob").initialize("2025-11-25").await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(caller(&wrapper, "mallory").initialize("2025-11-25").await);
    }
    for session in all.iter().cycle() {
        let left = 136_u64.saturating_sub(group.tasks());
        if left == 0 {
            break;
        }
        session.text("workers", serde_json::json!({"count": left.min(4)})).await;
    }
    // Most servers are large now, so a large server looks typical to the wrapper.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let response = caller(&wrapper, "carol").try_initialize("2025-11-25").await;
    let status = response.status();
    assert_eq!(status, 200, "{}", response.text().await.unwrap());
    assert_eq!(wrapper.metric("stdio_wrapper_children_ended_for_processes_total").await, 2);
}
