//! What language models count.

use wattle_core::Label;
use wattle_serve::{
    metrics::Distribution,
    tokens::{Statistics, Times},
};

use super::Told;
use crate::http::exposition::{Exposition, Kind};

/// A count or a state of a scheduler's.
type Of<'a> = &'a dyn Fn(&Statistics) -> u64;

/// Writes it all, of those revisions that are language models.
pub(super) fn tell(revisions: &[Told], to: &mut Exposition) {
    let all: Vec<(&Told, Statistics)> = revisions
        .iter()
        .map(|told| (told, told.metrics.tokens()))
        .filter(|(_, statistics)| statistics.steps > 0 || statistics.cells > 0)
        .collect();
    if all.is_empty() {
        return;
    }
    let mut family = |name, kind, help: &str, label: &'static str, figures: &[(&'static str, Of<'_>)]| {
        to.family(name, kind, help);
        for (told, statistics) in &all {
            for (value, of) in figures {
                match label {
                    "" => to.sample(&told.labels, of(statistics)),
                    _ => to.sample(&told.labels.and(label, *value), of(statistics)),
                }
            }
        }
    };
    family(
        "wattle_generations",
        Kind::Gauge,
        "Requests of language models by state.",
        "state",
        &[("running", &|s| s.running), ("waiting", &|s| s.waiting)],
    );
    family(
        "wattle_tokens_total",
        Kind::Counter,
        "Tokens of language models by what became of them.",
        "kind",
        &[
            ("prompt", &|s| s.prompt_tokens),
            ("cached", &|s| s.cached_tokens),
            ("completion", &|s| s.completion_tokens),
            ("wasted", &|s| s.wasted_tokens),
            ("drafted", &|s| s.drafted_tokens),
            ("accepted", &|s| s.accepted_tokens),
            ("evicted", &|s| s.evicted_tokens),
        ],
    );
    family(
        "wattle_kv_cells",
        Kind::Gauge,
        "Tokens whose keys and values are kept.",
        "state",
        &[("capacity", &|s| s.cells), ("used", &|s| s.cells_used), ("shared", &|s| s.cells_shared)],
    );
    family(
        "wattle_offloaded_bytes",
        Kind::Gauge,
        "Keys and values that are kept outside of the cells.",
        "",
        &[("", &|s| s.offloaded_bytes)],
    );
    family(
        "wattle_prefix_lookups_total",
        Kind::Counter,
        "Prompts by whether a beginning was there.",
        "result",
        &[("hit", &|s| s.prefix_hits), ("miss", &|s| s.prefix_lookups - s.prefix_hits.min(s.prefix_lookups))],
    );
    family(
        "wattle_preemptions_total",
        Kind::Counter,
        "Answers that had to make room for others.",
        "",
        &[("", &|s| s.preemptions)],
    );
    family("wattle_scheduler_steps_total", Kind::Counter, "Steps of the scheduler.", "", &[("", &|s| s.steps)]);
    family(
        "wattle_embedded_texts_total",
        Kind::Counter,
        "Texts that were embedded.",
        "",
        &[("", &|s| s.embedded_texts)],
    );
    let mut times = |name, help: &str, of: fn(&Statistics) -> &Times| {
        to.family(name, Kind::Histogram, help);
        for (told, statistics) in &all {
            let distribution: Option<Distribution> = of(statistics).distribution();
            to.distribution(&told.labels, distribution);
        }
    };
    times("wattle_time_to_first_token_seconds", "Time until an answer's first token.", |s| &s.first_token);
    times("wattle_inter_token_latency_seconds", "Time between an answer's tokens.", |s| &s.inter_token);
    to.family("wattle_wasted_joules_total", Kind::Counter, "Energy of answers whose callers left; a part of all.");
    for (told, _) in &all {
        let wasted = told.metrics.wasted();
        to.sample(&told.labels, wasted.joules(Label::Measured) + wasted.joules(Label::Estimated));
    }
}
