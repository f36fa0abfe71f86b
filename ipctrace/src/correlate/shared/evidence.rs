//! First touches: that one process wrote to a page and another read it afterwards is evidence that bytes went from the one
//! to the other.

use std::rc::Rc;

use crate::model::{Event, Evidence, Proc};

use super::object::Object;

/// Size of a page.
const SIZE: u64 = 4096;
/// Writers of one page that are told apart.
const WRITERS: usize = 8;

/// What is known of a page.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Who was seen to write to it, and when first.
    writers: Vec<(Rc<Proc>, u64)>,
    /// Pairs of writer and reader that were told.
    told: Vec<[(u32, u64); 2]>,
}

impl Object {
    /// A process wrote to the page at `at`, bytes from the begin of the object.
    pub(super) fn written(&mut self, at: u64, time: u64, who: &Rc<Proc>) {
        let page = self.pages.entry(at / SIZE).or_default();
        let known = page.writers.iter().any(|(writer, _)| writer.identity() == who.identity());
        if !known && page.writers.len() < WRITERS {
            page.writers.push((Rc::clone(who), time));
        }
    }

    /// A process read it.
    pub(super) fn read(&mut self, at: u64, time: u64, who: &Rc<Proc>, out: &mut Vec<Event>) {
        let Some(page) = self.pages.get_mut(&(at / SIZE)) else {
            return;
        };
        let Page { writers, told } = page;
        let exact = writers.len() == 1;
        for (writer, wrote) in &*writers {
            let pair = [writer.identity(), who.identity()];
            if pair[0] == pair[1] || told.contains(&pair) || told.len() >= 1024 {
                continue;
            }
            told.push(pair);
            out.push(Event::Evidence(Evidence {
                time,
                mechanism: self.mechanism,
                channel: Rc::clone(&self.channel),
                sender: Rc::clone(writer),
                receiver: Rc::clone(who),
                page: at / SIZE * SIZE,
                latency: time.saturating_sub(*wrote),
                exact,
            }));
        }
    }
}
