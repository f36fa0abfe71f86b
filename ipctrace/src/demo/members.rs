//! Who takes part in a workload.

use std::collections::HashMap;

use super::truth::{Party, Truth};

/// One end, once marks are resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// That process.
    Pid(u32),
    /// A process of the workload under a name that is not its own.
    Misnamed(u32, String),
    /// None, for that reason.
    None(String),
}

/// The processes of a workload.
#[derive(Clone, Debug, Default)]
pub struct Members {
    marks: HashMap<u8, u32>,
    names: HashMap<u32, String>,
}

impl Members {
    /// Those who joined.
    pub fn of(truth: &[Truth]) -> Members {
        let mut members = Members::default();
        for line in truth {
            if let Truth::Member { mark, pid, name } = line {
                members.marks.insert(*mark, *pid);
                members.names.insert(*pid, name.clone());
            }
        }
        members
    }

    /// Whose mark, or what other end, it is.
    pub fn who(&self, party: &Party) -> Who {
        match party {
            Party::Mark(mark) => {
                self.marks.get(mark).map_or_else(|| Who::None(format!("mark {mark}")), |pid| Who::Pid(*pid))
            }
            Party::Pid(pid) => Who::Pid(*pid),
            Party::None(why) => Who::None(why.clone()),
        }
    }

    /// A process that somebody else calls `comm`: whether it is called that shows in the result.
    pub fn called(&self, pid: u32, comm: &[u8]) -> Who {
        match self.names.get(&pid) {
            Some(name) if name.as_bytes() != comm => Who::Misnamed(pid, comm.escape_ascii().to_string()),
            Some(_) | None => Who::Pid(pid),
        }
    }

    /// Whether it is a process of the workload.
    pub fn contains(&self, who: &Who) -> bool {
        match who {
            Who::Pid(pid) | Who::Misnamed(pid, _) => self.names.contains_key(pid),
            Who::None(_) => false,
        }
    }

    /// For people: `reader[4711]`, `(unread)`.
    pub fn describe(&self, who: &Who) -> String {
        match who {
            Who::Pid(pid) => format!("{}[{pid}]", self.names.get(pid).map_or("?", String::as_str)),
            Who::Misnamed(pid, comm) => format!("{comm}[{pid}]"),
            Who::None(why) => format!("({why})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Truth {
        Truth::Member { mark: 1, pid: 10, name: "sender".to_owned() }
    }

    #[test]
    fn a_wrong_name_shows() {
        let members = Members::of(&[member()]);
        assert_eq!(members.called(10, b"sender"), Who::Pid(10));
        let misnamed = members.called(10, b"re\x1bad");
        assert_ne!(misnamed, Who::Pid(10));
        assert!(members.contains(&misnamed));
        assert_eq!(members.describe(&misnamed), "re\\x1bad[10]");
        assert_eq!(members.called(12, b"else"), Who::Pid(12));
    }
}
