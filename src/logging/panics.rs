//! Panics: in the log instead of on standard error, and counted.

use std::{
    any::Any,
    backtrace::{Backtrace, BacktraceStatus},
    panic::{self, PanicHookInfo},
    sync::atomic::Ordering::Relaxed,
    thread,
};

use super::{PANICS, limited};

/// The start of a panic's message for which the rest is an error's text.
const UNWRAP: &str = "called `Result::unwrap()` on an `Err` value";
/// The longest text of a panic, in bytes.
const LONGEST_TEXT: usize = 300;
/// The longest backtrace, in bytes.
const LONGEST_BACKTRACE: usize = 16 << 10;

/// Logs and counts panics from now on. The standard hook writes to standard error, which may block the thread that panics, and
/// writes each one.
pub(super) fn log() {
    panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Relaxed);
        write(info);
    }));
}

fn write(info: &PanicHookInfo<'_>) {
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    limited!(
        error[&*location],
        "panic",
        text = text_of(info.payload()),
        thread = thread::current().name(),
        backtrace = backtrace()
    );
}

/// The backtrace, if `RUST_BACKTRACE` asks for one: its inner end, as it can be longer than what the log keeps waiting.
fn backtrace() -> Option<String> {
    let backtrace = Backtrace::capture();
    (backtrace.status() == BacktraceStatus::Captured).then(|| {
        let mut text = backtrace.to_string();
        text.truncate(text.floor_char_boundary(LONGEST_BACKTRACE));
        text
    })
}

/// Returns what a panic says, as far as it cannot be data of a client or a publisher.
///
/// A text that was put together while the program ran may quote data, as that of a wrong index into a string does: it ends
/// before its first quotation mark.
pub(crate) fn text_of(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        return (*text).to_owned();
    }
    let Some(text) = payload.downcast_ref::<String>() else { return "a panic without a text".to_owned() };
    let known = if text.starts_with(UNWRAP) { UNWRAP.len() } else { 0 };
    let end = text[known..].find(['"', '\'', '`']).map_or(text.len(), |at| known + at);
    let end = text.floor_char_boundary(end.min(LONGEST_TEXT));
    let is_whole = end == text.len();
    format!("{}{}", &text[..end], if is_whole { "" } else { "…" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_quoted_without_the_data_that_it_quotes() {
        let data = String::from("pässword");
        let short = std::hint::black_box(vec![1]);
        let cases: [(&dyn Fn() -> usize, &str); 6] = [
            (&|| panic!("a fixed text"), "a fixed text"),
            (&|| short[3], "index out of bounds: the len is 1 but the index is 3"),
            (&|| data[..2].len(), "end byte index 2 is not a char boundary; it is inside …"),
            (
                &|| data.parse().unwrap(),
                "called `Result::unwrap()` on an `Err` value: ParseIntError { kind: InvalidDigit }",
            ),
            (
                &|| std::hint::black_box(Err(&data)).map(|(): ()| 0).unwrap(),
                "called `Result::unwrap()` on an `Err` value: …",
            ),
            (&|| panic::panic_any(17), "a panic without a text"),
        ];
        for (work, text) in cases {
            let payload = panic::catch_unwind(panic::AssertUnwindSafe(work)).unwrap_err();
            assert_eq!(text_of(&*payload), text);
        }
    }
}
