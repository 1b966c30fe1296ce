use anyhow::Result;
use serde_json::{Map, Value, json};

use super::{
    Context,
    language::{Answer, Screen, aside, read_input, sample},
    predict::read_json,
};
use crate::{
    flags::{GenerateFlags, OutputFormat},
    output::print_line,
};

pub(crate) async fn run(context: &Context, flags: GenerateFlags) -> Result<()> {
    let prompt = match &flags.prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let text = read_input("give the text to continue")?;
            let line = text.strip_suffix('\n').unwrap_or(&text);
            line.strip_suffix('\r').unwrap_or(line).to_owned()
        }
    };
    let body = body(&flags, prompt)?;
    let mut answer = Answer::new();
    match context.output {
        OutputFormat::Json => {
            answer.follow(&context.client, "/v1/completions", body, |_| Ok(())).await?;
            print_line(&answer.to_json().to_string())?;
        }
        OutputFormat::Table => {
            let mut screen = Screen::new();
            let outcome = answer.follow(&context.client, "/v1/completions", body, |part| screen.print(part)).await;
            screen.end()?;
            outcome?;
            aside(&answer.describe());
        }
    }
    Ok(())
}

fn body(flags: &GenerateFlags, prompt: String) -> Result<Value> {
    let mut body = Map::new();
    body.insert("model".into(), flags.name.to_string().into());
    body.insert("prompt".into(), prompt.into());
    body.insert("max_tokens".into(), flags.max_tokens.into());
    if !flags.stop.is_empty() {
        let stops = flags.stop.iter().map(|text| Value::String(text.replace("\\n", "\n")));
        body.insert("stop".into(), stops.collect());
    }
    if let Some(schema) = &flags.json_schema {
        let format = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": read_json(schema)?}});
        body.insert("response_format".into(), format);
    }
    body.extend(flags.regex.clone().map(|regex| ("guided_regex".into(), regex.into())));
    sample(&mut body, &flags.sampling);
    Ok(body.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;

    use super::*;
    use crate::flags::{Command, Flags};

    fn asked(line: &[&str]) -> Value {
        let flags = Flags::try_parse_from(["wattle", "generate", "m"].iter().chain(line)).unwrap();
        let Command::Generate(flags) = flags.command else { panic!() };
        body(&flags, "a".into()).unwrap()
    }

    #[test]
    fn flags_become_a_request() {
        assert_eq!(asked(&[]), json!({"model": "m", "prompt": "a", "max_tokens": 256}));
        let body = asked(&["--stop", "\\n\\n", "--regex", "[ab]+", "--temperature", "0", "--seed", "7"]);
        assert_eq!(body["stop"], json!(["\n\n"]));
        assert_eq!((&body["guided_regex"], &body["seed"]), (&json!("[ab]+"), &json!(7)));
        assert_eq!(body["temperature"], 0.0);
        let body = asked(&["--json-schema", "{\"type\": \"object\"}"]);
        assert_eq!(body["response_format"]["json_schema"]["schema"], json!({"type": "object"}));
    }
}
