use clap::{Args, value_parser};
use wattle_core::Name;

use super::finite;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wattle chat smollm\n  wattle chat smollm --system 'Answer in one sentence.' --temperature 0\n  wattle chat smollm -p 'What is a wattle?'\n  wattle chat smollm -o json <question.txt\n\nCtrl-C stops an answer, Ctrl-D ends the chat; /help lists what else there is."
)]
pub(crate) struct ChatFlags {
    /// The deployment.
    pub(crate) name: Name,
    /// Say this, print the answer, and end; without a terminal, what the standard input holds is said.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// What the model is told before the chat.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) system: Option<String>,
    /// Tokens of an answer at most [default: what the model's context holds].
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) max_tokens: Option<u32>,
    #[command(flatten)]
    pub(crate) sampling: SamplingFlags,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wattle generate smollm 'The wattle is a'\n  wattle generate smollm --max-tokens 64 --stop '\\n' <prompt.txt\n  wattle generate smollm 'A wattle as JSON: ' --json-schema tree.json\n  wattle generate smollm 'Wattles flower in the month of ' --regex '[A-Z][a-z]+' -o json\n\nThe text is continued as it is, without the model's template for chats."
)]
pub(crate) struct GenerateFlags {
    /// The deployment.
    pub(crate) name: Name,
    /// The text [default: the standard input, without a line break at its end].
    #[arg(allow_hyphen_values = true)]
    pub(crate) prompt: Option<String>,
    /// Tokens at most.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    /// End before this text; \n is a line break. May be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
    /// Answer in JSON that keeps to the JSON Schema in this file, or this one.
    #[arg(long, value_name = "FILE|JSON", conflicts_with = "regex")]
    pub(crate) json_schema: Option<String>,
    /// Answer with a text that all of this regular expression matches.
    #[arg(long, value_name = "REGEX", allow_hyphen_values = true)]
    pub(crate) regex: Option<String>,
    #[command(flatten)]
    pub(crate) sampling: SamplingFlags,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  wattle embed minilm 'a golden flower'\n  wattle embed minilm 'one text' 'another text' -o json\n  wattle embed minilm <lines.txt >vectors.jsonl"
)]
pub(crate) struct EmbedFlags {
    /// The deployment.
    pub(crate) name: Name,
    /// The texts [default: the lines of the standard input].
    pub(crate) texts: Vec<String>,
}

/// How tokens are chosen.
#[derive(Debug, Args)]
pub(crate) struct SamplingFlags {
    /// How freely tokens are chosen; 0 always takes the likeliest [default: 1].
    #[arg(long, value_name = "T", value_parser = temperature)]
    pub(crate) temperature: Option<f64>,
    /// Answer alike each time that this number is given [default: at random].
    #[arg(long, value_name = "N", value_parser = value_parser!(i64).range(0..))]
    pub(crate) seed: Option<i64>,
}

fn temperature(text: &str) -> Result<f64, String> {
    let number = finite(text)?;
    if (0.0..=100.0).contains(&number) { Ok(number) } else { Err("write a number from 0 to 100".into()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use crate::flags::{Command, Flags};

    fn parsed(line: &[&str]) -> Result<Command, clap::Error> {
        Flags::try_parse_from(["wattle"].iter().chain(line)).map(|flags| flags.command)
    }

    #[test]
    fn texts_may_begin_with_hyphens_and_numbers_have_ranges() {
        let Ok(Command::Chat(chat)) = parsed(&["chat", "m", "-p", "- a list?", "--temperature", "0"]) else { panic!() };
        assert_eq!((chat.prompt.as_deref(), chat.sampling.temperature), (Some("- a list?"), Some(0.0)));
        let Ok(Command::Generate(generate)) = parsed(&["generate", "m", "--stop", "a", "--stop", "-b"]) else {
            panic!()
        };
        assert_eq!((generate.prompt, generate.max_tokens), (None, 256));
        assert_eq!(generate.stop, ["a", "-b"]);
        let Ok(Command::Embed(embed)) = parsed(&["embed", "m", "a", "b c"]) else { panic!() };
        assert_eq!(embed.texts, ["a", "b c"]);
        for wrong in [
            &["chat", "m", "--temperature", "-1"][..],
            &["chat", "m", "--max-tokens", "0"],
            &["chat", "m", "--seed", "-1"],
            &["generate", "m", "a", "--regex", "a", "--json-schema", "{}"],
            &["generate", "m", "a", "b"],
            &["embed"],
        ] {
            assert!(parsed(wrong).is_err(), "{wrong:?}");
        }
    }
}
