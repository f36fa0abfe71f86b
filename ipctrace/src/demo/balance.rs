//! Whether what the processes of a workload say adds up.

use std::collections::BTreeMap;
use std::fmt;

use ipctrace_common::Mechanism;

use super::members::{Members, Who};
use super::truth::{Party, Truth};

/// What the processes say of one sender and one mechanism.
#[derive(Debug, Default)]
struct Balance {
    sent: u64,
    sent_messages: u64,
    arrived: u64,
    arrived_messages: u64,
    unread: u64,
    unread_messages: u64,
}

impl Balance {
    /// Every byte arrived or is unread. The rest of a message that was cut short is unread, but no message of its own:
    /// of those there can be more than were sent.
    fn holds(&self) -> bool {
        let most = self.arrived_messages + self.unread_messages;
        self.sent == self.arrived + self.unread
            && (self.arrived_messages..=most).contains(&self.sent_messages)
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "sent {} bytes in {} messages, of which {} in {} were heard and {} in {} left unread",
            self.sent,
            self.sent_messages,
            self.arrived,
            self.arrived_messages,
            self.unread,
            self.unread_messages
        )
    }
}

/// What does not add up within a report, for people: everything that was heard was sent, and everything that was sent was
/// heard or is known to be unread. Messages of streams do not count.
///
/// A report that is empty here and agrees with the trace shows that the trace holds exactly what the senders' calls
/// returned, and not only what their receivers made of it. All senders must have reported by [`Truth::Sent`].
pub fn imbalances(truth: &[Truth]) -> Vec<String> {
    let members = Members::of(truth);
    let mut balances = BTreeMap::<(&str, Who), Balance>::new();
    for line in truth {
        match line {
            Truth::Sent { mechanism, by, bytes, messages } => {
                let balance = balances.entry((mechanism, members.who(by))).or_default();
                balance.sent += bytes;
                balance.sent_messages += messages.unwrap_or(0);
            }
            Truth::Transfer { mechanism, from, to, bytes, messages, .. } => {
                let balance = balances.entry((mechanism, members.who(from))).or_default();
                let messages = messages.unwrap_or(0);
                match to {
                    Party::Mark(_) | Party::Pid(_) => {
                        balance.arrived += bytes;
                        balance.arrived_messages += messages;
                    }
                    Party::None(_) => {
                        balance.unread += bytes;
                        balance.unread_messages += messages;
                    }
                }
            }
            Truth::Member { .. }
            | Truth::Named { .. }
            | Truth::Signal { .. }
            | Truth::Share { .. }
            | Truth::Evidence { .. }
            | Truth::Handoff { .. }
            | Truth::Wake { .. } => {}
            Truth::Units { from, to, value, .. } => {
                let balance = balances.entry((Mechanism::Eventfd.name(), members.who(from))).or_default();
                match to {
                    Party::Mark(_) | Party::Pid(_) => balance.arrived += value,
                    Party::None(_) => balance.unread += value,
                }
            }
        }
    }
    balances
        .iter()
        .filter(|(_, balance)| !balance.holds())
        .map(|((mechanism, who), balance)| format!("{mechanism}: {} {balance}", members.describe(who)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(bytes: u64, messages: u64) -> Truth {
        let mechanism = "unix_dgram".to_owned();
        Truth::Sent { mechanism, by: Party::Pid(10), bytes, messages: Some(messages) }
    }

    fn arrived(to: Party, bytes: u64) -> Truth {
        Truth::Transfer {
            mechanism: "unix_dgram".to_owned(),
            channel: None,
            from: Party::Mark(1),
            to,
            bytes,
            messages: Some(1),
        }
    }

    fn member() -> Truth {
        Truth::Member { mark: 1, pid: 10, name: "sender".to_owned() }
    }

    fn rest(bytes: u64) -> Truth {
        arrived(Party::None("unread".to_owned()), bytes)
    }

    #[test]
    fn all_that_is_sent_is_heard_or_unread() {
        let receiver = Party::Pid(11);
        let balanced = [member(), sent(7, 1), arrived(receiver.clone(), 7)];
        assert_eq!(imbalances(&balanced), [""; 0]);
        // A message cut short: its rest is no message of its own.
        let short = [member(), sent(7, 1), arrived(receiver.clone(), 4), rest(3)];
        assert_eq!(imbalances(&short), [""; 0]);
        let wholly_unread = [member(), sent(7, 2), arrived(receiver.clone(), 4), rest(3)];
        assert_eq!(imbalances(&wholly_unread), [""; 0]);
        for wrong in [
            vec![member(), sent(7, 1)],
            vec![member(), arrived(receiver.clone(), 7)],
            vec![member(), sent(8, 1), arrived(receiver.clone(), 7)],
            vec![member(), sent(7, 2), arrived(receiver.clone(), 7)],
            vec![member(), sent(7, 0), arrived(receiver.clone(), 7)],
            // The mark is nobody's.
            vec![sent(7, 1), arrived(receiver.clone(), 7)],
        ] {
            assert!(!imbalances(&wrong).is_empty(), "{wrong:?}");
        }
    }
}
