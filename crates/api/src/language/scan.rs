//! JSON, character by character, as far as one must know it to find where a value ends.

/// Where one is in a JSON value.
#[derive(Debug, Clone, Default)]
pub(super) struct Scan {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Within an object or an array whose opening bracket was read.
    pub(super) fn opened() -> Scan {
        Scan { depth: 1, ..Scan::default() }
    }

    /// Reads a character: how deep one is after it. 0 ends the value.
    pub(super) fn step(&mut self, letter: char) -> u32 {
        match letter {
            _ if self.escaped => self.escaped = false,
            '\\' if self.in_string => self.escaped = true,
            '"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            '{' | '[' => self.depth = self.depth.saturating_add(1),
            '}' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth
    }

    /// Whether one is within a string.
    pub(super) fn in_string(&self) -> bool {
        self.in_string
    }
}
