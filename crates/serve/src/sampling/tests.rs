#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;
use wattle_engine::tokens::{Token, Vocabulary};

use super::*;
use crate::{
    Error,
    language::{Constraint, FinishReason, Prompt, Sampling},
};

/// 256 bytes, some words, and two special tokens, of which the second ends answers.
struct Bytes;

const WORDS: [&str; 6] = ["true", "\":", "name", "é", "日本", "00"];
const BEGINNING: Token = 262;
const END: Token = 263;

impl Vocabulary for Bytes {
    fn len(&self) -> u32 {
        264
    }

    fn encode(&self, text: &str, _: bool) -> Vec<Token> {
        text.bytes().map(Token::from).collect()
    }

    fn bytes(&self, token: Token, special: bool) -> Vec<u8> {
        match token {
            0..=255 => vec![token as u8],
            BEGINNING | END if special => format!("<{token}>").into_bytes(),
            BEGINNING | END => Vec::new(),
            _ => WORDS[token as usize - 256].as_bytes().to_vec(),
        }
    }

    fn beginning(&self) -> Option<Token> {
        Some(BEGINNING)
    }

    fn is_end(&self, token: Token) -> bool {
        token == END
    }

    fn is_special(&self, token: Token) -> bool {
        token == BEGINNING
    }
}

fn words() -> Words {
    Words::new(Arc::new(Bytes))
}

fn request() -> Generate {
    Generate {
        prompt: Prompt::Tokens(vec![1]),
        choices: 1,
        best_of: 1,
        max_tokens: None,
        stop: Vec::new(),
        ignore_end: false,
        sampling: Sampling::default(),
        constraint: Constraint::None,
        logprobs: None,
    }
}

/// Random logits, always the same for the same seed.
fn logits(seed: &mut fastrand::Rng) -> Vec<f32> {
    (0..264).map(|_| seed.f32() * 8.0 - 4.0).collect()
}

/// An answer over random logits: its text, and why it ended; `None` if it did not.
fn speak(request: &Generate, seed: u64, most: usize) -> Result<(String, Option<FinishReason>)> {
    let mut answer = answers(request, &[1], &words())?.remove(0);
    let (mut random, mut text) = (fastrand::Rng::with_seed(seed), String::new());
    for _ in 0..most {
        let advance = answer.advance(&mut logits(&mut random))?;
        text.push_str(&advance.text);
        if advance.finished.is_some() {
            return Ok((text, advance.finished));
        }
    }
    text.push_str(&answer.rest());
    Ok((text, None))
}

#[test]
fn the_greatest_logit_is_taken_without_a_temperature() {
    let request = Generate { sampling: Sampling { temperature: 0.0, ..Sampling::default() }, ..request() };
    let mut answer = answers(&request, &[], &words()).unwrap().remove(0);
    let mut row = vec![0.0; 264];
    (row[70], row[65], row[66]) = (f32::NAN, 2.0, 2.0);
    assert_eq!(answer.advance(&mut row).unwrap().token, 65);
    assert!(matches!(answer.advance(&mut [f32::NAN; 264]), Err(Error::Run(_))));
}

#[test]
fn tokens_come_as_often_as_they_are_likely() {
    let request =
        Generate { sampling: Sampling { temperature: 2.0, seed: Some(7), ..Sampling::default() }, ..request() };
    let mut answer = answers(&request, &[], &words()).unwrap().remove(0);
    let mut row = vec![f32::NEG_INFINITY; 264];
    for (token, share) in [(65, 0.5_f32), (66, 0.3), (67, 0.2)] {
        row[token] = 2.0 * share.ln();
    }
    let mut counts = [0_u32; 3];
    for _ in 0..20_000 {
        counts[answer.advance(&mut row.clone()).unwrap().token as usize - 65] += 1;
    }
    for (count, share) in counts.into_iter().zip([0.5, 0.3, 0.2]) {
        assert!((f64::from(count) / 20_000.0 - share).abs() < 0.015, "{counts:?}");
    }
}

/// The tokens that may be chosen at all.
fn support(sampling: &Sampling, row: &[f32], prompt: &[Token]) -> Vec<Token> {
    let sampling = Sampling { seed: Some(3), ..sampling.clone() };
    let request = Generate { sampling, ..request() };
    let mut seen = Vec::new();
    for index in 0..400 {
        let sampling = Sampling { seed: Some(index), ..request.sampling.clone() };
        let request = Generate { sampling, ..request.clone() };
        let mut answer = answers(&request, prompt, &words()).unwrap().remove(0);
        seen.push(answer.advance(&mut row.to_vec()).unwrap().token);
    }
    seen.sort_unstable();
    seen.dedup();
    seen
}

#[test]
fn the_choice_is_narrowed_as_was_asked() {
    let mut row = vec![f32::NEG_INFINITY; 264];
    for (token, share) in [(65, 0.4_f32), (66, 0.3), (67, 0.2), (68, 0.1)] {
        row[token] = share.ln();
    }
    let of = |change: &dyn Fn(&mut Sampling)| {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        support(&sampling, &row, &[65])
    };
    assert_eq!(of(&|_| {}), [65, 66, 67, 68]);
    assert_eq!(of(&|s| s.top_k = 2), [65, 66]);
    assert_eq!(of(&|s| s.top_p = 0.5), [65, 66]);
    assert_eq!(of(&|s| s.top_p = 0.0), [65]);
    assert_eq!(of(&|s| s.min_p = 0.6), [65, 66]);
    // Its entropy is 1.28, to which the surprise of the second, 1.20, is the closest, then that of the third, 1.61.
    assert_eq!(of(&|s| s.typical_p = 0.25), [66]);
    assert_eq!(of(&|s| s.typical_p = 0.45), [66, 67]);
    assert_eq!(of(&|s| s.logit_bias = vec![(65, -100.0), (70, 0.0)]), [66, 67, 68]);
    // The negative logit of a token of the prompt is multiplied.
    assert_eq!(of(&|s| (s.repetition_penalty, s.top_k) = (3.0, 1)), [66]);
}

#[test]
fn what_was_said_is_less_likely_to_be_said_again() {
    let sampling = Sampling { temperature: 0.0, frequency_penalty: 1.0, presence_penalty: 0.5, ..Sampling::default() };
    let mut answer = answers(&Generate { sampling, ..request() }, &[65], &words()).unwrap().remove(0);
    let mut row = vec![0.0; 264];
    (row[65], row[66]) = (4.0, 2.0);
    let said: Vec<Token> = (0..4).map(|_| answer.advance(&mut row.clone()).unwrap().token).collect();
    // 4, 2.5, then 1.5 against 2, then 1.5 against 0.5.
    assert_eq!(said, [65, 65, 66, 65]);
}

#[test]
fn the_same_seed_says_the_same() {
    let seeded = |seed| Generate { sampling: Sampling { seed, ..Sampling::default() }, ..request() };
    assert_eq!(speak(&seeded(Some(5)), 1, 50).unwrap(), speak(&seeded(Some(5)), 1, 50).unwrap());
    assert_ne!(speak(&seeded(Some(5)), 1, 50).unwrap().0, speak(&seeded(Some(6)), 1, 50).unwrap().0);
    assert_ne!(speak(&seeded(None), 1, 50).unwrap().0, speak(&seeded(None), 1, 50).unwrap().0);
    let two = Generate { choices: 2, best_of: 2, ..seeded(Some(5)) };
    assert_eq!(answers(&two, &[], &words()).unwrap().len(), 2);
}

#[test]
fn probabilities_are_those_of_the_model() {
    let sampling = Sampling { temperature: 0.0, logit_bias: vec![(66, 100.0)], ..Sampling::default() };
    let request = Generate { sampling, logprobs: Some(2), ..request() };
    let mut answer = answers(&request, &[], &words()).unwrap().remove(0);
    let mut row = vec![f32::NEG_INFINITY; 264];
    (row[65], row[66], row[67]) = (0.7_f32.ln(), 0.1_f32.ln(), 0.2_f32.ln());
    let chosen = answer.advance(&mut row).unwrap().chosen.unwrap();
    assert_eq!((chosen.token, chosen.bytes.as_slice()), (66, b"B".as_slice()));
    assert!((chosen.logprob - 0.1_f32.ln()).abs() < 1e-5);
    let alternatives: Vec<Token> = chosen.alternatives.iter().map(|one| one.token).collect();
    assert_eq!(alternatives, [65, 67]);
    assert!((chosen.alternatives[1].logprob - 0.2_f32.ln()).abs() < 1e-5);
}

#[test]
fn the_end_ends_unless_it_is_ignored() {
    let mut row = vec![0.0; 264];
    row[END as usize] = 9.0;
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let request = Generate { sampling, ..request() };
    let mut answer = answers(&request, &[], &words()).unwrap().remove(0);
    // Half a character is there when the end comes.
    let mut half = vec![0.0; 264];
    half[0xC3] = 9.0;
    assert_eq!(answer.advance(&mut half).unwrap().text, "");
    let advance = answer.advance(&mut row.clone()).unwrap();
    assert_eq!((advance.text.as_str(), advance.finished), ("\u{fffd}", Some(FinishReason::End)));
    let mut answer = answers(&Generate { ignore_end: true, ..request }, &[], &words()).unwrap().remove(0);
    assert_eq!(answer.advance(&mut row).unwrap().finished, None);
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Generate)| {
        let mut request = request();
        change(&mut request);
        match answers(&request, &[], &words()) {
            Err(Error::Invalid(why)) => why,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{request:?} is taken"),
        }
    };
    assert_eq!(refused(&|r| r.choices = 0), "n is 0: use a value from 1 to 128");
    assert_eq!(refused(&|r| r.best_of = 0), "best_of is 0: use a value from 1 to 128");
    assert!(refused(&|r| r.sampling.temperature = f32::NAN).starts_with("temperature is NaN"));
    assert!(refused(&|r| r.sampling.top_p = 1.5).contains("top_p is 1.5: use a value from 0 to 1"));
    assert!(refused(&|r| r.sampling.logit_bias = vec![(264, 1.0)]).contains("the vocabulary has 264"));
    assert!(refused(&|r| r.stop = vec![String::new()]).contains("use 1 to 1024"));
    assert!(refused(&|r| r.constraint = Constraint::JsonSchema("{".into())).contains("no JSON"));
    assert!(refused(&|r| r.constraint = Constraint::Regex("(".into())).contains("the form that was asked for"));
    assert!(refused(&|r| r.constraint = Constraint::Lark("start: nothing".into())).contains("form"));
    for schema in [r#"{"type": "string", "enum": []}"#, "false", r#"{"type": "integer", "minimum": 3, "maximum": 2}"#] {
        let why = refused(&|r| r.constraint = Constraint::JsonSchema(schema.into()));
        assert!(why.contains("form"), "{schema}: {why}");
    }
}

#[test]
fn hostile_forms_end_in_bounded_time() {
    let deep = format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let wide = format!("({}){{1000}}{{1000}}", "a|".repeat(1000));
    let nested = format!("{}{{}}{}", r#"{"items":"#.repeat(5000), "}".repeat(5000));
    for constraint in [
        Constraint::Regex(deep),
        Constraint::Regex(wide),
        Constraint::JsonSchema(nested),
        Constraint::Lark("start: start start | \"a\"".into()),
        Constraint::JsonSchema(r##"{"$ref": "#"}"##.into()),
    ] {
        // Refused, or usable; but never without an end.
        let _ = speak(&Generate { constraint, ..request() }, 1, 20);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_schema_is_kept_whatever_the_model_says(seed in any::<u64>(), temperature in 0_u8..3) {
        let schemas = [
            r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "minimum": 0, "maximum": 150}}, "required": ["name", "age"], "additionalProperties": false}"#,
            r#"{"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}"#,
            r#"{"enum": ["red", "green", 3, null]}"#,
            r##"{"$defs": {"leaf": {"type": "number", "minimum": 0, "maximum": 1}}, "type": "object", "properties": {"a": {"$ref": "#/$defs/leaf"}}, "required": ["a"], "additionalProperties": false}"##,
            r#"{"anyOf": [{"type": "null"}, {"type": "string", "pattern": "^[a-z]{1,3}$"}]}"#,
        ];
        for schema in schemas {
            let sampling = Sampling { temperature: f32::from(temperature), seed: Some(seed), ..Sampling::default() };
            let constraint = Constraint::JsonSchema(schema.into());
            let (text, finished) = speak(&Generate { sampling, constraint, ..request() }, seed, 2000).unwrap();
            if finished == Some(FinishReason::End) {
                let value: Value = serde_json::from_str(&text).unwrap();
                prop_assert!(fits(&value, schema), "{}: {}", schema, text);
            }
        }
    }

    #[test]
    fn expressions_and_grammars_are_kept(seed in any::<u64>()) {
        let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
        let constraint = Constraint::Regex("[0-9]{3}-(yes|no)".into());
        let (text, finished) = speak(&Generate { sampling: sampling.clone(), constraint, ..request() }, seed, 100).unwrap();
        prop_assert_eq!(finished, Some(FinishReason::End));
        let (number, word) = text.split_once('-').unwrap();
        prop_assert!(number.len() == 3 && number.parse::<u32>().is_ok() && matches!(word, "yes" | "no"));
        let constraint = Constraint::Lark("start: \"<\" /[a-c]{2}/ \">\"".into());
        let (text, finished) = speak(&Generate { sampling, constraint, ..request() }, seed, 100).unwrap();
        prop_assert_eq!(finished, Some(FinishReason::End));
        prop_assert!(text.len() == 4 && text.starts_with('<') && text.ends_with('>'));
    }
}

/// Whether a value is what one of the schemas above says.
fn fits(value: &Value, schema: &str) -> bool {
    match schema {
        s if s.contains("\"age\"") => {
            let object = value.as_object().unwrap();
            object.len() == 2
                && object["name"].as_str().unwrap().chars().count() <= 5
                && object["age"].as_i64().is_some_and(|age| (0..=150).contains(&age))
        }
        s if s.contains("boolean") => {
            value.as_array().is_some_and(|all| (2..=3).contains(&all.len()) && all.iter().all(Value::is_boolean))
        }
        s if s.contains("\"red\"") => matches!(value.to_string().as_str(), "\"red\"" | "\"green\"" | "3" | "null"),
        s if s.contains("leaf") => value["a"].as_f64().is_some_and(|number| (0.0..=1.0).contains(&number)),
        _ => value.is_null() || value.as_str().is_some_and(|text| (1..=3).contains(&text.len())),
    }
}
