//! What a caller says of a call beside its inputs.

use std::time::{Duration, Instant};

use crate::Priority;

/// Who calls, how urgent it is, and until when.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Who pays, as the caller says; nobody in particular when absent.
    pub tenant: Option<String>,
    /// Who goes first when several wait.
    pub priority: Priority,
    /// From then on nobody waits for the answer.
    pub deadline: Option<Instant>,
    /// Whoever has the same key meets the same revision of a deployment, as long as its traffic is the same.
    pub key: Option<String>,
    /// Whether it is a copy of a call, which costs energy and is nobody's request.
    pub copy: bool,
}

impl Context {
    /// What is said of a copy of a call: it lets all others pass.
    pub(crate) fn of_copy() -> Context {
        Context { priority: Priority::Batch, copy: true, ..Context::default() }
    }

    /// Takes over what Triton's clients say: `priority`, of which 1 is the highest, and a timeout in microseconds; 0
    /// leaves either as it is. The earlier of two deadlines holds.
    pub fn apply_triton(&mut self, priority: u64, timeout_us: u64) {
        match priority {
            0 => {}
            1 => self.priority = Priority::Interactive,
            _ => self.priority = Priority::Batch,
        }
        if timeout_us > 0 {
            // A time beyond what the clock can tell is none.
            let deadline = Instant::now().checked_add(Duration::from_micros(timeout_us));
            self.deadline = [self.deadline, deadline].into_iter().flatten().min();
        }
    }
}
