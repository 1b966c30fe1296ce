#![allow(unsafe_code, reason = "llama.cpp's interface is one of C")]

use std::{path::Path, sync::Arc};

use llama_cpp_sys_2 as sys;

use super::native::Model;
use crate::{
    Error, Result,
    tokens::{Token, Vocabulary},
};

/// Bytes of most tokens.
const USUAL_BYTES: usize = 64;

/// The words of a model, with its tokenizer.
#[derive(Debug, Clone)]
pub struct LlamaVocabulary {
    model: Arc<Model>,
    length: u32,
}

impl LlamaVocabulary {
    /// Reads the vocabulary alone, for a process that does not compute.
    ///
    /// # Errors
    /// [`Error::InvalidModel`] if the model cannot be read or has no vocabulary; [`Error::Io`] if the file is not there.
    pub fn open(path: &Path) -> Result<LlamaVocabulary> {
        let (model, _) = Model::load(path, true)?;
        LlamaVocabulary::of(Arc::new(model))
    }

    pub(super) fn of(model: Arc<Model>) -> Result<LlamaVocabulary> {
        let vocabulary = model.vocabulary();
        // SAFETY: the model lives, and its vocabulary with it.
        let (kind, length) = unsafe { (sys::llama_vocab_type(vocabulary), sys::llama_vocab_n_tokens(vocabulary)) };
        // Its tokenizer ends the process if it is asked for anything.
        if kind == sys::LLAMA_VOCAB_TYPE_NONE || length <= 0 {
            return Err(Error::InvalidModel("the model has no vocabulary: it is not a whole language model".into()));
        }
        Ok(LlamaVocabulary { model, length: length as u32 })
    }

    fn raw(&self) -> *const sys::llama_vocab {
        self.model.vocabulary()
    }

    /// The token as llama.cpp counts it, if there is one of this number.
    fn known(&self, token: Token) -> Option<sys::llama_token> {
        (token < self.length).then_some(token as sys::llama_token)
    }

    /// Texts of 2 GiB and more are cut: no context is as long.
    fn tokenize(&self, text: &str, special: bool, tokens: &mut [sys::llama_token]) -> i32 {
        let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
        let room = i32::try_from(tokens.len()).unwrap_or(i32::MAX);
        // SAFETY: no more than `length` bytes are read and no more than `room` tokens written, and the model lives.
        unsafe {
            sys::llama_tokenize(self.raw(), text.as_ptr().cast(), length, tokens.as_mut_ptr(), room, false, special)
        }
    }

    fn piece(&self, token: sys::llama_token, special: bool, bytes: &mut [u8]) -> i32 {
        let room = i32::try_from(bytes.len()).unwrap_or(i32::MAX);
        // SAFETY: no more than `room` bytes are written, the token is one of the vocabulary, and the model lives.
        unsafe { sys::llama_token_to_piece(self.raw(), token, bytes.as_mut_ptr().cast(), room, 0, special) }
    }
}

impl Vocabulary for LlamaVocabulary {
    fn len(&self) -> u32 {
        self.length
    }

    fn encode(&self, text: &str, special: bool) -> Vec<Token> {
        if text.is_empty() {
            return Vec::new();
        }
        // A token has at least a byte, but for what some tokenizers put in front.
        let mut tokens = vec![0; text.len() + 2];
        let mut count = self.tokenize(text, special, &mut tokens);
        if count < 0 && count != i32::MIN {
            tokens.resize(count.unsigned_abs() as usize, 0);
            count = self.tokenize(text, special, &mut tokens);
        }
        tokens.truncate(count.max(0) as usize);
        tokens.into_iter().map(|token| token as Token).collect()
    }

    fn bytes(&self, token: Token, special: bool) -> Vec<u8> {
        let Some(token) = self.known(token) else { return Vec::new() };
        let mut bytes = vec![0; USUAL_BYTES];
        let mut count = self.piece(token, special, &mut bytes);
        if count < 0 {
            bytes.resize(count.unsigned_abs() as usize, 0);
            count = self.piece(token, special, &mut bytes);
        }
        bytes.truncate(count.max(0) as usize);
        bytes
    }

    fn beginning(&self) -> Option<Token> {
        // SAFETY: the model lives, and its vocabulary with it.
        let (is_wordpiece, wanted, token) = unsafe {
            let raw = self.raw();
            (
                sys::llama_vocab_type(raw) == sys::LLAMA_VOCAB_TYPE_WPM,
                sys::llama_vocab_get_add_bos(raw),
                sys::llama_vocab_bos(raw),
            )
        };
        Token::try_from(token).ok().filter(|token| *token < self.length && (wanted || is_wordpiece))
    }

    fn ending(&self) -> Option<Token> {
        // SAFETY: as above.
        let (is_wordpiece, wanted, end, separator) = unsafe {
            let raw = self.raw();
            (
                sys::llama_vocab_type(raw) == sys::LLAMA_VOCAB_TYPE_WPM,
                sys::llama_vocab_get_add_eos(raw),
                sys::llama_vocab_eos(raw),
                sys::llama_vocab_sep(raw),
            )
        };
        let token = if is_wordpiece { separator } else { end };
        Token::try_from(token).ok().filter(|token| *token < self.length && (wanted || is_wordpiece))
    }

    fn is_end(&self, token: Token) -> bool {
        // SAFETY: the token is one of the vocabulary, and the model lives.
        self.known(token).is_some_and(|token| unsafe { sys::llama_vocab_is_eog(self.raw(), token) })
    }

    fn is_special(&self, token: Token) -> bool {
        // SAFETY: as above.
        self.known(token).is_some_and(|token| unsafe { sys::llama_vocab_is_control(self.raw(), token) })
    }
}
