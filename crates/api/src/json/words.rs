//! NaN and infinities as Python writes them.

/// What stands for infinity in a body that was rewritten. No text from outside may hold a NUL, so nothing else reads so.
pub(super) const INFINITY: &str = "\0Infinity";
/// The same for negative infinity.
pub(super) const NEGATIVE_INFINITY: &str = "\0-Infinity";

/// The body with the bare words `NaN`, `Infinity` and `-Infinity`, which are no JSON and which Python's own library writes
/// all the same, as values that can be read: null, and the texts above. `None` when there are no such words.
pub(super) fn without_bare_words(body: &[u8]) -> Option<Vec<u8>> {
    const WORDS: [(&[u8], &[u8]); 3] =
        [(b"NaN", b"null"), (b"Infinity", b"\"\\u0000Infinity\""), (b"-Infinity", b"\"\\u0000-Infinity\"")];
    let (mut written, mut rest, mut in_text): (Option<Vec<u8>>, _, _) = (None, body, false);
    while let Some((byte, after)) = rest.split_first() {
        let mut taken = &rest[..1];
        let mut next = after;
        match byte {
            b'"' => in_text = !in_text,
            b'\\' if in_text && !after.is_empty() => {
                taken = &rest[..2];
                next = &rest[2..];
            }
            b'N' | b'I' | b'-' if !in_text => {
                if let Some((word, instead)) = WORDS.into_iter().find(|(word, _)| rest.starts_with(word)) {
                    written.get_or_insert_with(|| body[..body.len() - rest.len()].to_vec());
                    taken = instead;
                    next = &rest[word.len()..];
                }
            }
            _ => {}
        }
        if let Some(written) = &mut written {
            written.extend_from_slice(taken);
        }
        rest = next;
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_words_are_replaced_and_texts_are_left_alone() {
        let rewritten =
            |text: &str| without_bare_words(text.as_bytes()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert_eq!(rewritten(r#"{"NaN": ["a\"NaN", -1]}"#), None);
        assert_eq!(
            rewritten(r#"{"x\\": [NaN, -Infinity, Infinity, "NaN"]}"#).as_deref(),
            Some(r#"{"x\\": [null, "\u0000-Infinity", "\u0000Infinity", "NaN"]}"#)
        );
    }
}
