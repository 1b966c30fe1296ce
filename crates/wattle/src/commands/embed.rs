use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use wattle_core::grouped;

use super::{
    Context,
    language::{aside, energy, read_input},
};
use crate::{
    flags::{EmbedFlags, OutputFormat},
    output::{print_line, quantity},
};

/// How many texts are sent at once.
const TEXTS_OF_A_CALL: usize = 256;

#[derive(Debug, Deserialize)]
struct Embedded {
    data: Vec<Vector>,
    usage: Value,
}

#[derive(Debug, Deserialize)]
struct Vector {
    /// As the server wrote it: to read the numbers and write them again would lengthen them.
    embedding: Box<RawValue>,
}

pub(crate) async fn run(context: &Context, flags: EmbedFlags) -> Result<()> {
    let texts = match flags.texts.is_empty() {
        false => flags.texts,
        true => lines(&read_input("give the texts")?),
    };
    check(&texts)?;
    let (mut vectors, mut tokens, mut joules) = (Vec::new(), 0, None);
    for texts in texts.chunks(TEXTS_OF_A_CALL) {
        let body = json!({"model": flags.name, "input": texts});
        let embedded: Embedded = context.client.post("/v1/embeddings", &body).await?;
        if embedded.data.len() != texts.len() {
            bail!("the server answered {} texts with {} vectors", texts.len(), embedded.data.len());
        }
        tokens += embedded.usage["prompt_tokens"].as_u64().unwrap_or(0);
        if let Some((used, _)) = energy(&embedded.usage) {
            *joules.get_or_insert(0.0) += used;
        }
        for Vector { embedding } in embedded.data {
            match context.output {
                OutputFormat::Table => print_line(embedding.get())?,
                OutputFormat::Json => vectors.push(embedding),
            }
        }
    }
    match context.output {
        OutputFormat::Json => {
            let usage = json!({"prompt_tokens": tokens, "energy_joules": joules});
            print_line(&serde_json::to_string(&Record { embeddings: vectors, usage })?)?;
        }
        OutputFormat::Table => {
            let energy = joules.map_or_else(String::new, |joules| format!(", {}", quantity(joules, "J")));
            let noun = if texts.len() == 1 { "text" } else { "texts" };
            aside(&format!("{} {noun}, {} tokens{energy}", grouped(texts.len() as u64), grouped(tokens)));
        }
    }
    Ok(())
}

/// What scripts read.
#[derive(Debug, serde::Serialize)]
struct Record {
    embeddings: Vec<Box<RawValue>>,
    usage: Value,
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn check(texts: &[String]) -> Result<()> {
    if texts.is_empty() {
        bail!("there is no text: give one, or lines on the standard input");
    }
    match texts.iter().position(String::is_empty) {
        Some(at) => bail!("text {} is empty: leave it out", at + 1),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_line_is_a_text_and_none_is_empty() {
        assert_eq!(lines("a b\r\nc\n"), ["a b", "c"]);
        assert!(check(&lines("a\nb")).is_ok());
        assert!(check(&lines("")).is_err());
        assert_eq!(check(&lines("a\n\nb")).unwrap_err().to_string(), "text 2 is empty: leave it out");
    }

    #[test]
    fn numbers_stay_as_the_server_wrote_them() {
        let embedded: Embedded =
            serde_json::from_str(r#"{"data": [{"embedding": [0.1,-2e-8]}], "usage": {}}"#).unwrap();
        assert_eq!(embedded.data[0].embedding.get(), "[0.1,-2e-8]");
    }
}
