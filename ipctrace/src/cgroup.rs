//! Control groups: from the identity that the kernel's records carry to the path that users know, and back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Finds the path of a control group.
pub trait Cgroups {
    /// The path of the group with that identity, from the root of the unified hierarchy on, as `/proc/PID/cgroup` shows
    /// it (`/system.slice/ssh.service`, `/` for the root); `None` if there is none, or no more.
    fn path(&self, id: u64) -> Option<Rc<[u8]>>;
}

/// For a host without a unified hierarchy: no group has a path.
#[derive(Clone, Copy, Debug)]
pub struct NoHierarchy;

impl Cgroups for NoHierarchy {
    fn path(&self, _id: u64) -> Option<Rc<[u8]>> {
        None
    }
}

/// A control group that the user named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// Its identity.
    pub id: u64,
    /// Its path from the root of the unified hierarchy on: `/system.slice`.
    pub path: Vec<u8>,
}

impl Cgroup {
    /// Whether `path` is this group or one below it.
    pub fn contains(&self, path: &[u8]) -> bool {
        match path.strip_prefix(self.path.as_slice()) {
            Some(rest) => rest.is_empty() || rest.starts_with(b"/") || self.path == b"/",
            None => false,
        }
    }
}

/// The unified hierarchy (cgroup v2) as it is mounted on this machine.
#[derive(Debug)]
pub struct Hierarchy {
    root: PathBuf,
    /// Opened once: handles are opened relative to a mount.
    mount: File,
    /// Paths found. A group that is gone keeps its path: events about it may still be on their way.
    known: RefCell<HashMap<u64, Rc<[u8]>>>,
}

impl Hierarchy {
    /// Finds where the hierarchy is mounted.
    ///
    /// # Errors
    /// `NotFound` if it is not mounted; else what reading `/proc/self/mounts` or opening the mount point says, or that we may not
    /// open groups by their identity.
    pub fn find() -> io::Result<Hierarchy> {
        let root = mount_point(&fs::read("/proc/self/mounts")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 file system is mounted"))?;
        let mount = File::open(&root)?;
        let id = mount.metadata()?.ino();
        open_by_id(&mount, id).map_err(|error| io::Error::new(error.kind(), ByIdentity(error)))?;
        Ok(Hierarchy { root, mount, known: RefCell::default() })
    }

    /// The group of that path, given as a directory (`/sys/fs/cgroup/system.slice`) or as `/proc/PID/cgroup` shows it
    /// (`/system.slice`).
    ///
    /// # Errors
    /// If there is no such directory in the hierarchy.
    pub fn locate(&self, path: &Path) -> io::Result<Cgroup> {
        locate(&self.root, path)
    }
}

/// Groups cannot be opened by their identity.
#[derive(Debug, thiserror::Error)]
#[error("opening one by its identity (open_by_handle_at) needs CAP_DAC_READ_SEARCH: {0}")]
struct ByIdentity(io::Error);

impl Cgroups for Hierarchy {
    fn path(&self, id: u64) -> Option<Rc<[u8]>> {
        let mut known = self.known.borrow_mut();
        if let Some(path) = known.get(&id) {
            return Some(Rc::clone(path));
        }
        let directory = open_by_id(&self.mount, id).ok()?;
        let path = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()?;
        let path: Rc<[u8]> = below(&self.root, &path)?.into();
        known.insert(id, Rc::clone(&path));
        Some(path)
    }
}

/// See [`Hierarchy::locate`].
fn locate(root: &Path, path: &Path) -> io::Result<Cgroup> {
    let relative = path.strip_prefix(root).or_else(|_| path.strip_prefix("/")).unwrap_or(path);
    let directory = fs::canonicalize(root.join(relative))?;
    let metadata = fs::metadata(&directory)?;
    match below(root, &directory) {
        Some(path) if metadata.is_dir() => Ok(Cgroup { id: metadata.ino(), path }),
        _ => Err(io::Error::new(io::ErrorKind::NotADirectory, "not a control group")),
    }
}

/// The path of a directory of the hierarchy, from its root on.
fn below(root: &Path, directory: &Path) -> Option<Vec<u8>> {
    let relative = directory.strip_prefix(root).ok()?;
    Some([b"/", relative.as_os_str().as_bytes()].concat())
}

/// The first mount point of type `cgroup2` in the text of `/proc/self/mounts`.
fn mount_point(mounts: &[u8]) -> Option<PathBuf> {
    mounts.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ').skip(1);
        let directory = fields.next()?;
        // Spaces in it are escaped, and nobody mounts it on such a directory.
        (fields.next()? == b"cgroup2").then(|| PathBuf::from(OsStr::from_bytes(directory)))
    })
}

/// `struct file_handle` of open_by_handle_at(2) with the eight bytes that kernfs puts in it.
#[repr(C)]
struct Handle {
    handle_bytes: u32,
    handle_type: i32,
    id: u64,
}

/// `FILEID_KERNFS` of the kernel's `include/linux/exportfs.h`: the handle is the node's identity.
const FILEID_KERNFS: i32 = 0xfe;

/// Opens a directory of the hierarchy by its identity. Needs `CAP_DAC_READ_SEARCH`, which tracing needs too.
fn open_by_id(mount: &File, id: u64) -> io::Result<OwnedFd> {
    let mut handle = Handle { handle_bytes: size_of::<u64>() as u32, handle_type: FILEID_KERNFS, id };
    // SAFETY: the descriptor is open for as long as `mount` is borrowed. `handle` is laid out as the kernel's
    // `struct file_handle` (two 32-bit fields, then `handle_bytes` bytes) and outlives the call, which only reads it.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_raw_fd(),
            (&raw mut handle).cast::<libc::file_handle>(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_found_in_hybrid_set_ups_too() {
        let mounts = b"tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_point(b"proc /proc proc rw 0 0\n\nx"), None);
    }

    #[test]
    fn a_group_holds_what_is_below_it_and_no_namesake() {
        let group = Cgroup { id: 1, path: b"/a/b".to_vec() };
        assert!(group.contains(b"/a/b"));
        assert!(group.contains(b"/a/b/c"));
        assert!(!group.contains(b"/a/bc"));
        assert!(!group.contains(b"/a"));
        assert!(Cgroup { id: 1, path: b"/".to_vec() }.contains(b"/a"));
    }

    #[test]
    fn a_path_is_taken_as_directory_or_as_proc_shows_it() {
        let root = std::env::temp_dir().join(format!("ipctrace-cgroup-{}", std::process::id()));
        fs::create_dir_all(root.join("a/b")).unwrap();
        let root = fs::canonicalize(root).unwrap();
        fs::write(root.join("a/cgroup.procs"), "").unwrap();
        let id = fs::metadata(root.join("a/b")).unwrap().ino();
        for path in [root.join("a/b"), root.join("a/b/"), "/a/b".into(), "a/b".into()] {
            assert_eq!(locate(&root, &path).unwrap(), Cgroup { id, path: b"/a/b".to_vec() });
        }
        assert_eq!(locate(&root, &root).unwrap().path, b"/");
        assert_eq!(locate(&root, Path::new("/a/c")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(locate(&root, Path::new("/a/cgroup.procs")).is_err());
        assert!(locate(&root, Path::new("/a/../..")).is_err());
        fs::remove_dir_all(root).unwrap();
    }

    /// The kernel's own answer to what group we are in is the truth to compare with.
    #[test]
    fn the_identity_leads_to_the_path() {
        let Ok(hierarchy) = Hierarchy::find() else {
            eprintln!("skipped: no cgroup2 file system is mounted");
            return;
        };
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own =
            own.lines().find_map(|line| line.strip_prefix("0::")).expect("a group in the unified hierarchy");
        let group = match hierarchy.locate(Path::new(own)) {
            Ok(group) => group,
            Err(error) => {
                eprintln!("skipped: {own} is not visible here: {error}");
                return;
            }
        };
        if let Err(error) = open_by_id(&hierarchy.mount, group.id) {
            eprintln!("skipped: open_by_handle_at: {error}");
            return;
        }
        assert_eq!(hierarchy.path(group.id).as_deref(), Some(own.as_bytes()));
        assert_eq!(hierarchy.path(u64::MAX), None);
    }
}
