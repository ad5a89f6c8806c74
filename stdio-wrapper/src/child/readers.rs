//! Measures the memory of children on threads of its own. A process can hold up the thread that measures it for as long
//! as it likes, because the kernel needs a lock for this that the process also takes when it changes its mappings.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::parts::Part;
use super::procfs::{Process, Sizes, proportional};

/// The usual maximum time for one child: a constant, and the time for each MiB that its processes seem to have. The
/// kernel usually needs an eighth of it.
const USUAL: Duration = Duration::from_millis(20);
const USUAL_FOR_MIB: Duration = Duration::from_micros(100);
/// Maximum time for which one child delays the others.
const MAX_DELAY: Duration = Duration::from_millis(100);
/// A child that takes longer than this number of usual maximum times is late.
const LATE: u32 = 10;
/// After a measurement, a child is not measured again for this number of times as long as the measurement took.
/// Therefore at most a quarter of the time of a processor is spent on one child.
const PAUSE_FACTOR: u32 = 3;
/// Maximum number of threads. Each child occupies at most one of them.
const MAX_READERS: usize = 8;

/// Called with the number of a child that has been measured.
pub(super) type Publish = Arc<dyn Fn(u64, Part) + Send + Sync>;

/// The last measurement of each child with several processes.
#[derive(Debug)]
pub(super) struct Readers {
    all: Arc<Mutex<HashMap<u64, Reader>>>,
    /// Reads the memory of a process, see [`Part::of`].
    proportional: fn(i32) -> Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Reader {
    began: Instant,
    /// `None` while the thread runs.
    took: Option<Duration>,
    /// Whether a measurement of the child has ever taken unusually long. Others then do not wait for it again.
    is_slow: bool,
}

enum Step {
    Measure,
    /// The last measurement has not ended for a long time.
    Late,
    Wait,
}

impl Default for Readers {
    fn default() -> Self {
        Self { all: Arc::default(), proportional }
    }
}

impl Readers {
    /// Measures children and calls `publish` for each as soon as its memory is known. A child that takes unusually long
    /// is published later. While it is late, it counts as if its processes shared nothing, so that no child gains anything
    /// by holding up its measurement. If the children share nothing, this is how all of them count.
    pub(super) fn measure(&self, children: HashMap<u64, Sizes>, is_shared: bool, publish: &Publish) {
        self.all().retain(|number, reader| reader.took.is_none() || children.contains_key(number));
        let mut several = Vec::new();
        for (number, sizes) in children {
            let processes: Vec<Process> = sizes.into_keys().collect();
            let unshared = Part::unshared(&processes);
            // A single process shares its pages with no other process of the child.
            if is_shared && processes.len() > 1 {
                let is_slow = self.all().get(&number).is_some_and(|reader| reader.is_slow);
                several.push((is_slow, number, processes, unshared));
            } else {
                publish(number, unshared);
            }
        }
        several.sort_unstable_by_key(|(is_slow, _, _, unshared)| (*is_slow, Reverse(unshared.anonymous)));
        for (is_slow, number, processes, unshared) in several {
            let usual = usual(&unshared);
            match self.next_step(number, usual) {
                Step::Measure => {
                    let delay = if is_slow { Duration::ZERO } else { usual.min(MAX_DELAY) };
                    self.read(number, processes, Arc::clone(publish), delay);
                }
                Step::Late => publish(number, unshared),
                Step::Wait => {}
            }
        }
    }

    /// Decides what to do with a child. If it is to be measured, records that this has begun.
    fn next_step(&self, number: u64, usual: Duration) -> Step {
        let (mut all, now) = (self.all(), Instant::now());
        let before = all.get(&number).copied();
        match before {
            Some(Reader { took: None, began, .. }) if now.duration_since(began) > usual * LATE => Step::Late,
            Some(Reader { took: None, .. }) => Step::Wait,
            Some(Reader { took: Some(took), began, .. }) if now < began + took * (1 + PAUSE_FACTOR) => {
                Step::Wait
            }
            _ if all.values().filter(|reader| reader.took.is_none()).count() >= MAX_READERS => Step::Wait,
            _ => {
                let is_slow = before.is_some_and(|reader| reader.is_slow);
                all.insert(number, Reader { began: now, took: None, is_slow });
                Step::Measure
            }
        }
    }

    /// Measures a child on a thread, and waits for it for at most `delay`.
    fn read(&self, number: u64, processes: Vec<Process>, publish: Publish, delay: Duration) {
        let (all, proportional) = (Arc::clone(&self.all), self.proportional);
        let (is_running, ended) = channel::<()>();
        let measure = move || {
            publish(number, Part::of(&processes, proportional));
            if let Some(reader) = lock(&all).get_mut(&number) {
                reader.took = Some(reader.began.elapsed());
            }
            drop(is_running);
        };
        if std::thread::Builder::new().name("measuring".to_owned()).spawn(measure).is_err() {
            // No more threads can be started now. The previous measurement remains.
            self.all().remove(&number);
        } else if ended.recv_timeout(delay) == Err(RecvTimeoutError::Timeout)
            && let Some(reader) = self.all().get_mut(&number)
        {
            reader.is_slow = true;
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<u64, Reader>> {
        lock(&self.all)
    }
}

fn lock(all: &Mutex<HashMap<u64, Reader>>) -> MutexGuard<'_, HashMap<u64, Reader>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

fn usual(unshared: &Part) -> Duration {
    let mib = u32::try_from(unshared.reported() >> 20).unwrap_or(u32::MAX);
    USUAL + USUAL_FOR_MIB * mib
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI32, Ordering};

    use super::*;
    use crate::child::procfs::stat;

    /// The process that holds up its measurement, until this is 0.
    static HOLDS_UP: AtomicI32 = AtomicI32::new(0);

    fn measured(pid: i32) -> Option<(u64, u64)> {
        while HOLDS_UP.load(Ordering::SeqCst) == pid {
            std::thread::sleep(Duration::from_millis(1));
        }
        stat(pid).map(|_| (1, 0))
    }

    #[test]
    fn a100_who_holds_up_the_measurement_delays_no_other_and_counts_as_if_it_shared_nothing() {
        let mut sleeping: Vec<_> =
            (0..2).map(|_| std::process::Command::new("sleep").arg("100").spawn().unwrap()).collect();
        let pids: Vec<i32> = sleeping.iter().map(|one| i32::try_from(one.id()).unwrap()).collect();
        let process = |pid: i32| stat(pid).unwrap().process(pid);
        // The first process and this one are a child, and the second one and this one are another.
        let own = i32::try_from(std::process::id()).unwrap();
        let sizes = |pid| Sizes::from([(process(pid), 0), (process(own), 0)]);
        let children = HashMap::from([(1, sizes(pids[0])), (2, sizes(pids[1]))]);
        let published: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
        let record = Arc::clone(&published);
        let publish: Publish =
            Arc::new(move |number, part: Part| record.lock().unwrap().push((number, part.anonymous)));
        let readers = Readers { proportional: measured, ..Readers::default() };
        let measure = || {
            readers.measure(children.clone(), true, &publish);
            let mut published = std::mem::take(&mut *published.lock().unwrap());
            published.sort_unstable();
            published
        };
        HOLDS_UP.store(pids[0], Ordering::SeqCst);
        let (begun, first) = (Instant::now(), measure());
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert_eq!(first, [(2, 2)], "only the other child has been measured");
        let running = || readers.all().values().filter(|reader| reader.took.is_none()).count();
        let mut second = Vec::new();
        while second.iter().all(|(number, _)| *number != 1) {
            assert!(begun.elapsed() < Duration::from_secs(30), "the child is never late: {second:?}");
            std::thread::sleep(Duration::from_millis(50));
            second = measure();
        }
        assert!(second[0].1 > 1 << 20, "{second:?}");
        assert_eq!((running(), readers.all()[&1].is_slow), (1, true), "only one thread waits");
        HOLDS_UP.store(0, Ordering::SeqCst);
        while running() > 0 || !published.lock().unwrap().contains(&(1, 2)) {
            assert!(begun.elapsed() < Duration::from_secs(60), "{published:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        for one in &mut sleeping {
            one.kill().unwrap();
            one.wait().unwrap();
        }
    }

    #[test]
    fn a_child_is_measured_for_at_most_a_quarter_of_the_time_and_by_a_few_threads() {
        let readers = Readers::default();
        let step = |number| readers.next_step(number, Duration::from_millis(20));
        assert!(matches!(step(1), Step::Measure) && matches!(step(1), Step::Wait));
        let now = Instant::now();
        let ago = |time| now.checked_sub(Duration::from_millis(time)).unwrap();
        let set = |began, took| {
            let took = (took > 0).then(|| Duration::from_millis(took));
            readers.all().insert(1, Reader { began: ago(began), took, is_slow: true });
        };
        set(300, 0);
        assert!(matches!(step(1), Step::Late));
        set(3900, 1000);
        assert!(matches!(step(1), Step::Wait));
        set(4000, 1000);
        assert!(matches!(step(1), Step::Measure) && readers.all()[&1].is_slow);
        let begun = (2..20).filter(|number| matches!(step(*number), Step::Measure)).count();
        assert_eq!(begun, MAX_READERS - 1);
    }

    #[test]
    fn children_without_shared_memory_count_with_what_the_kernel_reports() {
        let own = i32::try_from(std::process::id()).unwrap();
        let one = Sizes::from([(stat(own).unwrap().process(own), 0)]);
        let several = Sizes::from([(stat(1).unwrap().process(1), 0), (stat(own).unwrap().process(own), 0)]);
        let published: Arc<Mutex<Vec<u64>>> = Arc::default();
        let record = Arc::clone(&published);
        let publish: Publish = Arc::new(move |number, _| record.lock().unwrap().push(number));
        let readers = Readers { proportional: |_| None, ..Readers::default() };
        readers.measure(HashMap::from([(1, several)]), false, &publish);
        readers.measure(HashMap::from([(2, one)]), true, &publish);
        assert_eq!(*published.lock().unwrap(), [1, 2]);
        assert!(readers.all().is_empty(), "no thread is needed");
    }
}
