//! The time zone of whoever reads the output.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use jiff::tz::{self, TimeZone};

/// Where the host's zone is: localtime(5).
const HOST: &str = "/etc/localtime";

/// Longest file that can be a zone; those there are have 4 KB at most.
const LONGEST: u64 = 1 << 20;

/// The zone that the environment variable `TZ` names, or else the host's. Where there is none of that name, or its file is none that
/// could hold a zone, it is UTC without a word, as with date(1).
pub fn of_the_user() -> TimeZone {
    let value = std::env::var_os("TZ");
    if file(value.as_deref()).is_some_and(|path| !may_be_zone(&path)) {
        return TimeZone::UTC;
    }
    TimeZone::system()
}

/// The file that is read as a whole to know the zone, if one is: what the variable holds may be the name of a zone, a rule, or a
/// path, with a colon before it or not (tzset(3)).
fn file(value: Option<&OsStr>) -> Option<PathBuf> {
    let Some(value) = value else { return Some(HOST.into()) };
    let bytes = value.as_bytes();
    let name = bytes.strip_prefix(b":").unwrap_or(bytes).to_vec();
    let is_known = str::from_utf8(&name).is_ok_and(|name| tz::db().get(name).is_ok());
    (!is_known && !name.is_empty()).then(|| PathBuf::from(std::ffi::OsString::from_vec(name)))
}

/// Whether a file, if there is one, ends, and soon: neither a device nor a pipe does, nor need one in /proc, which has no length.
fn may_be_zone(path: &Path) -> bool {
    fs::metadata(path)
        .map_or(true, |file| file.is_dir() || file.is_file() && (1..=LONGEST).contains(&file.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_the_variable_names_unless_it_is_a_zone() {
        let file = |value: &str| file(Some(OsStr::new(value)));
        assert_eq!(super::file(None), Some(HOST.into()));
        assert_eq!(file(":/dev/zero"), Some("/dev/zero".into()));
        assert_eq!(file("some/where"), Some("some/where".into()));
        assert_eq!((file(""), file("UTC"), file(":UTC")), (None, None, None));
    }

    #[test]
    fn a_file_without_end_is_no_zone() {
        for path in ["/dev/zero", "/dev/tty", "/proc/self/pagemap", "/proc/kcore"] {
            assert!(!may_be_zone(Path::new(path)) || !Path::new(path).exists(), "{path}");
        }
        for path in ["/no/such/file", "/etc", "/etc/passwd"] {
            assert!(may_be_zone(Path::new(path)), "{path}");
        }
    }
}
