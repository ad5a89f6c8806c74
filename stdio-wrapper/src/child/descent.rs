//! Finds out which child started a process, by following the parents of the process. The child's supervisor is
//! among them while it runs.

use std::collections::HashMap;

use tokio::time::Instant;

use super::procfs::{Process, Sizes, Stat, processes, stat, usage_of};
use super::recent_tasks::RecentTasks;
use super::times::{Ledger, Spent, Works};
use crate::capacity::Usage;

/// Maximum number of ancestors that are examined.
const MAX_STEPS: usize = 64;

/// The known descendants of children, and the processes that existed before the first child.
#[derive(Debug, Default)]
pub(super) struct Descent {
    /// For each process, the number of the child that it descends from.
    known: HashMap<Process, u64>,
    /// The processor time and page faults of each child, including its supervisor.
    ledgers: HashMap<u64, Ledger<Process>>,
    recent_tasks: RecentTasks,
    /// Whether this process already had children when it became the wrapper. This happens when a script starts
    /// a program and then runs the wrapper with `exec`.
    has_inherited: bool,
}

/// The number that stands for processes that existed before the first child.
pub(super) const INHERITED: u64 = 0;

impl Descent {
    /// Records the processes that exist before the first child.
    pub(super) fn inherit(&mut self, pids: impl Iterator<Item = i32>) {
        let found = pids.filter_map(|pid| Some((stat(pid)?.process(pid), INHERITED)));
        self.known.extend(found);
        self.has_inherited = !self.known.is_empty();
    }

    /// Whether processes existed before the first child. If so, an orphan might descend from one of them.
    pub(super) fn has_inherited(&self) -> bool {
        self.has_inherited
    }

    /// Examines all processes. `children` maps the number of each child to the process id of its supervisor.
    pub(super) fn look(&mut self, children: &HashMap<u64, i32>) {
        let all: HashMap<i32, Stat> = processes();
        let roots: HashMap<i32, u64> = children.iter().map(|(number, pid)| (*pid, *number)).collect();
        let known = std::mem::take(&mut self.known);
        for (pid, stat) in &all {
            let process = stat.process(*pid);
            let mut number = known.get(&process).copied();
            let mut at = stat.parent;
            for _ in 0..MAX_STEPS {
                if number.is_some() {
                    break;
                }
                let Some(parent) = all.get(&at) else { break };
                number = roots.get(&at).or_else(|| known.get(&parent.process(at))).copied();
                at = parent.parent;
            }
            if let Some(number) = number.filter(|_| !roots.contains_key(pid)) {
                self.known.insert(process, number);
            }
        }
        self.record_work(children, &all);
    }

    fn record_work(&mut self, children: &HashMap<u64, i32>, all: &HashMap<i32, Stat>) {
        let now = Instant::now();
        self.ledgers.retain(|number, _| children.contains_key(number));
        let own = children.iter().map(|(number, pid)| (*number, *pid));
        let started = self.known.iter().map(|(process, number)| (*number, process.pid));
        let mut found: HashMap<u64, HashMap<Process, Works>> = HashMap::new();
        for (number, pid) in own.chain(started).filter(|(number, _)| children.contains_key(number)) {
            if let Some(stat) = all.get(&pid) {
                found.entry(number).or_default().insert(stat.process(pid), stat.works);
            }
        }
        for (number, works) in found {
            self.ledgers.entry(number).or_insert_with(|| Ledger::new(now)).look(works, now);
        }
    }

    /// The processor time and page faults that each child had used by the last scan.
    pub(super) fn spent(&self) -> HashMap<u64, Spent> {
        self.ledgers.iter().map(|(number, ledger)| (*number, ledger.spent())).collect()
    }

    /// The usage of each child, including all its descendants that the last scan found, and the size of each of these
    /// descendants. The number of tasks is the largest of the last second.
    pub(super) fn usage(
        &mut self,
        children: &HashMap<u64, i32>,
    ) -> (HashMap<u64, Usage>, HashMap<u64, Sizes>) {
        let own = children.iter().map(|(number, pid)| (*number, *pid, None));
        let started = self.known.iter().map(|(process, number)| (*number, process.pid, Some(*process)));
        let mut all: HashMap<u64, Usage> = HashMap::new();
        let mut sizes: HashMap<u64, Sizes> = HashMap::new();
        for (number, pid, started) in own.chain(started).filter(|(number, ..)| children.contains_key(number))
        {
            let sum = all.entry(number).or_default();
            // A process that has exited since the scan still counts as a task, because a child that keeps starting
            // processes that exit immediately has started others since then.
            let usage = usage_of(pid).unwrap_or(Usage { tasks: 1, ..Usage::default() });
            sum.memory += usage.memory;
            sum.in_files += usage.in_files;
            sum.in_kernel += usage.in_kernel;
            sum.tasks += usage.tasks;
            sum.processes += 1;
            if let Some(process) = started {
                sizes.entry(number).or_default().insert(process, usage.anonymous());
            }
        }
        let now = Instant::now();
        self.recent_tasks.retain(|number| children.contains_key(&number));
        for (number, usage) in &mut all {
            usage.faults = self.ledgers.get(number).map_or(0, |ledger| ledger.spent().faults);
            usage.tasks = self.recent_tasks.record(*number, usage.tasks, now);
        }
        (all, sizes)
    }

    /// The processes of each child that the last scan found, without its supervisor.
    pub(super) fn processes(&self, children: &HashMap<u64, i32>) -> HashMap<u64, Vec<i32>> {
        let mut processes: HashMap<u64, Vec<i32>> = HashMap::new();
        for (process, number) in self.known.iter().filter(|(_, number)| children.contains_key(*number)) {
            processes.entry(*number).or_default().push(process.pid);
        }
        processes
    }

    /// The number of the child that has started a process, directly or indirectly.
    pub(super) fn owner(&self, pid: i32) -> Option<u64> {
        self.known.get(&stat(pid)?.process(pid)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_takes_what_its_own_children_take() {
        let mut shell =
            std::process::Command::new("sh").args(["-c", "sleep 100 & sleep 100"]).spawn().unwrap();
        let pid = i32::try_from(shell.id()).unwrap();
        let children = HashMap::from([(5, pid)]);
        let mut descent = Descent::default();
        for _ in 0..400 {
            descent.look(&children);
            let usage = descent.usage(&children).0.get(&5).copied();
            if usage.is_some_and(|usage| usage.tasks == 3 && usage.memory > 0) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        let usage = descent.usage(&children).0[&5];
        assert!(usage.tasks == 3 && usage.memory > 0, "{usage:?}");
        assert!(usage.in_kernel > 0 && usage.anonymous() > 0, "all three have page tables: {usage:?}");
        end(&descent, &mut shell);
    }

    /// Kills a shell and all processes that it has started.
    fn end(descent: &Descent, shell: &mut std::process::Child) {
        for process in descent.known.keys() {
            let _ = rustix::process::kill_process(
                rustix::process::Pid::from_raw(process.pid).unwrap(),
                rustix::process::Signal::KILL,
            );
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a100_processes_that_have_exited_meanwhile_count_for_a_second() {
        let mut shell =
            std::process::Command::new("sh").args(["-c", "sleep 100 & sleep 100 & wait"]).spawn().unwrap();
        let children = HashMap::from([(5, i32::try_from(shell.id()).unwrap())]);
        let mut descent = Descent::default();
        for _ in 0..400 {
            descent.look(&children);
            if descent.known.len() == 2 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        let known = descent.known.clone();
        end(&descent, &mut shell);
        // Waits until the shell, or the process that adopts its children, has reaped them.
        while known
            .keys()
            .any(|process| stat(process.pid).is_some_and(|now| now.process(process.pid) == *process))
        {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let tasks = |descent: &mut Descent| descent.usage(&children).0[&5].tasks;
        assert_eq!(tasks(&mut descent), 3, "two of them and the shell existed at the time of the scan");
        descent.look(&children);
        assert_eq!((tasks(&mut descent), descent.known.len()), (3, 0));
    }

    #[test]
    fn a_process_is_known_by_its_ancestor_and_forgotten_when_it_ends() {
        let mut sleep = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let pid = i32::try_from(sleep.id()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let mut descent = Descent::default();
        descent.look(&HashMap::from([(5, own)]));
        assert_eq!((descent.owner(pid), descent.owner(own)), (Some(5), None));
        // The descendant is still attributed to the child after the child has exited.
        descent.look(&HashMap::new());
        assert_eq!(descent.owner(pid), Some(5));
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        descent.look(&HashMap::new());
        assert_eq!(descent.owner(pid), None);
    }
}
