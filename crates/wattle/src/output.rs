//! What people and scripts read.

use std::io::{self, IsTerminal, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::{Value, json};

use crate::flags::OutputFormat;

/// Prints a record as JSON, or as `table` shows it.
pub(crate) fn print<T: Serialize>(
    format: OutputFormat,
    record: &T,
    table: impl FnOnce(&T) -> String,
) -> io::Result<()> {
    let text = match format {
        OutputFormat::Json => serde_json::to_string_pretty(record).map_err(io::Error::from)?,
        OutputFormat::Table => table(record),
    };
    print_line(text.trim_end())
}

/// Prints a line on the standard output; a reader that has gone is no error.
pub(crate) fn print_line(text: &str) -> io::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Says what went wrong, on the standard error.
pub(crate) fn report_error(format: OutputFormat, error: &anyhow::Error) {
    let text = match format {
        OutputFormat::Json => json!({ "error": format!("{error:#}") }).to_string(),
        OutputFormat::Table => format!("error: {error:#}"),
    };
    // There is nowhere left to say that the standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Confirms what was done and has no answer: to people on the standard error, to scripts with `record`.
pub(crate) fn confirm(format: OutputFormat, record: &Value, text: &str) -> io::Result<()> {
    match format {
        OutputFormat::Json => print_line(&record.to_string()),
        OutputFormat::Table => {
            note(text);
            Ok(())
        }
    }
}

/// Says something beside the answer, on the standard error.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether a person watches the standard error, where progress is drawn.
pub(crate) fn progress_is_watched() -> bool {
    io::stderr().is_terminal()
}

/// A table without rules: columns under their heads. Columns whose head begins with `#` are numbers and stand right.
pub(crate) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head.iter().map(|name| name.trim_start_matches('#').to_uppercase()).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row);
    }
    for (index, name) in head.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if name.starts_with('#') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Names and values, one pair a line.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// A size in bytes, for people.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// A quantity with a prefix of the SI, for people: `0.0000123 J` is `12.3 µJ`.
pub(crate) fn quantity(value: f64, unit: &str) -> String {
    const PREFIXES: [(f64, &str); 7] =
        [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")];
    if value == 0.0 || !value.is_finite() {
        return format!("{value} {unit}");
    }
    let (scale, prefix) = PREFIXES.into_iter().find(|(scale, _)| value.abs() >= *scale).unwrap_or((1e-9, "n"));
    format!("{} {prefix}{unit}", significant(value / scale))
}

/// A number with three significant digits, or all before the point.
pub(crate) fn significant(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        0.0 => 0,
        size => usize::try_from(-(size.log10().floor() as i64)).unwrap_or(0) + 2,
    };
    format!("{value:.*}", decimals.min(12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(quantity(0.000_012_34, "J"), "12.3 µJ");
        assert_eq!(quantity(1234.0, "J"), "1.23 kJ");
        assert_eq!(quantity(5.4321e9, "J"), "5.43 GJ");
        assert_eq!(quantity(0.0, "J"), "0 J");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(significant(0.012_34), "0.0123");
    }
}
