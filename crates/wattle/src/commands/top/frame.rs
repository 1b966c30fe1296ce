//! A frame of `wattle top` as lines of text.

use super::figures::{Figures, Row};
use crate::flags::TopOrder;

/// What is shown.
pub(super) enum Shown<'a> {
    /// The figures of the last interval.
    Figures(&'a Figures),
    /// The first look; rates need a second one.
    First,
    /// Why there are none.
    Away(&'a str),
}

/// How it is shown.
pub(super) struct View<'a> {
    pub(super) url: &'a str,
    pub(super) order: TopOrder,
    pub(super) paused: bool,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// The lines of a frame, each at most as wide as the screen, and at most as many as fit. The table's head is the line of
/// this number.
pub(super) const HEAD_LINE: usize = 4;

/// Above the table, and the keys below it.
const OTHER_LINES: usize = HEAD_LINE + 2;
const LEAST_NAME: usize = 11;
/// The columns after the names, each with its width.
const COLUMNS: [(&str, usize); 10] = [
    ("CALLS/S", 7),
    ("P50", 6),
    ("P99", 6),
    ("FAIL", 5),
    ("ROWS", 5),
    ("WAIT", 5),
    ("RUN", 4),
    ("MEMORY", 7),
    ("POWER", 7),
    ("J/CALL", 7),
];
/// The model's name is shown where there is room for it.
const WIDE: usize = 110;

pub(super) fn frame(shown: &Shown<'_>, view: &View<'_>) -> Vec<String> {
    let mut lines = match shown {
        Shown::Figures(figures) => summary(figures, view),
        Shown::First => vec![format!("wattle at {}", view.url), "looking…".into(), String::new(), String::new()],
        Shown::Away(why) => [format!("wattle at {}", view.url)].into_iter().chain(wrapped(why, view.width)).collect(),
    };
    if let Shown::Figures(figures) = shown {
        let widths = Widths::of(&figures.deployments, view.width);
        lines.push(widths.line(&["DEPLOYMENT", "MODEL"], &COLUMNS.map(|(name, _)| name.to_owned())));
        let room = view.height.saturating_sub(OTHER_LINES).max(1);
        let fits = figures.deployments.len() <= room;
        let rows = if fits { room } else { room - 1 };
        lines.extend(figures.deployments.iter().take(rows).map(|row| widths.row(row)));
        if !fits {
            lines.push(format!("and {} more: s sorts them", figures.deployments.len() - rows));
        }
        if figures.deployments.is_empty() {
            lines.push("nothing is deployed: `wattle deploy MODEL` deploys a model".into());
        }
    }
    lines.truncate(view.height.saturating_sub(1));
    lines.into_iter().map(|line| cut(&line, view.width).trim_end().to_owned()).collect()
}

/// The last line of the screen.
pub(super) fn keys(view: &View<'_>) -> String {
    let pause = if view.paused { "p go on (paused)" } else { "p pause" };
    cut(&format!("q quit   s sort (by {})   {pause}", view.order.as_str()), view.width)
}

fn summary(figures: &Figures, view: &View<'_>) -> Vec<String> {
    let loaded = figures.deployments.iter().filter(|row| row.loaded).count();
    let budget = match figures.budget_bytes {
        bytes if bytes > 0.0 => format!(" of {}", size(bytes)),
        _ => String::new(),
    };
    let state = if figures.ready { "" } else { "  shutting down" };
    vec![
        format!(
            "wattle {}  {}  up {}  {} deployed, {loaded} in memory{state}",
            figures.version,
            view.url,
            duration(figures.uptime_seconds),
            figures.deployments.len()
        ),
        format!(
            "calls {}/s  p50 {}  p99 {}  failed {}  waiting {}  running {}",
            count(figures.calls_per_second),
            figures.p50_seconds.map_or_else(none, time),
            figures.p99_seconds.map_or_else(none, time),
            figures.failed.map_or_else(none, percent),
            count(figures.queued),
            count(figures.in_flight)
        ),
        format!(
            "models {}{budget}  process {}  processors {:.2}  power {}",
            size(figures.resident_bytes),
            size(figures.process_bytes),
            figures.processors,
            small(figures.watts, "W")
        ),
        String::new(),
    ]
}

struct Widths {
    name: usize,
    /// Absent where there is no room for it.
    model: Option<usize>,
}

impl Widths {
    fn of(rows: &[Row], width: usize) -> Widths {
        let figures: usize = COLUMNS.iter().map(|(_, width)| width + 1).sum();
        let longest = |text: fn(&Row) -> &str| rows.iter().map(|row| text(row).chars().count()).max().unwrap_or(0);
        let room = width.saturating_sub(figures).max(LEAST_NAME);
        let name = longest(|row| &row.deployment).max(LEAST_NAME);
        if width < WIDE {
            return Widths { name: name.min(room), model: None };
        }
        let model = longest(|row| &row.model).max(5).min(room / 2);
        Widths { name: name.min(room - model - 2), model: Some(model) }
    }

    fn line(&self, names: &[&str; 2], cells: &[String; 10]) -> String {
        let mut line = format!("{:1$}", cut(names[0], self.name), self.name);
        if let Some(model) = self.model {
            line += &format!("  {:1$}", cut(names[1], model), model);
        }
        for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
            line += &format!(" {cell:>width$}");
        }
        line
    }

    fn row(&self, row: &Row) -> String {
        let memory = if row.loaded || row.resident_bytes > 0.0 { size(row.resident_bytes) } else { none() };
        let cells = [
            count(row.calls_per_second),
            row.p50_seconds.map_or_else(none, time),
            row.p99_seconds.map_or_else(none, time),
            row.failed.map_or_else(none, percent),
            row.rows_per_batch.map_or_else(none, count),
            count(row.queued),
            count(row.in_flight),
            memory,
            small(row.watts, "W"),
            row.joules_per_call.map_or_else(none, |joules| small(joules, "J")),
        ];
        self.line(&[&row.deployment, &row.model], &cells)
    }
}

fn none() -> String {
    "-".into()
}

/// A text in lines of at most so many characters, as far as its words are no longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// A text of at most so many characters; `…` stands for what is left out.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let kept: String = text.chars().take(width.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// A figure of at most five characters, as `12.3k`.
fn count(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", short(value / 1e6)),
        value if value >= 1e3 => format!("{}k", short(value / 1e3)),
        value if value.fract() == 0.0 => format!("{value:.0}"),
        value => short(value),
    }
}

/// A quantity with its prefix and without a space, as `335µs`.
fn small(value: f64, unit: &str) -> String {
    const PREFIXES: [(f64, &str); 6] = [(1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")];
    if value < 1e-9 {
        return format!("0{unit}");
    }
    let (scale, prefix) = PREFIXES.into_iter().find(|(scale, _)| value >= *scale).unwrap_or((1e-9, "n"));
    format!("{}{prefix}{unit}", short(value / scale))
}

fn time(seconds: f64) -> String {
    small(seconds, "s")
}

fn percent(part: f64) -> String {
    match part * 100.0 {
        0.0 => "0%".into(),
        value if value < 0.1 => "<.1%".into(),
        value if value < 10.0 => format!("{value:.1}%"),
        value => format!("{value:.0}%"),
    }
}

fn size(bytes: f64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0}B") } else { format!("{}{}", short(value), UNITS[unit]) }
}

/// Three digits at most, where there are no more before the point.
fn short(value: f64) -> String {
    match value {
        value if value >= 99.95 => format!("{value:.0}"),
        value if value >= 9.995 => format!("{value:.1}"),
        value if value >= 0.095 => format!("{value:.2}"),
        value => format!("{value:.3}"),
    }
}

/// A long time, as `3h12m`.
fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str) -> Row {
        Row {
            deployment: name.into(),
            model: "a-model-with-a-long-name:12".into(),
            loaded: true,
            calls_per_second: 12_345.6,
            p50_seconds: Some(0.000_335),
            p99_seconds: Some(0.012_3),
            failed: Some(0.002),
            rows_per_batch: Some(12.34),
            queued: 1234.0,
            in_flight: 64.0,
            resident_bytes: 1023.4 * 1024.0 * 1024.0,
            watts: 0.123_4,
            joules_per_call: Some(0.000_209),
        }
    }

    fn figures(deployments: Vec<Row>) -> Figures {
        Figures {
            version: "0.1.0".into(),
            ready: true,
            uptime_seconds: 11_520.0,
            interval_seconds: 1.0,
            calls_per_second: 12_345.6,
            failed: Some(0.5),
            p50_seconds: None,
            p99_seconds: Some(1.5),
            queued: 0.0,
            in_flight: 2.0,
            resident_bytes: 12.3 * 1024.0 * 1024.0,
            budget_bytes: 1024.0 * 1024.0 * 1024.0,
            process_bytes: 58.0 * 1024.0 * 1024.0,
            processors: 0.37,
            watts: 12.34,
            deployments,
        }
    }

    fn view(width: usize, height: usize) -> View<'static> {
        View { url: "http://127.0.0.1:8080", order: TopOrder::Calls, paused: false, width, height }
    }

    #[test]
    fn a_frame_of_a_small_screen_has_everything() {
        let figures = figures(vec![row("line"), Row { p50_seconds: None, failed: None, ..row("a-rather-long-name") }]);
        let lines = frame(&Shown::Figures(&figures), &view(80, 24));
        assert_eq!(
            lines,
            [
                "wattle 0.1.0  http://127.0.0.1:8080  up 3h12m  2 deployed, 2 in memory",
                "calls 12.3k/s  p50 -  p99 1.50s  failed 50%  waiting 0  running 2",
                "models 12.3MiB of 1.00GiB  process 58.0MiB  processors 0.37  power 12.3W",
                "",
                "DEPLOYMENT  CALLS/S    P50    P99  FAIL  ROWS  WAIT  RUN  MEMORY   POWER  J/CALL",
                "line          12.3k  335µs 12.3ms  0.2%  12.3 1.23k   64 1.00GiB   123mW   209µJ",
                "a-rather-l…   12.3k      - 12.3ms     -  12.3 1.23k   64 1.00GiB   123mW   209µJ",
            ]
        );
        assert!(lines[HEAD_LINE].starts_with("DEPLOYMENT"));
        assert!(keys(&view(80, 24)).contains("s sort (by calls)"));
    }

    #[test]
    fn every_line_fits_whatever_the_screen() {
        let many: Vec<Row> = (0..300).map(|index| row(&format!("deployment-{index}"))).collect();
        let figures = figures(many);
        for (width, height) in [(1, 1), (10, 3), (80, 24), (100, 30), (160, 50), (400, 400)] {
            for shown in [Shown::Figures(&figures), Shown::First, Shown::Away("no server answers there at all")] {
                let lines = frame(&shown, &view(width, height));
                assert!(lines.len() < height.max(1), "{} lines on {height}", lines.len());
                assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}: {lines:?}");
            }
        }
        let lines = frame(&Shown::Figures(&figures), &view(160, 24));
        assert_eq!(lines.last().map(String::as_str), Some("and 283 more: s sorts them"));
        assert!(lines[HEAD_LINE].contains("MODEL") && lines[HEAD_LINE + 1].contains("a-model-with-a-long-name:12"));
    }

    #[test]
    fn why_a_server_is_away_can_be_read() {
        let why =
            "no server answers at http://127.0.0.1:8080: start one with `wattle serve`, or say where it is with --url";
        let lines = frame(&Shown::Away(why), &view(80, 24));
        assert_eq!(lines[0], "wattle at http://127.0.0.1:8080");
        assert_eq!(lines[1..].join(" "), why);
    }

    #[test]
    fn figures_stay_short() {
        for value in [0.0, 0.004, 0.5, 9.99, 99.9, 999.0, 999.9, 1234.0, 99_999.0, 1.5e6, 9.9e8] {
            assert!(count(value).len() <= 5, "{value}: {}", count(value));
        }
        assert_eq!([percent(0.0), percent(0.000_1), percent(0.05), percent(1.0)], ["0%", "<.1%", "5.0%", "100%"]);
        assert_eq!([duration(59.0), duration(61.0), duration(90_000.0)], ["59s", "1m01s", "1d01h"]);
        assert_eq!([size(512.0), size(1000.0), size(2048.0 * 1024.0)], ["512B", "0.98KiB", "2.00MiB"]);
    }
}
