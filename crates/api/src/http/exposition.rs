//! The text in which monitoring systems read metrics: Prometheus's own, and OpenMetrics where it is asked for.
//!
//! Sources: Prometheus's "Exposition formats", version 0.0.4; the OpenMetrics specification, version 1.0.

use std::fmt::{Display, Write};

use axum::http::{HeaderMap, header};
use wattle_serve::metrics::Distribution;

/// What kind of metric a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// A gauge that is always 1 and tells something by its labels.
    Info,
}

/// One of the two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Prometheus,
    OpenMetrics,
}

/// Labels as they are written, without braces: `model="line",version="1"`.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels(String);

/// The text as far as it is written.
pub(super) struct Exposition {
    text: String,
    format: Format,
    /// Whose samples follow.
    family: &'static str,
}

impl Format {
    /// The form that a scraper asks for.
    pub(super) fn wanted(headers: &HeaderMap) -> Format {
        let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        match accepts.into_iter().any(|accept| accept.contains("application/openmetrics-text")) {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

impl Labels {
    /// These and one more.
    pub(super) fn and(&self, name: &str, value: impl Display) -> Labels {
        let mut text = self.0.clone();
        push_label(&mut text, name, value);
        Labels(text)
    }
}

impl Exposition {
    pub(super) fn new(format: Format) -> Exposition {
        Exposition { text: String::new(), format, family: "" }
    }

    /// Begins a family; `name` is that of its samples, without what a histogram's samples end in.
    pub(super) fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        self.family = name;
        // OpenMetrics names the family and not its samples.
        let shown = match (self.format, kind) {
            (Format::OpenMetrics, Kind::Counter) => name.trim_end_matches("_total"),
            (Format::OpenMetrics, Kind::Info) => name.trim_end_matches("_info"),
            _ => name,
        };
        let kind = match (kind, self.format) {
            (Kind::Counter, _) => "counter",
            (Kind::Histogram, _) => "histogram",
            (Kind::Info, Format::OpenMetrics) => "info",
            (Kind::Info | Kind::Gauge, _) => "gauge",
        };
        self.line(format_args!("# HELP {shown} {help}"));
        self.line(format_args!("# TYPE {shown} {kind}"));
    }

    /// A sample of the family.
    pub(super) fn sample(&mut self, labels: &Labels, value: impl Display) {
        let name = self.family;
        self.line(format_args!("{name}{} {value}", Braced(labels, None)));
    }

    /// The samples of a histogram; none where nothing was counted yet.
    pub(super) fn distribution(&mut self, labels: &Labels, distribution: Option<Distribution>) {
        let Some(Distribution { buckets, count, sum }) = distribution else { return };
        let name = self.family;
        let mut bound = String::new();
        for (most, below) in buckets {
            bound.clear();
            // The same bound is the same text in both forms, so that a series stays one when the form changes.
            let _ = write!(bound, "{most}");
            if !bound.contains('.') {
                bound.push_str(".0");
            }
            self.line(format_args!("{name}_bucket{} {below}", Braced(labels, Some(&bound))));
        }
        self.line(format_args!("{name}_bucket{} {count}", Braced(labels, Some("+Inf"))));
        self.line(format_args!("{name}_sum{} {sum}", Braced(labels, None)));
        self.line(format_args!("{name}_count{} {count}", Braced(labels, None)));
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        if self.format == Format::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.text.write_fmt(text);
        self.text.push('\n');
    }
}

/// Labels in braces, a histogram's bound among them; nothing where there are none.
struct Braced<'a>(&'a Labels, Option<&'a str>);

impl Display for Braced<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0.0.as_str(), self.1) {
            ("", None) => Ok(()),
            (labels, None) => write!(f, "{{{labels}}}"),
            ("", Some(bound)) => write!(f, "{{le=\"{bound}\"}}"),
            (labels, Some(bound)) => write!(f, "{{{labels},le=\"{bound}\"}}"),
        }
    }
}

fn push_label(text: &mut String, name: &str, value: impl Display) {
    let separator = if text.is_empty() { "" } else { "," };
    let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let _ = write!(text, "{separator}{name}=\"{value}\"");
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn written(format: Format) -> String {
        let mut exposition = Exposition::new(format);
        let labels = Labels::default().and("model", "a\"b\\c\nd");
        exposition.family("calls_total", Kind::Counter, "Calls.");
        exposition.sample(&labels.and("code", 200), 3);
        exposition.family("build_info", Kind::Info, "The version.");
        exposition.sample(&Labels::default(), 1);
        exposition.family("wait_seconds", Kind::Histogram, "Waits.");
        let told = Distribution { buckets: vec![(0.00001, 1), (5.0, 2)], count: 3, sum: 9.5 };
        exposition.distribution(&Labels::default().and("a", "b"), Some(told));
        exposition.distribution(&labels, None);
        exposition.finish()
    }

    #[test]
    fn both_forms_are_as_their_specifications_say() {
        let prometheus = r#"# HELP calls_total Calls.
# TYPE calls_total counter
calls_total{model="a\"b\\c\nd",code="200"} 3
# HELP build_info The version.
# TYPE build_info gauge
build_info 1
# HELP wait_seconds Waits.
# TYPE wait_seconds histogram
wait_seconds_bucket{a="b",le="0.00001"} 1
wait_seconds_bucket{a="b",le="5.0"} 2
wait_seconds_bucket{a="b",le="+Inf"} 3
wait_seconds_sum{a="b"} 9.5
wait_seconds_count{a="b"} 3
"#;
        assert_eq!(written(Format::Prometheus), prometheus);
        let openmetrics = prometheus
            .replace("HELP calls_total", "HELP calls")
            .replace("TYPE calls_total", "TYPE calls")
            .replace("HELP build_info", "HELP build")
            .replace("TYPE build_info gauge", "TYPE build info");
        assert_eq!(written(Format::OpenMetrics), openmetrics + "# EOF\n");
    }

    #[test]
    fn the_form_is_chosen_by_what_is_accepted() {
        let mut headers = HeaderMap::new();
        assert_eq!(Format::wanted(&headers), Format::Prometheus);
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        headers.insert(header::ACCEPT, HeaderValue::from_static(prometheus));
        assert_eq!(Format::wanted(&headers), Format::OpenMetrics);
    }
}
