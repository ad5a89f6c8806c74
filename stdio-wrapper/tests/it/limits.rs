//! Tests of the resource limits of children.

use std::fs::{read_to_string, write};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::wrapper::Wrapper;

/// A program that forks before it does anything else, even before a library is loaded. The new process executes
/// the program in the first argument, and the old process executes the program in the fourth argument.
#[cfg(target_arch = "x86_64")]
fn forks_at_once() -> Vec<u8> {
    const CODE: [u8; 44] = [
        0xb8, 57, 0, 0, 0, 0x0f, 0x05, // fork()
        0x48, 0x8d, 0x74, 0x24, 0x10, // rsi = the first argument
        0x85, 0xc0, 0x74, 0x04, // in the old process:
        0x48, 0x83, 0xc6, 0x18, //     rsi = the fourth argument
        0x48, 0x8b, 0x3e, // rdi = the program
        0x48, 0x8b, 0x0c, 0x24, 0x48, 0x8d, 0x54, 0xcc,
        0x10, // rdx = the environment, after all arguments
        0xb8, 59, 0, 0, 0, 0x0f, 0x05, // execve(rdi, rsi, rdx)
        0x0f, 0x0b, 0, 0, 0, // execve has failed
    ];
    let size = (120 + CODE.len()) as u64;
    let base: u64 = 0x40_0000;
    let mut program = b"\x7fELF\x02\x01\x01".to_vec();
    program.resize(16, 0);
    let mut add = |number: u64, bytes: usize| program.extend_from_slice(&number.to_le_bytes()[..bytes]);
    // The header of the file (`Elf64_Ehdr` of `elf(5)`), and the header of its only segment (`Elf64_Phdr`).
    for (number, bytes) in
        [(2, 2), (62, 2), (1, 4), (base + 120, 8), (64, 8), (0, 8), (0, 4), (64, 2), (56, 2), (1, 2)]
    {
        add(number, bytes);
    }
    for (number, bytes) in [
        (64, 2),
        (0, 2),
        (0, 2),
        (1, 4),
        (5, 4),
        (0, 8),
        (base, 8),
        (base, 8),
        (size, 8),
        (size, 8),
        (0x1000, 8),
    ] {
        add(number, bytes);
    }
    program.extend_from_slice(&CODE);
    program
}

#[cfg(target_arch = "x86_64")]
#[tokio::test(flavor = "multi_thread")]
async fn a107_what_a_child_forks_as_its_first_act_has_the_limits_too() {
    let place = tempfile::tempdir().unwrap();
    let (program, found) = (place.path().join("forks"), place.path().join("found"));
    write(&program, forks_at_once()).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    // The new process waits before it prints its limits. By then, the limits of the old process have long been
    // set.
    let looks =
        format!("sleep 0.2; echo $(ulimit -v) $(ulimit -c) $(ulimit -n) $(ulimit -t) >> {}", found.display());
    let child = include_str!("../children/child.py");
    let command =
        [program.to_str().unwrap(), "/bin/sh", "-c", &looks, "/usr/bin/env", "python3", "-c", child];
    let limits = ["--child-memory=2GiB", "--child-files=64", "--child-cpu=77"];
    let wrapper = Wrapper::run(&limits, &command, &[]).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        let client = wrapper.session().await;
        assert_eq!(client.text("echo", json!({})).await, "{}");
        clients.push(client);
    }
    let mut lines = String::new();
    while lines.lines().count() < clients.len() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        lines = read_to_string(&found).unwrap_or_default();
    }
    assert!(lines.lines().all(|line| line == "2097152 0 64 77"), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_cannot_be_set_is_told_and_the_child_runs() {
    const MORE: u64 = 1 << 20;
    // Raising a hard limit needs a privilege, which this wrapper does not have.
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if hard.is_none_or(|hard| hard >= MORE) {
        std::io::stderr()
            .write_all(b"SKIPPED limits: every limit of open files is below the hard limit\n")
            .unwrap();
        return;
    }
    let wrapper = Wrapper::unprivileged(
        &[&format!("--child-files={MORE}")],
        &["python3", "-c", include_str!("../children/child.py")],
    )
    .await;
    assert_eq!(wrapper.session().await.text("echo", json!({})).await, "{}");
    assert!(wrapper.logged("could not be set").await.contains("Nofile"));
}

/// The wrapper passes the pipes of each child as open files over a socket. Per user, the kernel limits the
/// number of files that have been sent in this way and not yet received.
#[tokio::test(flavor = "multi_thread")]
async fn a100_a_child_that_sends_as_many_files_as_it_can_keeps_no_other_from_being_started() {
    let command = ["python3", "-c", include_str!("../children/child.py")];
    let wrapper = Wrapper::unprivileged_with_files(2048, &["--identity=headers"], &command).await;
    let caller = |name: &str| wrapper.client().with_header("x-auth-subject", name);
    let mallory = caller("mallory").initialize("2025-11-25").await;
    let sent = mallory.text("fly", json!({})).await;
    // The kernel enforces this limit only for a process without privileges.
    assert!(sent.ends_with("ETOOMANYREFS"), "{sent}");
    let bob = caller("bob").initialize("2025-11-25").await;
    assert_eq!(bob.text("echo", json!({})).await, "{}");
    caller("mallory").initialize("2025-11-25").await;
    assert_eq!(wrapper.ops_status("/ready").await, 200);
}
