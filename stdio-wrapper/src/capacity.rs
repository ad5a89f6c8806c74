//! Computes how many more children fit into the container, from the limits of its control group, their current
//! usage, and the usage of the running children. In a full container, the kernel kills processes or refuses new
//! threads, which affects all users. Therefore further children are refused before the container is full.

mod control_group;
mod typical;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use control_group::ControlGroup;

/// The assumed usage of a child until one has run for [`SETTLED`]. It is approximately the usage of a Node
/// server with its supervisor.
pub(crate) const ASSUMED: Usage =
    Usage { memory: 48 << 20, in_files: 0, tasks: 9, processes: 0, in_kernel: 0, faults: 0 };
/// Time after which a child is assumed to have reached its usual size.
const SETTLED: Duration = Duration::from_secs(3);
/// 1/`FREE` of each limit is kept free for the wrapper and for children that grow.
const FREE: u64 = 8;
/// [`Load::unaccounted`] is 1/`UNACCOUNTED` of the limit.
const UNACCOUNTED: u64 = 16;
/// The minimum that is kept free in a container of any size.
const LEAST_FREE: Usage =
    Usage { memory: 32 << 20, in_files: 0, tasks: 16, processes: 0, in_kernel: 0, faults: 0 };

/// The usage of a child, including its supervisor and the processes that it has started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory that is not backed by a file on disk, in bytes.
    pub memory: u64,
    /// The part of `memory` that belongs to files in memory.
    pub in_files: u64,
    /// The part of `memory` that the kernel uses on behalf of the processes, such as page tables. The rest is
    /// anonymous.
    pub in_kernel: u64,
    /// Number of processes and threads.
    pub tasks: u64,
    /// Number of processes.
    pub processes: u64,
    /// Page faults of all processes since the start of the child, including those of processes that have exited.
    pub faults: u64,
}

impl Usage {
    /// Memory that belongs to no file, in bytes.
    pub fn anonymous(&self) -> u64 {
        self.memory.saturating_sub(self.in_files + self.in_kernel)
    }

    /// Adds memory of files in memory, in bytes.
    pub fn add_in_files(&mut self, bytes: u64) {
        self.memory = self.memory.saturating_add(bytes);
        self.in_files = self.in_files.saturating_add(bytes);
    }

    /// Adds memory, in bytes, that the kernel uses on behalf of the processes.
    pub fn add_in_kernel(&mut self, bytes: u64) {
        self.memory = self.memory.saturating_add(bytes);
        self.in_kernel = self.in_kernel.saturating_add(bytes);
    }
}

/// The memory values of the control group, in bytes. Each page counts once, even if several processes share it.
/// A value that the kernel does not report is the maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kinds {
    /// Memory of processes that belongs to no file.
    pub anonymous: u64,
    /// Memory of files that are stored only in memory.
    pub in_files: u64,
    /// The maximum that the page tables of processes take.
    pub page_tables: u64,
}

impl Kinds {
    /// The values if the kernel reports none.
    pub const UNKNOWN: Self = Self { anonymous: u64::MAX, in_files: u64::MAX, page_tables: u64::MAX };
}

/// A resource of the container that can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// The memory of the container, in bytes.
    Memory,
    /// The number of processes and threads in the container.
    Tasks,
}

impl Measure {
    /// Both measures, in the order in which shortages are resolved.
    pub const ALL: [Self; 2] = [Self::Memory, Self::Tasks];

    /// The part of a usage to which this measure applies.
    pub fn of(self, usage: &Usage) -> u64 {
        match self {
            Self::Memory => usage.memory,
            Self::Tasks => usage.tasks,
        }
    }

    /// The part of a limit that is kept free.
    fn kept_free(self, most: u64) -> u64 {
        (most / FREE).max(self.of(&LEAST_FREE))
    }

    /// The part of a limit that the wrapper itself can use before children are stopped: three quarters of the part that
    /// is kept free for it and for children that grow, which is what one account can make it use in the stack. The rest
    /// stays free, because the kernel kills a process when no memory is left. The wrapper has few threads, and their
    /// number does not depend on callers.
    fn of_wrapper(self, most: u64) -> u64 {
        match self {
            Self::Memory => self.kept_free(most) / 4 * 3,
            Self::Tasks => 0,
        }
    }

    /// The part of a limit that must stay free even when children have grown. For processes, this is half of
    /// the part that is kept free, because many servers start a process for each call. When no process is left,
    /// the kernel only refuses the next one. When no memory is left, it kills a process.
    fn never_used(self, most: u64) -> u64 {
        match self {
            Self::Memory => self.kept_free(most),
            Self::Tasks => self.kept_free(most) / 2,
        }
    }
}

/// A limit, and how much of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The limit, in the unit of the measure.
    pub most: u64,
    /// How much of the limit is used.
    pub used: u64,
}

/// The current usage of a limited resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// How much of the limit is used.
    pub used: u64,
    /// By how much the usage exceeds the part of the limit that children can use. Zero if it does not. The usage of
    /// the wrapper itself counts only if it exceeds the wrapper's own part.
    pub over: u64,
    /// The usage that belongs to no process and is still normal, because the kernel needs memory for each
    /// process and connection: a sixteenth of the limit.
    pub unaccounted: u64,
}

/// The limits of the container. `None` means that there is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The memory of the container, in bytes.
    pub memory: Option<Bound>,
    /// The number of processes and threads in the container.
    pub tasks: Option<Bound>,
}

/// The limit that prevents another child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The memory of the container is too small.
    #[error(
        "This server has no free session: the memory of its container, {} MiB, leaves no room for another one, which needs about {} MiB. Try again later. Its operator can raise that limit (mem_limit), or set MAX_SESSIONS to decide without it.", most >> 20, each.div_ceil(1 << 20)
    )]
    Memory {
        /// The limit, in bytes.
        most: u64,
        /// The memory that a child needs, in bytes.
        each: u64,
    },
    /// The container allows too few processes and threads.
    #[error(
        "This server has no free session: the {most} processes and threads of its container leave no room for another one, which needs about {each}. Try again later. Its operator can raise that limit (pids_limit), or set MAX_SESSIONS to decide without it."
    )]
    Tasks {
        /// The limit, in the unit of the measure.
        most: u64,
        /// The processes and threads that a child needs.
        each: u64,
    },
}

/// How many more children fit, and the limit that determines this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Headroom {
    more: u64,
    limit: NoRoom,
}

/// Computes how many more children fit in addition to the given ones, each of which might grow to the size of a
/// `typical` one. Returns `None` if there are no limits.
fn headroom(bounds: &Bounds, children: &[Usage], typical: Usage) -> Option<Headroom> {
    let left = |bound: Bound, measure: Measure| {
        let each = measure.of(&typical).max(1);
        let growth: u64 = children.iter().map(|child| each.saturating_sub(measure.of(child))).sum();
        let taken = bound.used.saturating_add(growth).saturating_add(measure.kept_free(bound.most));
        (bound.most.saturating_sub(taken) / each, each)
    };
    let memory = bounds.memory.map(|bound| {
        let (more, each) = left(bound, Measure::Memory);
        Headroom { more, limit: NoRoom::Memory { most: bound.most, each } }
    });
    let tasks = bounds.tasks.map(|bound| {
        let (more, each) = left(bound, Measure::Tasks);
        Headroom { more, limit: NoRoom::Tasks { most: bound.most, each } }
    });
    memory.into_iter().chain(tasks).min_by_key(|headroom| headroom.more)
}

/// By how much the usage exceeds the part that children can use after they have grown. `own` is the usage of the
/// wrapper, which has a part of its own.
fn over(bound: Bound, measure: Measure, own: &Usage) -> u64 {
    let own = measure.of(own).min(measure.of_wrapper(bound.most));
    bound.used.saturating_sub(own).saturating_sub(bound.most.saturating_sub(measure.never_used(bound.most)))
}

/// Minimum memory that a child is assumed to need, in bytes.
const LEAST_MEMORY: u64 = 4 << 20;

/// Decides whether another child fits.
#[derive(Debug)]
pub struct Capacity {
    /// `None` if there are no limits, or if the operator has set the number of sessions.
    group: Option<ControlGroup>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When each child was first seen.
    since: HashMap<u64, Instant>,
    typical: Usage,
    /// The number of running children, plus those that were admitted since the last count.
    children: u64,
    /// `None` if there are no limits.
    headroom: Option<Headroom>,
    /// The number of admitted children that [`Capacity::look`] has not counted yet.
    starting: usize,
}

impl Capacity {
    /// A capacity without limits.
    pub fn unlimited() -> Self {
        Self::of(None)
    }

    /// The capacity of the container that this process runs in.
    pub fn of_container() -> Self {
        let group = ControlGroup::own();
        let capacity = Self::of(group.has_limits().then_some(group));
        capacity.look(&HashMap::new, Instant::now());
        capacity
    }

    fn of(group: Option<ControlGroup>) -> Self {
        let state =
            State { since: HashMap::new(), typical: ASSUMED, children: 0, headroom: None, starting: 0 };
        Self { group, state: Mutex::new(state) }
    }

    /// Whether the container has a limit that applies.
    pub fn is_limited(&self) -> bool {
        self.group.is_some()
    }

    /// Records the current usage, and returns it. `children` returns the usage of all running children by
    /// number. It is called while no child can be admitted, and not called if there are no limits.
    pub fn look(&self, children: &dyn Fn() -> HashMap<u64, Usage>, now: Instant) -> HashMap<u64, Usage> {
        let Some(group) = &self.group else { return HashMap::new() };
        let mut state = self.state();
        let usage = children();
        state.note(&group.bounds(), &usage, now);
        usage
    }

    /// Admits another child. The first child is always admitted, because otherwise no request could be served
    /// and the size of children would stay unknown. The result must be dropped once [`Capacity::look`] counts
    /// the child.
    pub fn take(&self) -> Result<Starting<'_>, NoRoom> {
        let mut state = self.state();
        let is_first = state.children == 0;
        if let Some(headroom) = &mut state.headroom {
            if headroom.more == 0 && !is_first {
                return Err(headroom.limit);
            }
            headroom.more = headroom.more.saturating_sub(1);
        }
        state.children += 1;
        state.starting += 1;
        Ok(Starting(self))
    }

    /// Returns how much of a limit is used now, or `None` if there is no limit. `own` is the usage of the wrapper. Reads
    /// a few files.
    pub fn load(&self, measure: Measure, own: &Usage) -> Option<Load> {
        let bound = self.group.as_ref().and_then(|group| group.bound(measure))?;
        let over = over(bound, measure, own);
        Some(Load { used: bound.used, over, unaccounted: bound.most / UNACCOUNTED })
    }

    /// How much memory can still be used until children might be stopped, in bytes. Returns `None` if there is no limit.
    pub fn room(&self) -> Option<u64> {
        let Bound { most, used } = self.group.as_ref()?.bound(Measure::Memory)?;
        Some(most.saturating_sub(Measure::Memory.never_used(most)).saturating_sub(used))
    }

    /// The current usage by kind of memory. Reads a few files.
    pub fn kinds(&self) -> Kinds {
        self.group.as_ref().map_or(Kinds::UNKNOWN, ControlGroup::kinds)
    }

    /// If there is no room for another child, returns the scarce resource, and how much of it each of this
    /// number of users can use: an equal share, but at least what `few` children need. Returns `None` if there
    /// is room.
    pub fn share(&self, users: usize, few: usize) -> Option<(Measure, u64)> {
        let state = self.state();
        let (measure, most) = match state.headroom.filter(|headroom| headroom.more == 0)?.limit {
            NoRoom::Memory { most, .. } => (Measure::Memory, most),
            NoRoom::Tasks { most, .. } => (Measure::Tasks, most),
        };
        Some((measure, typical::share(measure, most, state.typical, users, few)))
    }

    /// How much of a limited resource each of this number of users can use while it is scarce, as for
    /// [`Capacity::share`]. Without a limit, this is the maximum.
    pub fn share_of(&self, measure: Measure, users: usize, few: usize) -> u64 {
        let bound = self.group.as_ref().and_then(|group| group.bound(measure));
        bound.map_or(u64::MAX, |bound| typical::share(measure, bound.most, self.state().typical, users, few))
    }

    /// Whether another child would be admitted now.
    pub fn has_room(&self) -> bool {
        let state = self.state();
        state.children == 0 || state.headroom.is_none_or(|headroom| headroom.more > 0)
    }

    /// The number of children that would be admitted now. Returns `None` if there is no limit.
    pub fn more(&self) -> Option<usize> {
        self.state().headroom.map(|headroom| usize::try_from(headroom.more).unwrap_or(usize::MAX))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reservation for a child that is being started. Dropping it releases the reservation.
#[derive(Debug)]
pub struct Starting<'a>(&'a Capacity);

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.state().starting -= 1;
    }
}

impl State {
    fn note(&mut self, bounds: &Bounds, children: &HashMap<u64, Usage>, now: Instant) {
        self.since.retain(|number, _| children.contains_key(number));
        for number in children.keys() {
            self.since.entry(*number).or_insert(now);
        }
        let is_settled =
            |number: &u64| self.since.get(number).is_some_and(|since| now.duration_since(*since) >= SETTLED);
        let settled: Vec<Usage> =
            children.iter().filter(|(number, _)| is_settled(number)).map(|(_, usage)| *usage).collect();
        self.typical = typical::typical(self.typical, &settled);
        // A child that is being started uses nothing yet, and will grow to the size of the others.
        let starting = std::iter::repeat_n(Usage::default(), self.starting);
        let all: Vec<Usage> = children.values().copied().chain(starting).collect();
        self.headroom = headroom(bounds, &all, self.typical);
        self.children = all.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn bounds(memory: (u64, u64), tasks: (u64, u64)) -> Bounds {
        let bound = |(most, used): (u64, u64)| Some(Bound { most, used });
        Bounds { memory: bound((memory.0 * MIB, memory.1 * MIB)), tasks: bound(tasks) }
    }

    fn usage(memory: u64, tasks: u64) -> Usage {
        Usage { memory: memory * MIB, tasks, ..Usage::default() }
    }

    #[test]
    fn the_tighter_limit_counts_and_is_named() {
        // The limits of the compose file's container, with a Node server.
        let shipped = headroom(&bounds((1024, 30), (256, 10)), &[], usage(30, 7)).unwrap();
        assert_eq!(shipped.more, 28);
        assert!(shipped.limit.to_string().contains("1024 MiB"), "{}", shipped.limit);
        let threads = headroom(&bounds((1024, 30), (256, 10)), &[], usage(10, 11)).unwrap();
        assert_eq!((threads.more, threads.limit), (19, NoRoom::Tasks { most: 256, each: 11 }));
        assert_eq!(headroom(&Bounds::default(), &[], usage(30, 7)), None);
        let memory_only = Bounds { tasks: None, ..bounds((100, 0), (0, 0)) };
        assert_eq!(headroom(&memory_only, &[], usage(30, 1000)).unwrap().more, 2, "32 MiB must stay free");
        assert_eq!(headroom(&bounds((100, 200), (10, 20)), &[], usage(1, 1)).unwrap().more, 0);
    }

    #[test]
    fn a_child_that_has_just_started_counts_as_large_as_it_will_be() {
        let young = vec![usage(1, 1); 10];
        let grown = vec![usage(30, 7); 10];
        let tight = bounds((1024, 310), (1000, 0));
        assert_eq!(headroom(&tight, &grown, usage(30, 7)).unwrap().more, 19);
        assert_eq!(headroom(&bounds((1024, 20), (1000, 0)), &young, usage(30, 7)).unwrap().more, 19);
    }

    #[test]
    fn what_a_child_takes_is_learnt_from_those_that_have_their_size() {
        let capacity = Capacity::unlimited();
        let bounds = bounds((1024, 30), (4096, 0));
        let told = || capacity.more();
        let (start, later) = (Instant::now(), Instant::now() + SETTLED);
        capacity.state().note(&bounds, &HashMap::new(), start);
        assert_eq!(told(), Some(18), "48 MiB are assumed");
        let small = HashMap::from([(1, usage(10, 1)), (2, usage(10, 1))]);
        capacity.state().note(&bounds, &small, start);
        assert_eq!(told(), Some(16), "it is not known yet how large they become");
        let with_a_young_one = HashMap::from([(1, usage(10, 1)), (2, usage(10, 1)), (3, usage(1, 1))]);
        capacity.state().note(&bounds, &with_a_young_one, later);
        assert_eq!(told(), Some(85));
        capacity.state().note(&bounds, &HashMap::new(), later);
        assert_eq!(told(), Some(86), "the measured values are kept");
    }

    #[test]
    fn a_burst_gets_no_more_than_there_is_room_for_and_one_gets_in_always() {
        let capacity = Capacity::unlimited();
        assert!(capacity.take().is_ok() && capacity.more().is_none());
        capacity.state().note(&bounds((200, 0), (4096, 0)), &HashMap::new(), Instant::now());
        let let_in = (0..10).filter(|_| capacity.take().is_ok()).count();
        assert_eq!(let_in, 3);
        capacity.state().note(&bounds((60, 0), (4096, 0)), &HashMap::new(), Instant::now());
        assert_eq!((0..10).filter(|_| capacity.take().is_ok()).count(), 1);
    }

    #[test]
    fn a_look_in_the_middle_of_a_start_does_not_give_its_place_away() {
        let capacity = Capacity::unlimited();
        let look = || capacity.state().note(&bounds((90, 0), (4096, 0)), &HashMap::new(), Instant::now());
        look();
        let starting = capacity.take().unwrap();
        look();
        assert!(!capacity.has_room() && capacity.take().is_err());
        drop(starting);
        look();
        assert!(capacity.has_room() && capacity.take().is_ok());
    }

    #[test]
    fn a_few_processes_more_than_newcomers_may_use_are_no_excess_and_memory_is() {
        let bound = |most, used| Bound { most, used };
        let over = |bound, measure| over(bound, measure, &Usage::default());
        assert_eq!(over(bound(1024 * MIB, 896 * MIB), Measure::Memory), 0);
        assert_eq!(over(bound(1024 * MIB, 900 * MIB), Measure::Memory), 4 * MIB);
        assert_eq!(over(bound(256, 240), Measure::Tasks), 0);
        assert_eq!(over(bound(256, 256), Measure::Tasks), 16);
        assert_eq!(over(bound(60, 60), Measure::Tasks), 8);
    }

    #[test]
    fn a100_the_wrapper_may_use_its_part_of_the_reserve_before_a_child_is_stopped() {
        let over =
            |used, own| over(Bound { most: 1024 * MIB, used: used * MIB }, Measure::Memory, &usage(own, 9));
        assert_eq!(over(992, 96), 0);
        assert_eq!(over(992, 90), 6 * MIB);
        assert_eq!(over(1000, 150), 8 * MIB, "what exceeds the part counts");
        assert_eq!(over(896 + 16, 16), 0);
        assert_eq!(super::over(Bound { most: 256, used: 250 }, Measure::Tasks, &usage(1, 9)), 10);
    }

    #[test]
    fn what_is_short_is_known_with_the_share_of_each_only_while_there_is_no_room() {
        let capacity = Capacity::unlimited();
        let note =
            |tasks| capacity.state().note(&bounds((1024, 100), tasks), &HashMap::new(), Instant::now());
        note((256, 200));
        assert_eq!(capacity.share(2, 4), None);
        note((256, 216));
        assert_eq!(capacity.share(2, 4), Some((Measure::Tasks, 112)));
        assert_eq!(capacity.share(50, 4), Some((Measure::Tasks, 36)));
    }

    proptest! {
        #[test]
        fn what_is_let_in_fits(most in 1_u64..4096, used in 0_u64..4096, each in 1_u64..512, young in 0_u64..64) {
            let children = vec![usage(each / 2, 1); usize::try_from(young).unwrap()];
            let headroom = headroom(&bounds((most, used), (u64::MAX / 2, 0)), &children, usage(each, 1)).unwrap();
            let grown = used + young * (each - each / 2) + headroom.more * each;
            prop_assert!(headroom.more == 0 || grown <= most - most / 8);
        }
    }
}
