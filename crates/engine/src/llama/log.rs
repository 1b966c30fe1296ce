//! llama.cpp's words: into the log, and into the error of whoever called it.

#![allow(unsafe_code, reason = "llama.cpp is told of a function to call with texts of C")]

use std::{
    cell::RefCell,
    ffi::{CStr, c_char, c_void},
    ptr,
    sync::Once,
};

use llama_cpp_sys_2 as sys;

/// The most lines that are kept of one call.
const MAX_LINES: usize = 512;
/// What stands before the size of a buffer.
pub(super) const SIZE: &str = " buffer size = ";

thread_local! {
    /// What llama.cpp says on this thread, while somebody listens.
    static HEARD: RefCell<Option<Heard>> = const { RefCell::new(None) };
}

/// What llama.cpp said during a call.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Those lines that tell the size of a buffer.
    pub(super) lines: Vec<String>,
    /// What went wrong, in order.
    pub(super) errors: Vec<String>,
}

impl Heard {
    /// Why a call failed, without the names of llama.cpp's functions; `otherwise` if it said nothing.
    pub(super) fn reason(&self, otherwise: &str) -> String {
        // The first is the cause, and the others are of those who called.
        let Some(first) = self.errors.first() else { return otherwise.to_owned() };
        let text =
            first.split_once(": ").filter(|(name, _)| !name.contains(' ')).map_or(first.as_str(), |(_, rest)| rest);
        text.trim().trim_end_matches('.').to_owned()
    }
}

/// Has llama.cpp write to the log instead of to standard error, and initialises it. Once is enough, and more do no harm.
pub(super) fn initialise() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: both functions live as long as the program, need no data, and do not unwind.
        unsafe {
            sys::llama_log_set(Some(write), ptr::null_mut());
            sys::ggml_set_abort_callback(Some(write_last_words));
        }
        // SAFETY: it is called once, before anything else of llama.cpp.
        unsafe { sys::llama_backend_init() };
    });
}

/// Runs `call`, and gives back what llama.cpp said on this thread meanwhile.
pub(super) fn listen<T>(call: impl FnOnce() -> T) -> (T, Heard) {
    HEARD.with_borrow_mut(|heard| *heard = Some(Heard::default()));
    let answer = call();
    (answer, HEARD.take().unwrap_or_default())
}

/// A line for the log. What went wrong is an error of the call, so that nothing here is more than a warning.
unsafe extern "C" fn write(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp gives a text that ends with 0 and lives during the call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end();
    if text.is_empty() {
        return;
    }
    match level {
        sys::GGML_LOG_LEVEL_ERROR => tracing::warn!(target: "llama.cpp", "{text}"),
        sys::GGML_LOG_LEVEL_WARN | sys::GGML_LOG_LEVEL_INFO => tracing::debug!(target: "llama.cpp", "{text}"),
        sys::GGML_LOG_LEVEL_DEBUG => tracing::trace!(target: "llama.cpp", "{text}"),
        // The dots of a progress bar.
        _ => return,
    }
    HEARD.with_borrow_mut(|heard| {
        let Some(heard) = heard else { return };
        if level == sys::GGML_LOG_LEVEL_ERROR && heard.errors.len() < MAX_LINES {
            heard.errors.push(text.to_owned());
        }
        // A large vocabulary alone is worth more lines than these.
        if text.contains(SIZE) && heard.lines.len() < MAX_LINES {
            heard.lines.push(text.to_owned());
        }
    });
}

/// An invariant of llama.cpp's broke; the process ends after this.
unsafe extern "C" fn write_last_words(text: *const c_char) {
    if text.is_null() {
        return;
    }
    // SAFETY: as above.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    tracing::error!(target: "llama.cpp", "llama.cpp ends this process: {text}");
    if !tracing::enabled!(target: "llama.cpp", tracing::Level::ERROR) {
        eprintln!("llama.cpp ends this process: {text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_heard_whatever_else_is_said() {
        let say = |line: &str| {
            let line = std::ffi::CString::new(line).unwrap_or_default();
            // SAFETY: the text ends with 0 and lives during the call.
            unsafe { write(sys::GGML_LOG_LEVEL_INFO, line.as_ptr(), std::ptr::null_mut()) }
        };
        let ((), heard) = listen(|| {
            (0..2 * MAX_LINES).for_each(|token| say(&format!("load: control token: {token} is not marked as EOG")));
            say("load_tensors:   CPU_Mapped model buffer size =    12.34 MiB\n");
        });
        assert_eq!(heard.lines, ["load_tensors:   CPU_Mapped model buffer size =    12.34 MiB"]);
    }

    #[test]
    fn the_first_error_is_the_reason_without_the_function_that_said_it() {
        let errors =
            |lines: &[&str]| Heard { errors: lines.iter().map(|line| line.to_string()).collect(), ..Heard::default() };
        let heard =
            errors(&["llama_model_load: error loading model: no such thing", "load_impl: failed to load model"]);
        assert_eq!(heard.reason("nothing"), "error loading model: no such thing");
        assert_eq!(errors(&["what is wrong: everything."]).reason("nothing"), "what is wrong: everything");
        assert_eq!(errors(&[]).reason("nothing"), "nothing");
    }
}
