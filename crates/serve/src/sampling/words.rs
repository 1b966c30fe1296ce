use std::sync::{Arc, OnceLock};

use llguidance::ParserFactory;
use toktrie::{ApproximateTokEnv, TokRxInfo, TokTrie};
use wattle_engine::tokens::{Token, Vocabulary};

use crate::{Error, Result};

/// A model's words, prepared for choosing among them; shared by all its answers.
pub struct Words {
    vocabulary: Arc<dyn Vocabulary>,
    /// The tokens that end an answer.
    ends: Vec<Token>,
    /// What grammars are compiled with, once somebody has one: it takes a while.
    grammars: OnceLock<std::result::Result<ParserFactory, String>>,
}

impl Words {
    /// Prepares a vocabulary.
    pub fn new(vocabulary: Arc<dyn Vocabulary>) -> Words {
        let ends = (0..vocabulary.len()).filter(|token| vocabulary.is_end(*token)).collect();
        Words { vocabulary, ends, grammars: OnceLock::new() }
    }

    /// The vocabulary.
    pub fn vocabulary(&self) -> &Arc<dyn Vocabulary> {
        &self.vocabulary
    }

    pub(super) fn ends(&self) -> &[Token] {
        &self.ends
    }

    /// What compiles grammars over these words.
    pub(super) fn grammars(&self) -> Result<&ParserFactory> {
        let prepared = self.grammars.get_or_init(|| self.prepare());
        prepared.as_ref().map_err(|error| Error::Internal(format!("grammars cannot be prepared: {error}")))
    }

    fn prepare(&self) -> std::result::Result<ParserFactory, String> {
        let vocabulary = &self.vocabulary;
        let bytes = |token: Token| {
            if vocabulary.is_special(token) || vocabulary.is_end(token) {
                // Such a token is named in a grammar or not meant at all: no text has it.
                return [&[TokTrie::SPECIAL_TOKEN_MARKER], vocabulary.bytes(token, true).as_slice()].concat();
            }
            vocabulary.bytes(token, false)
        };
        let words: Vec<Vec<u8>> = (0..vocabulary.len()).map(bytes).collect();
        // A model without an end has one that is never chosen unless a grammar ends.
        let end = self.ends.first().copied().unwrap_or(0);
        let mut trie = TokTrie::from(&TokRxInfo::new(vocabulary.len(), end), &words);
        if self.ends.len() > 1 {
            trie = trie.with_eos_tokens(&self.ends);
        }
        let environment: toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| error.to_string())?;
        factory.quiet();
        // What it says of an error is told to the caller.
        factory.limits_mut().verbose_errors = false;
        Ok(factory)
    }
}
