//! A system call filter for children. The kernel lets a process change the resource limits, the processor
//! scheduling and the disk scheduling of another process of the same user. For these calls, it does not check
//! whether the first process may trace the second, so a domain (`isolation`) does not prevent them. With such a
//! call, a child could kill or starve the wrapper and the children of other callers. It also refuses the calls
//! with which a child could keep files where nobody can see them (`watches`). The filter is a BPF
//! program that the kernel runs before each system call of a child and of its descendants (Linux,
//! `Documentation/userspace-api/seccomp_filter.rst`).

use std::error::Error;
use std::io;
use std::num::TryFromIntError;

use seccompiler::{BpfProgram, apply_filter, sock_filter};

/// Filters the system calls of this thread and of the processes that it starts from now on. The kernel requires
/// that these can no longer gain privileges by running a program (`no_new_privs`).
pub(super) fn enter() -> io::Result<()> {
    // A filter without a rule for the architecture would kill every program.
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let entered = || -> Result<(), Box<dyn Error + Send + Sync>> { Ok(apply_filter(&program(MACHINE)?)?) };
    entered().map_err(io::Error::other)
}

/// A comparison of four bytes of the data that the kernel passes to the filter (`struct seccomp_data` in
/// `linux/seccomp.h`).
#[derive(Debug, Clone, Copy)]
struct Is {
    at: u32,
    value: u32,
}

impl Is {
    /// Compares the low half of an argument. The kernel reads only this half of a number.
    const fn argument(index: u32, value: u32) -> Self {
        Self { at: ARGUMENTS + 8 * index, value }
    }

    /// Compares the high half of an argument, which matters for pointers.
    const fn high(index: u32, value: u32) -> Self {
        Self { at: ARGUMENTS + 8 * index + 4, value }
    }
}

/// Offsets of the call number, the architecture and the arguments in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A call is allowed if all comparisons in at least one of these lists are true. Otherwise it fails with EPERM.
/// Without a list, the call fails with ENOSYS, as on a kernel without it, so programs use other calls.
type Allowed = &'static [&'static [Is]];

/// The first argument is a process id, and 0 means the calling process. A process cannot pass its own id
/// instead, because all processes share one filter, which contains no process ids.
const ON_ITSELF: Allowed = &[&[Is::argument(0, 0)]];

/// The rules for the filtered system calls, in the order of [`Numbers`].
const RULES: [Allowed; 9] = [
    // prlimit64(pid, resource, new, old) is also allowed if `new` is null, because reading limits is harmless.
    &[&[Is::argument(0, 0)], &[Is::argument(2, 0), Is::high(2, 0)]],
    // sched_setparam, sched_setscheduler, sched_setaffinity, sched_setattr
    ON_ITSELF,
    ON_ITSELF,
    ON_ITSELF,
    ON_ITSELF,
    // setpriority(which, who, value) is allowed with PRIO_PROCESS. Process groups are not allowed, because a
    // child can join the process group of the wrapper.
    &[&[Is::argument(0, 0), Is::argument(1, 0)]],
    // ioprio_set(which, who, value) is allowed with IOPRIO_WHO_PROCESS.
    &[&[Is::argument(0, 1), Is::argument(1, 0)]],
    // io_setup and io_uring_setup: a queue of input and output keeps files that the process has closed.
    &[],
    &[],
];

/// The numbers of the filtered calls in one architecture.
type Numbers = [u32; RULES.len()];

/// An architecture whose programs this machine can run, and its system call numbers.
struct Machine {
    /// Its name in `linux/audit.h`.
    audit: u32,
    numbers: &'static [Numbers],
}

/// x32 is x86-64 with short pointers, and has this bit in its numbers.
const X32: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
const MACHINE: &[Machine] = &X86;
#[cfg(target_arch = "aarch64")]
const MACHINE: &[Machine] = &ARM;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: &[Machine] = &[];

#[cfg_attr(not(any(test, target_arch = "x86_64")), expect(dead_code, reason = "another machine's"))]
const X86: [Machine; 2] = [
    Machine {
        audit: 0xc000_003e,
        numbers: &[
            [302, 142, 144, 203, 314, 141, 251, 206, 425],
            [
                X32 + 302,
                X32 + 142,
                X32 + 144,
                X32 + 203,
                X32 + 314,
                X32 + 141,
                X32 + 251,
                X32 + 543,
                X32 + 425,
            ],
        ],
    },
    // 32-bit programs, and `int 0x80` in 64-bit programs.
    Machine { audit: 0x4000_0003, numbers: &[[340, 154, 156, 241, 351, 97, 289, 245, 425]] },
];

#[cfg_attr(not(any(test, target_arch = "aarch64")), expect(dead_code, reason = "another machine's"))]
const ARM: [Machine; 2] = [
    Machine { audit: 0xc000_00b7, numbers: &[[261, 118, 119, 122, 274, 140, 30, 0, 425]] },
    // 32-bit programs.
    Machine { audit: 0x4000_0028, numbers: &[[369, 154, 156, 241, 380, 97, 314, 243, 425]] },
];

/// Actions of the filter (`linux/seccomp.h`).
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL_PROCESS: u32 = 0x8000_0000;

/// The BPF program kills processes of an unknown architecture, because the meaning of their call numbers is
/// unknown.
fn program(machine: &[Machine]) -> Result<BpfProgram, TryFromIntError> {
    let mut program = vec![load(ARCHITECTURE)];
    for Machine { audit, numbers } in machine {
        let mut section = vec![load(NUMBER)];
        for numbers in *numbers {
            for (number, allowed) in numbers.iter().zip(RULES) {
                let rule = rule(allowed)?;
                section.push(skip_unless(*number, rule.len())?);
                section.extend(rule);
            }
        }
        section.push(decide(ALLOW));
        program.push(skip_unless(*audit, section.len())?);
        program.extend(section);
    }
    program.push(decide(KILL_PROCESS));
    Ok(program)
}

/// The instructions that apply a rule to a call.
fn rule(allowed: Allowed) -> Result<BpfProgram, TryFromIntError> {
    let mut rule = Vec::new();
    for all in allowed {
        for (index, is) in all.iter().enumerate() {
            // Each remaining comparison has two instructions, and one more instruction allows the call.
            let rest = 2 * (all.len() - index - 1) + 1;
            rule.extend([load(is.at), skip_unless(is.value, rest)?]);
        }
        rule.push(decide(ALLOW));
    }
    rule.push(decide(if allowed.is_empty() { ENOSYS } else { EPERM }));
    Ok(rule)
}

/// An instruction that loads four bytes at this offset of the call data.
fn load(at: u32) -> sock_filter {
    sock_filter { code: 0x20, jt: 0, jf: 0, k: at }
}

/// An instruction that skips the next `count` instructions unless the loaded value equals `value`.
fn skip_unless(value: u32, count: usize) -> Result<sock_filter, TryFromIntError> {
    Ok(sock_filter { code: 0x15, jt: 0, jf: u8::try_from(count)?, k: value })
}

fn decide(action: u32) -> sock_filter {
    sock_filter { code: 0x06, jt: 0, jf: 0, k: action }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's decision for this system call.
    fn decision(machine: &[Machine], audit: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(audit.to_le_bytes());
        data.extend([0; 8]);
        data.extend(arguments.iter().flat_map(|argument| argument.to_le_bytes()));
        let program = program(machine).unwrap();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let sock_filter { code, jf, k, .. } = program[at].clone();
            at += 1;
            match code {
                0x20 => loaded = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
                0x15 if loaded == k => {}
                0x15 => at += usize::from(jf),
                0x06 => return k,
                _ => panic!("{code}"),
            }
        }
    }

    #[test]
    fn every_architecture_lets_a_process_change_itself_and_no_other() {
        for machine in [&X86, &ARM] {
            for Machine { audit, numbers } in machine {
                for [
                    prlimit,
                    parameter,
                    scheduler,
                    affinity,
                    attributes,
                    priority,
                    io_priority,
                    aio,
                    uring,
                ] in *numbers
                {
                    let decide = |number: &u32, arguments| decision(machine, *audit, *number, arguments);
                    for own in [parameter, scheduler, affinity, attributes] {
                        assert_eq!(decide(own, [0, 7, 7, 7, 7, 7]), ALLOW);
                        // The kernel reads a process id as a 32-bit number.
                        assert_eq!(decide(own, [1 << 32, 7, 7, 7, 7, 7]), ALLOW);
                        assert_eq!(decide(own, [7, 0, 0, 0, 0, 0]), EPERM);
                    }
                    assert_eq!(decide(prlimit, [0, 7, 7, 7, 0, 0]), ALLOW);
                    assert_eq!(decide(prlimit, [7, 7, 0, 7, 0, 0]), ALLOW, "reading");
                    assert_eq!(decide(prlimit, [7, 7, 7, 0, 0, 0]), EPERM);
                    assert_eq!(decide(prlimit, [7, 7, 1 << 32, 0, 0, 0]), EPERM, "a pointer has 64 bits");
                    assert_eq!(decide(priority, [0, 0, 19, 0, 0, 0]), ALLOW);
                    assert_eq!(decide(priority, [0, 7, 19, 0, 0, 0]), EPERM);
                    assert_eq!(decide(priority, [1, 0, 19, 0, 0, 0]), EPERM, "the group");
                    assert_eq!(decide(priority, [2, 0, 19, 0, 0, 0]), EPERM, "the user");
                    assert_eq!(decide(io_priority, [1, 0, 7, 0, 0, 0]), ALLOW);
                    assert_eq!(decide(io_priority, [1, 7, 7, 0, 0, 0]), EPERM);
                    assert_eq!(decide(io_priority, [2, 0, 7, 0, 0, 0]), EPERM, "the group");
                    assert_eq!([decide(aio, [0; 6]), decide(uring, [0; 6])], [ENOSYS; 2]);
                }
                let known: Vec<u32> = numbers.iter().flatten().copied().collect();
                for other in (0..600).filter(|number| !known.contains(number)) {
                    assert_eq!(decision(machine, *audit, other, [7; 6]), ALLOW, "{other}");
                }
            }
            assert_eq!(decision(machine, 0x1234, 1, [0; 6]), KILL_PROCESS);
        }
    }
}
