//! The limits of the control group of this process and of its ancestors. Both versions of control groups in
//! Linux are supported: version 2 with one directory for all resources (`cgroup-v2.rst`), and version 1 with
//! one directory for each resource.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use super::{Bound, Bounds, Kinds, Measure};

const ROOT: &str = "/sys/fs/cgroup";
/// Version 1 reports a number of at least this size if there is no limit.
const NO_LIMIT: u64 = 1 << 60;

/// The directories with the limits and usages, from the group of this process up to the root.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ControlGroup {
    memory: Vec<PathBuf>,
    tasks: Vec<PathBuf>,
    /// The names of the files.
    names: &'static Names,
}

#[derive(Debug, PartialEq, Eq)]
struct Names {
    most_memory: &'static str,
    used_memory: &'static str,
    /// Entries of `memory.stat` for memory that the kernel frees when memory is short.
    reclaimable: &'static [&'static str],
    /// Entries of `memory.stat` for [`Kinds`].
    anonymous: &'static str,
    in_files: &'static str,
    page_tables: Place,
}

/// Where the kernel reports a value.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// An entry of `memory.stat`.
    Entry(&'static str),
    /// A file with only this value.
    File(&'static str),
}

const V2: Names = Names {
    most_memory: "memory.max",
    used_memory: "memory.current",
    reclaimable: &["active_file", "inactive_file", "slab_reclaimable"],
    anonymous: "anon",
    in_files: "shmem",
    page_tables: Place::Entry("pagetables"),
};
const V1: Names = Names {
    most_memory: "memory.limit_in_bytes",
    used_memory: "memory.usage_in_bytes",
    reclaimable: &["total_active_file", "total_inactive_file"],
    anonymous: "total_rss",
    in_files: "total_shmem",
    // Version 1 reports only the sum of all memory of the kernel.
    page_tables: Place::File("memory.kmem.usage_in_bytes"),
};

impl ControlGroup {
    pub(super) fn own() -> Self {
        Self::of(&read_to_string("/proc/self/cgroup").unwrap_or_default(), Path::new(ROOT))
    }

    /// The group from the content of `/proc/PID/cgroup` (`cgroups(7)`): `0::/path` in version 2,
    /// `NUMBER:memory:/path` in version 1.
    fn of(text: &str, root: &Path) -> Self {
        let path_of = |controller: &str| {
            text.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers.split(',').any(|name| name == controller).then_some(path)
            })
        };
        let version_1 = |controller: &str| {
            path_of(controller).map(|path| upwards(&root.join(controller), path)).unwrap_or_default()
        };
        let (memory, tasks) = (version_1("memory"), version_1("pids"));
        if !memory.is_empty() || !tasks.is_empty() {
            return Self { memory, tasks, names: &V1 };
        }
        let all = path_of("").map(|path| upwards(root, path)).unwrap_or_default();
        Self { memory: all.clone(), tasks: all, names: &V2 }
    }

    pub(super) fn has_limits(&self) -> bool {
        self.bounds() != Bounds::default()
    }

    /// For each resource, the limit with the least capacity left, among those of this group and its ancestors.
    pub(super) fn bounds(&self) -> Bounds {
        Bounds { memory: self.bound(Measure::Memory), tasks: self.bound(Measure::Tasks) }
    }

    /// The limit on this resource with the least capacity left.
    pub(super) fn bound(&self, measure: Measure) -> Option<Bound> {
        match measure {
            Measure::Memory => tightest(&self.memory, &|directory| self.memory_in(directory)),
            Measure::Tasks => {
                tightest(&self.tasks, &|directory| bound(directory, "pids.max", "pids.current"))
            }
        }
    }

    /// The memory values of the group whose limit has the least memory left.
    pub(super) fn kinds(&self) -> Kinds {
        let left = |directory: &&PathBuf| {
            let bound = self.memory_in(directory)?;
            Some(bound.most.saturating_sub(bound.used))
        };
        let tightest = self.memory.iter().filter_map(|directory| Some((left(&directory)?, directory))).min();
        let Some((_, directory)) = tightest else { return Kinds::UNKNOWN };
        let text = statistics(directory);
        let entry = |wanted: &str| entries(&text).find(|(name, _)| *name == wanted).map(|(_, number)| number);
        let page_tables = match self.names.page_tables {
            Place::Entry(name) => entry(name),
            Place::File(name) => number_in(directory, name),
        };
        Kinds {
            anonymous: entry(self.names.anonymous).unwrap_or(u64::MAX),
            in_files: entry(self.names.in_files).unwrap_or(u64::MAX),
            page_tables: page_tables.unwrap_or(u64::MAX),
        }
    }

    fn memory_in(&self, directory: &Path) -> Option<Bound> {
        let bound = bound(directory, self.names.most_memory, self.names.used_memory)?;
        let text = statistics(directory);
        let reclaimable = entries(&text).filter(|(name, _)| self.names.reclaimable.contains(name));
        let reclaimable: u64 = reclaimable.map(|(_, number)| number).sum();
        Some(Bound { used: bound.used.saturating_sub(reclaimable), ..bound })
    }
}

fn statistics(directory: &Path) -> String {
    read_to_string(directory.join("memory.stat")).unwrap_or_default()
}

fn entries(text: &str) -> impl Iterator<Item = (&str, u64)> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(name, number)| Some((name, number.trim().parse::<u64>().ok()?)))
}

fn tightest(directories: &[PathBuf], read: &dyn Fn(&Path) -> Option<Bound>) -> Option<Bound> {
    let found = directories.iter().filter_map(|directory| read(directory));
    found.min_by_key(|bound| bound.most.saturating_sub(bound.used))
}

/// The directories of a group and of its ancestors. The path can start above the part that a container can see,
/// so directories that do not exist are skipped.
fn upwards(root: &Path, path: &str) -> Vec<PathBuf> {
    let group = root.join(path.trim_start_matches('/'));
    let ancestors = group.ancestors().take_while(|directory| directory.starts_with(root));
    ancestors.filter(|directory| directory.is_dir()).map(Path::to_path_buf).collect()
}

/// Reads a limit. Returns `None` if it is `max`, or if there is no limit.
fn bound(directory: &Path, most: &str, used: &str) -> Option<Bound> {
    let most = number_in(directory, most).filter(|most| *most < NO_LIMIT)?;
    Some(Bound { most, used: number_in(directory, used)? })
}

fn number_in(directory: &Path, name: &str) -> Option<u64> {
    read_to_string(directory.join(name)).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};

    use super::*;

    fn group(root: &Path, path: &str, files: &[(&str, &str)]) {
        create_dir_all(root.join(path)).unwrap();
        for (name, text) in files {
            write(root.join(path).join(name), format!("{text}\n")).unwrap();
        }
    }

    #[test]
    fn version_2_counts_what_is_not_given_back_and_the_tightest_of_all_groups_above() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        group(root, "pod", &[("memory.max", "1000"), ("memory.current", "900"), ("pids.max", "max")]);
        group(
            root,
            "pod/own",
            &[
                ("memory.max", "800"),
                ("memory.current", "700"),
                (
                    "memory.stat",
                    "anon 100\nshmem 7\npagetables 3\nactive_file 200\ninactive_file 150\nslab_reclaimable 50",
                ),
                ("pids.max", "256"),
                ("pids.current", "12"),
            ],
        );
        let found = ControlGroup::of("0::/pod/own\n", root).bounds();
        assert_eq!(found.memory, Some(Bound { most: 1000, used: 900 }));
        assert_eq!(found.tasks, Some(Bound { most: 256, used: 12 }));
        write(root.join("pod/memory.current"), "100").unwrap();
        let found = ControlGroup::of("0::/pod/own\n", root).bounds();
        assert_eq!(found.memory, Some(Bound { most: 800, used: 300 }));
        let kinds = Kinds { anonymous: 100, in_files: 7, page_tables: 3 };
        assert_eq!(ControlGroup::of("0::/pod/own\n", root).kinds(), kinds);
    }

    #[test]
    fn a_container_that_does_not_see_its_own_name_finds_its_limits_at_the_root() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        group(root, "memory", &[("memory.limit_in_bytes", "1000"), ("memory.usage_in_bytes", "10")]);
        group(root, "pids", &[("pids.max", "9"), ("pids.current", "3")]);
        let text = "9:name=systemd:/\n8:pids:/docker/a1\n4:cpu,memory:/docker/a1\n0::/\n";
        let found = ControlGroup::of(text, root).bounds();
        assert_eq!(found.memory, Some(Bound { most: 1000, used: 10 }));
        assert_eq!(found.tasks, Some(Bound { most: 9, used: 3 }));
        assert_eq!(ControlGroup::of(text, root).kinds(), Kinds::UNKNOWN);
        write(root.join("memory/memory.stat"), "rss 1\ntotal_rss 20\ntotal_shmem 30\n").unwrap();
        write(root.join("memory/memory.kmem.usage_in_bytes"), "40\n").unwrap();
        let kinds = Kinds { anonymous: 20, in_files: 30, page_tables: 40 };
        assert_eq!(ControlGroup::of(text, root).kinds(), kinds);
    }

    #[test]
    fn no_limit_is_none() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(!ControlGroup::of("", root).has_limits());
        assert!(!ControlGroup::of("0::/gone\n", root).has_limits());
        group(
            root,
            "memory/x",
            &[("memory.limit_in_bytes", "9223372036854771712"), ("memory.usage_in_bytes", "10")],
        );
        assert!(!ControlGroup::of("4:memory:/x\n", root).has_limits());
        group(root, "y", &[("memory.max", "max"), ("memory.current", "1"), ("pids.max", "max")]);
        assert!(!ControlGroup::of("0::/y\n", root).has_limits());
    }
}
