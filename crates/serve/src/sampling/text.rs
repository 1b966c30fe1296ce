//! Bytes of tokens as text: never cut within a character, and without anything of a stop string.

/// The text of an answer that has not been told yet.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    stops: Vec<String>,
    /// Bytes that may be the beginning of a character.
    bytes: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
}

impl Text {
    pub(super) fn new(stops: Vec<String>) -> Text {
        Text { stops, ..Text::default() }
    }

    /// Takes in bytes: the text that can be told now, and the stop string that came, before which the answer ends.
    pub(super) fn push(&mut self, bytes: &[u8]) -> (String, Option<String>) {
        self.bytes.extend_from_slice(bytes);
        self.decode();
        if let Some((start, stop)) = self.stopped() {
            self.held.truncate(start);
            self.bytes.clear();
            return (std::mem::take(&mut self.held), Some(stop));
        }
        let begins = self.held.char_indices().map(|(at, _)| at).find(|at| self.may_stop(&self.held[*at..]));
        let rest = self.held.split_off(begins.unwrap_or(self.held.len()));
        (std::mem::replace(&mut self.held, rest), None)
    }

    /// What was held back, at the answer's end.
    pub(super) fn rest(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.held);
        if !std::mem::take(&mut self.bytes).is_empty() {
            rest.push(char::REPLACEMENT_CHARACTER);
        }
        rest
    }

    /// Turns bytes into text as soon as it is known what they are, as `String::from_utf8_lossy` does with all of them.
    fn decode(&mut self) {
        let mut at = 0;
        while at < self.bytes.len() {
            match std::str::from_utf8(&self.bytes[at..]) {
                Ok(text) => {
                    self.held.push_str(text);
                    at = self.bytes.len();
                }
                Err(error) => {
                    let (valid, rest) = self.bytes[at..].split_at(error.valid_up_to());
                    self.held.push_str(&String::from_utf8_lossy(valid));
                    at += valid.len();
                    match error.error_len() {
                        Some(wrong) => {
                            self.held.push(char::REPLACEMENT_CHARACTER);
                            at += wrong;
                        }
                        None => {
                            debug_assert!(rest.len() < 4, "a character has four bytes at most");
                            break;
                        }
                    }
                }
            }
        }
        self.bytes.drain(..at);
    }

    /// The stop string that is complete first; of several, the longest.
    fn stopped(&self) -> Option<(usize, String)> {
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop.as_str())?, stop)));
        let first = found.min_by_key(|(start, stop)| (start + stop.len(), *start))?;
        Some((first.0, first.1.clone()))
    }

    fn may_stop(&self, text: &str) -> bool {
        self.stops.iter().any(|stop| stop.starts_with(text))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// What is told of bytes that come in these pieces.
    fn told(stops: &[&str], pieces: &[&[u8]]) -> (String, Option<String>) {
        let mut text = Text::new(stops.iter().map(|stop| (*stop).to_owned()).collect());
        let mut told = String::new();
        for piece in pieces {
            let (more, stop) = text.push(piece);
            told.push_str(&more);
            if stop.is_some() {
                return (told, stop);
            }
        }
        (told + &text.rest(), None)
    }

    #[test]
    fn a_stop_string_may_straddle_tokens() {
        assert_eq!(told(&["STOP"], &[b"a ST", b"OP b"]), ("a ".into(), Some("STOP".into())));
        assert_eq!(told(&["STOP"], &[b"a ST", b"ART"]), ("a START".into(), None));
        assert_eq!(told(&["aab"], &[b"aa", b"ab"]), ("a".into(), Some("aab".into())));
        assert_eq!(told(&["ab", "b"], &[b"x", b"a", b"b"]), ("x".into(), Some("ab".into())));
        let mut text = Text::new(vec!["\n\n".into()]);
        assert_eq!(text.push(b"one\n"), ("one".into(), None));
        assert_eq!(text.push(b"two"), ("\ntwo".into(), None));
    }

    proptest! {
        #[test]
        fn text_is_that_of_all_bytes_together(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5), 0..20),
        ) {
            let all = pieces.concat();
            let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            prop_assert_eq!(told(&[], &slices).0, String::from_utf8_lossy(&all));
        }

        #[test]
        fn characters_are_never_cut(text in "\\PC{0,20}", cuts in prop::collection::vec(1_usize..4, 0..60)) {
            let mut decoder = Text::new(Vec::new());
            let (mut bytes, mut told) = (text.as_bytes(), String::new());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (piece, rest) = bytes.split_at(cut.min(bytes.len()));
                bytes = rest;
                told.push_str(&decoder.push(piece).0);
                prop_assert!(text.starts_with(&told));
            }
            prop_assert_eq!(told, text);
        }

        #[test]
        fn stops_are_found_as_in_the_whole_text(
            pieces in prop::collection::vec("[abc]{0,4}", 0..12),
            stops in prop::collection::vec("[abc]{1,4}", 0..4),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let slices: Vec<&[u8]> = pieces.iter().map(String::as_bytes).collect();
            let whole = pieces.concat();
            let first = stops.iter().filter_map(|stop| Some((whole.find(stop)?, stop)));
            let first = first.min_by_key(|(start, stop)| (start + stop.len(), *start));
            let expected = match first {
                Some((start, stop)) => (whole[..start].to_owned(), Some((*stop).to_owned())),
                None => (whole.clone(), None),
            };
            prop_assert_eq!(told(&stops, &slices), expected);
        }
    }
}
