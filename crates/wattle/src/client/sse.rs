//! Server-sent events, read from pieces that end anywhere.
//!
//! Source: <https://html.spec.whatwg.org/multipage/server-sent-events.html>; lines end with LF or CRLF.

use anyhow::{Context, Result, bail};

/// The most bytes of one event.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// The data of events; their names and ids are passed over.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// A line that has not ended.
    line: Vec<u8>,
    /// The lines of data of an event that has not ended.
    data: Option<Vec<u8>>,
}

impl Events {
    /// Takes a piece, and returns the data of the events that end in it.
    ///
    /// # Errors
    /// If an event has more than 16 MiB, or is not UTF-8.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<Vec<String>> {
        let mut ended = Vec::new();
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            let held = self.line.len() + self.data.as_ref().map_or(0, Vec::len);
            if held + part.len() > MAX_EVENT_BYTES {
                bail!("an event of the server has more than {} MiB", MAX_EVENT_BYTES >> 20);
            }
            self.line.extend_from_slice(part);
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                ended.extend(self.take_line(&line[..line.len() - 1])?);
            }
        }
        Ok(ended)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<String>> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            let data = self.data.take().map(String::from_utf8);
            return data.transpose().context("an event of the server is not UTF-8");
        }
        if let Some(data) = line.strip_prefix(b"data:") {
            let data = data.strip_prefix(b" ").unwrap_or(data);
            match &mut self.data {
                None => self.data = Some(data.to_vec()),
                Some(held) => {
                    held.push(b'\n');
                    held.extend_from_slice(data);
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str =
        ": a comment\n\nevent: job\nid: 1\ndata: {\"a\": \"ä\"}\n\ndata:x\r\ndata:  y\r\n\r\ndata\n\ndata: late";

    #[test]
    fn data_is_read_and_an_event_that_never_ends_is_not() {
        assert_eq!(Events::default().take(STREAM.as_bytes()).unwrap(), ["{\"a\": \"ä\"}", "x\n y"]);
    }

    #[test]
    fn an_event_has_a_bound() {
        let mut events = Events::default();
        let piece = vec![b'x'; 1 << 20];
        let outcome = (0..17).try_for_each(|_| events.take(&piece).map(drop));
        assert!(outcome.unwrap_err().to_string().contains("16 MiB"));
        assert!(events.line.len() <= MAX_EVENT_BYTES);
        assert!(Events::default().take(b"data: \xff\n\n").is_err());
    }

    proptest! {
        #[test]
        fn where_pieces_end_makes_no_difference(mut cuts in prop::collection::vec(0..=STREAM.len(), 0..20)) {
            cuts.sort_unstable();
            let (mut events, mut all, mut begin) = (Events::default(), Vec::new(), 0);
            for end in cuts.into_iter().chain([STREAM.len()]) {
                all.extend(events.take(&STREAM.as_bytes()[begin..end]).unwrap());
                begin = end;
            }
            prop_assert_eq!(all, Events::default().take(STREAM.as_bytes()).unwrap());
        }
    }
}
