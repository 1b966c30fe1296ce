//! The scheduler over llama.cpp: what is said does not depend on the company.
#![cfg(feature = "llama")]
#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "what the engine's own tests use as well")]
#[path = "../../engine/tests/llama/models.rs"]
mod models;

use std::{fs, path::Path, time::Duration};

use futures::{StreamExt, future::join_all};
use models::Decoder;
use wattle_serve::{
    Error, Instance, Result,
    language::{Chosen, Constraint, FinishReason, Generate, Piece, Prompt, Sampling, TokenUsage},
    speaker::{Asker, LocalSpeaker, Speaker, SpeakerSettings},
};

/// Kernels round otherwise for other sizes of batches: a choice between tokens whose log-probabilities are this close may
/// turn out either way. It is what the engine's own tests allow of logits.
const TOLERANCE: f32 = 0.02;

fn settings() -> SpeakerSettings {
    SpeakerSettings {
        identity: "test".into(),
        threads: 2,
        sequences: 16,
        cells: 4096,
        context_tokens: None,
        max_inter_token: Duration::from_millis(100),
        max_waiting: 100,
        max_tenant_requests: 100,
        speculates: false,
        processors: None,
        saved: None,
        saved_bytes: 1 << 26,
    }
}

fn load(path: &Path, settings: &SpeakerSettings) -> LocalSpeaker {
    Decoder { context_tokens: 2048, ..Decoder::SMALL }.write(path);
    LocalSpeaker::load(path, settings).unwrap()
}

fn greedy(text: &str, max_tokens: u32) -> Generate {
    Generate {
        prompt: Prompt::Text { text: text.into(), special: false },
        choices: 1,
        best_of: 1,
        max_tokens: Some(max_tokens),
        stop: Vec::new(),
        ignore_end: true,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        constraint: Constraint::None,
        logprobs: Some(2),
    }
}

#[derive(Debug)]
struct Said {
    text: String,
    tokens: Vec<Chosen>,
    ends: Vec<FinishReason>,
    usage: TokenUsage,
}

async fn say(speaker: &LocalSpeaker, request: Generate) -> Result<Said> {
    let mut pieces = speaker.generate(request, Asker::default()).await?;
    let (mut text, mut all, mut ends) = (String::new(), Vec::new(), Vec::new());
    while let Some(piece) = pieces.next().await {
        match piece? {
            Piece::Begun { .. } => {}
            Piece::Text { text: more, tokens, .. } => {
                text.push_str(&more);
                all.extend(tokens);
            }
            Piece::Ended { reason, .. } => ends.push(reason),
            Piece::Done(usage) => return Ok(Said { text, tokens: all, ends, usage }),
        }
    }
    panic!("an answer without an end")
}

/// The same tokens, up to a choice that rounding may turn; how many are the same.
fn assert_same(alone: &Said, together: &Said) -> usize {
    let pairs = alone.tokens.iter().zip(&together.tokens);
    let same = pairs.take_while(|(one, other)| one.token == other.token).count();
    if let Some(differs) = alone.tokens.get(same) {
        let gap = differs.alternatives[0].logprob - differs.alternatives[1].logprob;
        assert!(gap < TOLERANCE, "the token at {same} differs although the choice is clear: {gap}");
    }
    for (one, other) in alone.tokens.iter().zip(&together.tokens).take(same) {
        assert!((one.logprob - other.logprob).abs() < TOLERANCE, "{} and {}", one.logprob, other.logprob);
    }
    same
}

/// 8 answers, of which every two begin with the same text.
fn prompts() -> Vec<String> {
    (0..8).map(|index| format!("{}, said number {index}", "once upon a time ".repeat(5 + index / 2))).collect()
}

async fn alone(speaker: &LocalSpeaker, max_tokens: u32) -> Vec<Said> {
    let mut said = Vec::new();
    for prompt in prompts() {
        said.push(say(speaker, greedy(&prompt, max_tokens)).await.unwrap());
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_at_once_say_what_each_says_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let expected = alone(&load(&path, &settings()), 40).await;
    let tight = SpeakerSettings { cells: 256, ..settings() };
    let drafting = SpeakerSettings { speculates: true, ..settings() };
    let both = SpeakerSettings { speculates: true, ..tight.clone() };
    // Room for eight contexts, each apart from the others.
    let divided = SpeakerSettings { context_tokens: Some(512), ..settings() };
    let drafting_apart = SpeakerSettings { speculates: true, ..divided.clone() };
    for settings in [settings(), drafting, tight, both, divided, drafting_apart] {
        let speaker = load(&path, &settings);
        let asked = prompts().into_iter().map(|prompt| say(&speaker, greedy(&prompt, 40)));
        let said = join_all(asked).await;
        let mut same = 0;
        for (alone, together) in expected.iter().zip(said) {
            let together = together.unwrap();
            assert_eq!((alone.tokens.len(), together.tokens.len()), (40, 40));
            assert_eq!(together.ends, [FinishReason::Length]);
            same += assert_same(alone, &together);
        }
        let statistics = speaker.statistics();
        assert!(same > 160, "only {same} of 320 tokens are the same");
        assert!(statistics.cached_tokens > 0, "{statistics:?}");
        if settings.cells == 256 {
            assert!(statistics.preemptions > 0 || statistics.evicted_tokens > 0, "{statistics:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_waits_until_it_is_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let processors = folder.path().join("processors");
    fs::create_dir(&processors).unwrap();
    // Another model's step, which another one waits for already.
    let others = fs::File::create(processors.join("next")).unwrap();
    others.lock().unwrap();
    let speaker =
        load(&folder.path().join("model.gguf"), &SpeakerSettings { processors: Some(processors), ..settings() });
    let mut asked = Box::pin(say(&speaker, greedy("once", 4)));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut asked).await.is_err());
    others.unlock().unwrap();
    assert_eq!(asked.await.unwrap().tokens.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_not_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("prefixes");
    let settings = SpeakerSettings { saved: Some(saved.clone()), ..settings() };
    let speaker = load(&folder.path().join("model.gguf"), &settings);
    let common = "you are a helpful assistant ".repeat(10);
    let first = say(&speaker, greedy(&format!("{common}one"), 3)).await.unwrap();
    assert_eq!(first.usage.cached_tokens, 0);
    assert!(first.usage.cpu_seconds > 0.0);
    for text in ["two", "three"] {
        let again = say(&speaker, greedy(&format!("{common}{text}"), 3)).await.unwrap();
        assert!(again.usage.cached_tokens >= 200, "{:?}", again.usage);
    }
    speaker.save().await;
    drop(speaker);
    let speaker = load(&folder.path().join("model.gguf"), &settings);
    let warm = say(&speaker, greedy(&format!("{common}four"), 3)).await.unwrap();
    assert!(warm.usage.cached_tokens >= 200, "{:?}", warm.usage);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_is_kept_and_what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let speaker = load(&folder.path().join("model.gguf"), &settings());
    let constraint = Constraint::JsonSchema(
        r#"{"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
            "required": ["n", "ok"], "additionalProperties": false}"#
            .into(),
    );
    let asked = (0..6).map(|seed| {
        let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
        say(&speaker, Generate { constraint: constraint.clone(), sampling, ignore_end: false, ..greedy("json:", 200) })
    });
    for said in join_all(asked).await {
        let said = said.unwrap();
        assert_eq!(said.ends, [FinishReason::End]);
        let value: serde_json::Value = serde_json::from_str(&said.text).unwrap();
        assert!(value["n"].as_u64().unwrap() < 100 && value["ok"].is_boolean(), "{value}");
    }
    let refused = async |request: Generate| say(&speaker, request).await.unwrap_err().to_string();
    let never = Generate { constraint: Constraint::JsonSchema("false".into()), ..greedy("a", 5) };
    assert!(refused(never).await.contains("form"));
    let long = refused(greedy(&"word ".repeat(1000), 5)).await;
    assert!(long.contains("tokens, and the model's context holds 2048"), "{long}");
    let longer = refused(greedy(&"word ".repeat(100_000), 5)).await;
    assert!(longer.contains("500000 bytes"), "{longer}");
    let unknown = refused(Generate { prompt: Prompt::Tokens(vec![1, 99_999]), ..greedy("", 5) }).await;
    assert!(unknown.contains("there is no token 99999"), "{unknown}");
    let embeds = speaker.embed(vec![Prompt::Tokens(vec![1])], Asker::default()).await;
    assert!(matches!(embeds, Err(Error::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn words_are_told_and_taken() {
    let folder = tempfile::tempdir().unwrap();
    let speaker = load(&folder.path().join("model.gguf"), &settings());
    let tokens = speaker.tokenize(Prompt::Text { text: "this".into(), special: false }).await.unwrap();
    assert_eq!(tokens[0], models::BEGINNING);
    assert_eq!(speaker.detokenize(tokens[1..].to_vec()).await.unwrap(), b"this");
}
