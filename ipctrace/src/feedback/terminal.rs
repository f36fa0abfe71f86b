//! Who shows a terminal: the process that holds the other side of its pair, and, as that may write to a terminal in turn
//! (tmux, screen, script, sudo), the process that shows that one.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::stat::{SFlag, fstat, major, minor};

/// Numbers of the devices /dev/pts/…, `UNIX98_PTY_SLAVE_MAJOR` in include/uapi/linux/major.h: 256 terminals each.
const SLAVES: std::ops::Range<u64> = 136..144;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Those who show the terminal, by pid.
    pub(super) processes: HashSet<u32>,
    /// The terminals themselves, by their index in /dev/pts.
    pub(super) terminals: HashSet<u64>,
    /// Inodes of their sockets.
    pub(super) sockets: HashSet<u64>,
}

/// What a process holds that matters here.
#[derive(Debug, Default)]
struct Held {
    /// Terminals that it shows, by their index in /dev/pts.
    masters: HashSet<u64>,
    /// Terminals that it can write to.
    slaves: HashSet<u64>,
    sockets: HashSet<u64>,
}

/// Those who show the terminal that a descriptor is; nobody if it is none, or a console.
pub(super) fn emulators(descriptor: impl AsFd) -> Found {
    let index = fstat(descriptor).ok().and_then(|status| {
        let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
        (kind == SFlag::S_IFCHR).then_some(status.st_rdev).and_then(slave)
    });
    match index {
        Some(index) => follow(index, &shown(Path::new("/proc"))),
        None => Found::default(),
    }
}

/// The index of a terminal by its device number.
fn slave(device: u64) -> Option<u64> {
    let major = major(device);
    SLAVES.contains(&major).then(|| (major - SLAVES.start) * 256 + minor(device))
}

/// From the terminal to who shows it, and on from there.
fn follow(index: u64, held: &HashMap<u32, Held>) -> Found {
    let mut found = Found::default();
    let mut seen = HashSet::from([index]);
    let mut left = vec![index];
    while let Some(index) = left.pop() {
        for (pid, held) in held.iter().filter(|(_, held)| held.masters.contains(&index)) {
            found.processes.insert(*pid);
            found.sockets.extend(&held.sockets);
            left.extend(held.slaves.iter().filter(|slave| seen.insert(**slave)));
        }
    }
    found.terminals = seen;
    found
}

/// The processes that show terminals. Instances of devpts are not told apart: a terminal of another one with the same
/// number costs a little of what is shown.
fn shown(proc: &Path) -> HashMap<u32, Held> {
    let pids = fs::read_dir(proc).into_iter().flatten().filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.parse::<u32>().ok()
    });
    let held = pids.map(|pid| (pid, look(&proc.join(pid.to_string()))));
    held.filter(|(_, held)| !held.masters.is_empty()).collect()
}

/// What is behind the descriptors of a process; nothing of one that has ended.
fn look(process: &Path) -> Held {
    let mut held = Held::default();
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        let Ok(target) = fs::read_link(entry.path()) else { continue };
        let Some(target) = target.to_str() else { continue };
        if let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) {
            held.sockets.extend(inode.parse::<u64>());
        } else if target.ends_with("/ptmx") {
            let info = fs::read_to_string(process.join("fdinfo").join(entry.file_name()));
            held.masters.extend(info.ok().as_deref().and_then(master));
        } else if let Some((_, index)) = target.rsplit_once("/pts/") {
            held.slaves.extend(index.parse::<u64>());
        }
    }
    held
}

/// `tty-index:` of /proc/PID/fdinfo/FD, proc(5).
fn master(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("tty-index:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(masters: &[u64], slaves: &[u64], sockets: &[u64]) -> Held {
        let set = |list: &[u64]| list.iter().copied().collect();
        Held { masters: set(masters), slaves: set(slaves), sockets: set(sockets) }
    }

    #[test]
    fn it_is_followed_from_terminal_to_terminal() {
        let processes = HashMap::from([
            // tmux shows terminals 5 and 6 on terminal 1, that an emulator shows; another one is beside.
            (10, held(&[5, 6], &[1], &[])),
            (20, held(&[1], &[], &[52])),
            (30, held(&[2], &[], &[53])),
        ]);
        let found = follow(5, &processes);
        let expected = Found {
            processes: HashSet::from([10, 20]),
            terminals: HashSet::from([5, 1]),
            sockets: HashSet::from([52]),
        };
        assert_eq!(found, expected);
        assert_eq!(follow(9, &processes), Found { terminals: HashSet::from([9]), ..Found::default() });
    }

    #[test]
    fn devices_have_indices() {
        let device = |major, minor| nix::sys::stat::makedev(major, minor);
        assert_eq!(slave(device(136, 3)), Some(3));
        assert_eq!(slave(device(137, 3)), Some(259));
        assert_eq!(slave(device(4, 1)), None, "a console");
        assert_eq!(master("pos:\t0\nflags:\t02\ntty-index:\t7\n"), Some(7));
    }

    #[test]
    fn our_own_terminal_is_shown_by_us() {
        let nix::pty::OpenptyResult { master: _master, slave } = nix::pty::openpty(None, None).unwrap();
        assert!(emulators(&slave).processes.contains(&std::process::id()));
        assert_eq!(emulators(fs::File::open("/dev/null").unwrap()), Found::default());
    }
}
