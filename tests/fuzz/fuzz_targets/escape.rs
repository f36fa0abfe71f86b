//! What a traced process chose must not reach a terminal as it is.

#![no_main]

use ipctrace::render::escape::{Charset, push_name, push_plain, push_quoted, shown_width};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for charset in [Charset::Utf8, Charset::Ascii] {
        for push in [push_plain, push_quoted, push_name] {
            let mut out = String::new();
            let columns = push(&mut out, bytes, charset);
            let width = out.chars().map(|shown| shown_width(shown, charset).expect("all can be shown"));
            assert_eq!(columns, width.sum::<usize>());
        }
    }
});
