//! A histogram for people: how many answers took how long, on a scale whose steps grow.

use hdrhistogram::Histogram;
use serde::Serialize;
use wattle_core::grouped;

use crate::output::quantity;

/// The beginnings of the bars in a decade, the finest first.
const STEPS: [&[f64]; 3] = [&[1.0, 1.5, 2.0, 3.0, 5.0, 7.0], &[1.0, 2.0, 5.0], &[1.0]];
/// From a nanosecond to hours.
const DECADES: i32 = 14;
/// More bars than these are drawn with coarser steps.
const MOST_BARS: usize = 14;
/// The columns of the longest bar.
const WIDTH: f64 = 40.0;

/// The answers that took as long as this and less than as the next one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Bar {
    pub(super) from_ms: f64,
    pub(super) count: u64,
}

/// The bars of times in nanoseconds, from the shortest to the longest; empty without any.
pub(super) fn bars(times: &Histogram<u64>) -> Vec<Bar> {
    let mut bars = Vec::new();
    for steps in STEPS {
        bars = bars_at(times, steps);
        if bars.len() <= MOST_BARS {
            break;
        }
    }
    bars
}

/// The bars as lines.
pub(super) fn draw(bars: &[Bar]) -> String {
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0).max(1) as f64;
    let line = |bar: &Bar| {
        let filled = (bar.count as f64 / most * WIDTH).round() as usize;
        let filled = if bar.count > 0 { "█".repeat(filled.max(1)) } else { String::new() };
        format!("{:>9}  {filled} {}\n", quantity(bar.from_ms / 1e3, "s"), grouped(bar.count))
    };
    bars.iter().map(line).collect()
}

fn bars_at(times: &Histogram<u64>, steps: &[f64]) -> Vec<Bar> {
    let edges: Vec<u64> = (0..DECADES)
        .flat_map(|decade| steps.iter().map(move |step| (step * 10_f64.powi(decade)).round() as u64))
        .collect();
    // The last edge that is not beyond a value.
    let place = |value: u64| edges.partition_point(|edge| *edge <= value).saturating_sub(1);
    let mut counts = vec![0; edges.len()];
    for step in times.iter_recorded() {
        counts[place(step.value_iterated_to())] += step.count_at_value();
    }
    let bars = std::iter::zip(&edges, &counts).map(|(edge, count)| Bar { from_ms: *edge as f64 / 1e6, count: *count });
    let (first, last) = (counts.iter().position(|count| *count > 0), counts.iter().rposition(|count| *count > 0));
    bars.take(last.map_or(0, |last| last + 1)).skip(first.unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_answer_is_in_one_bar() {
        let mut times = Histogram::<u64>::new_with_bounds(1, 10_000_000_000_000, 3).unwrap();
        assert_eq!(bars(&times), []);
        for nanos in [150_000, 160_000, 199_000, 250_000, 3_000_000] {
            times.record(nanos).unwrap();
        }
        let found = bars(&times);
        assert_eq!(
            found[..3].iter().map(|bar| (bar.from_ms, bar.count)).collect::<Vec<_>>(),
            [(0.15, 3), (0.2, 1), (0.3, 0)]
        );
        assert_eq!(found.iter().map(|bar| bar.count).sum::<u64>(), 5);
        assert_eq!(draw(&found[..2]), format!("   150 µs  {} 3\n   200 µs  {} 1\n", "█".repeat(40), "█".repeat(13)));
        times.record(1).unwrap();
        times.record(9_000_000_000_000).unwrap();
        let found = bars(&times);
        assert!(found.len() <= MOST_BARS && found.iter().map(|bar| bar.count).sum::<u64>() == 7, "{found:?}");
    }
}
