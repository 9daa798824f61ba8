//! Text for people: aligned columns, short durations and amounts.

use std::io::{self, Write};

/// Rows of cells under a heading, aligned to the left, two spaces apart, never cut.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(heading: [&str; N]) -> Self {
        Self {
            rows: vec![heading.map(str::to_owned).to_vec()],
        }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.map(|cell| super::printable(&cell)).to_vec());
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        for row in &self.rows {
            let line: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            writeln!(out, "{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}

/// `41s`, `12m`, `3h12m`, `6d`: at most two units, never rounded up.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0..=1) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, minutes) => format!("{hours}h{:02}m", minutes % 60),
        (1, hours, _) => format!("1d{:02}h", hours % 24),
        (days, _, _) => format!("{days}d"),
    }
}

/// `900`, `12K`, `1.2G`: powers of 1000, two digits at least, three before the unit changes.
pub(super) fn bytes(bytes: u64) -> String {
    let mut unit = 1;
    let mut name = "";
    for next in ["K", "M", "G", "T", "P", "E"] {
        if bytes / unit < 1000 {
            break;
        }
        unit *= 1000;
        name = next;
    }
    match (bytes / unit, bytes % unit * 10 / unit) {
        (whole @ 0..10, tenth) if unit > 1 && tenth > 0 => format!("{whole}.{tenth}{name}"),
        (whole, _) => format!("{whole}{name}"),
    }
}

/// A value, or `-` where there is none.
pub(super) fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        let cases = [
            (0, "0s"),
            (41, "41s"),
            (90, "90s"),
            (120, "2m"),
            (3599, "59m"),
            (11_520, "3h12m"),
            (100_000, "1d03h"),
            (520_000, "6d"),
        ];
        for (seconds, text) in cases {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn amounts_are_short() {
        let cases = [
            (0, "0"),
            (999, "999"),
            (1000, "1K"),
            (12_345, "12K"),
            (999_999, "999K"),
            (1_240_000_000, "1.2G"),
            (310_000_000, "310M"),
            (u64::MAX, "18E"),
        ];
        for (amount, text) in cases {
            assert_eq!(bytes(amount), text);
        }
    }

    #[test]
    fn columns_are_aligned_and_control_characters_gone() {
        let mut table = Table::new(["NAME", "PATH", "RTT"]);
        table.row(["a\x1b[31m".into(), "direct".into(), "-".into()]);
        table.row(["größer".into(), "x".into(), "1ms".into()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "NAME    PATH    RTT\na\u{fffd}[31m  direct  -\ngrößer  x       1ms\n"
        );
    }
}
