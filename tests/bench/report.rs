//! The table: one line for each thing that was measured, with the medians over the rounds.

use std::{fmt::Write, fs, path::Path, time::Duration};

use crate::{numbers::median, stage::Cluster};

/// What one round measured.
pub struct Figure {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    /// What it is compared with, and what that measured in the same round.
    pub beside: Option<(&'static str, f64)>,
    /// What it should be, such as `<= 1.5`: the ratio where there is one, the value otherwise. Empty if nothing is asked.
    pub demand: &'static str,
}

impl Figure {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, beside: None, demand: "" }
    }

    #[must_use]
    pub fn beside(self, what: &'static str, value: f64) -> Self {
        Self { beside: Some((what, value)), ..self }
    }

    #[must_use]
    pub fn demand(self, demand: &'static str) -> Self {
        Self { demand, ..self }
    }
}

/// All figures of one line, one a round.
type Line = Vec<Figure>;

#[derive(Default)]
pub struct Report {
    lines: Vec<(&'static str, Line)>,
    /// The picture of the section `scale`.
    pub plot: Option<String>,
}

impl Report {
    pub fn add(&mut self, section: &'static str, figures: Vec<Figure>) {
        for figure in figures {
            match self.lines.iter_mut().find(|(of, line)| *of == section && line[0].what == figure.what) {
                Some((_, line)) => line.push(figure),
                None => self.lines.push((section, vec![figure])),
            }
        }
    }

    /// As Markdown, with columns that line up.
    pub fn table(&self) -> String {
        let head = ["", "measured", "beside it", "ratio", "asked"].map(str::to_owned);
        let mut rows = vec![head];
        let mut before = "";
        for (section, line) in &self.lines {
            if *section != before {
                rows.push([format!("**{section}**"), String::new(), String::new(), String::new(), String::new()]);
                before = section;
            }
            rows.push(row(line));
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: Vec<usize> = (0..5).map(width).collect();
        let mut text = String::new();
        for (index, row) in rows.iter().enumerate() {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if index == 0 {
                let rules: Vec<String> = widths.iter().map(|width| "-".repeat((*width).max(3))).collect();
                let _ = writeln!(text, "| {} |", rules.join(" | "));
            }
        }
        text
    }

    /// Writes docs/performance.md, and its picture beside it.
    pub fn write(&self, path: &Path, cluster: &Cluster, rounds: usize, took: Duration) -> anyhow::Result<()> {
        let plot = self.plot.as_ref().map(|plot| {
            fs::write(path.with_extension("svg"), plot).map(|()| "\n## Against size\n\n![time and memory against size](performance.svg)\n")
        });
        let text = format!(
            include_str!("performance.md.in"),
            day = jiff::Timestamp::now().strftime("%Y-%m-%d"),
            machine = cluster.machine(),
            rounds = rounds,
            minutes = took.as_secs().div_ceil(60),
            table = self.table().trim_end(),
            plot = plot.transpose()?.unwrap_or_default(),
        );
        Ok(fs::write(path, text)?)
    }
}

fn row(line: &Line) -> [String; 5] {
    let Figure { what, unit, demand, .. } = &line[0];
    let over = |of: &dyn Fn(&Figure) -> Option<f64>| median(line.iter().filter_map(of).collect());
    let beside = line[0].beside.map(|(name, _)| format!("{name}: {}", number(over(&|figure| Some(figure.beside?.1)), unit)));
    let value = over(&|figure| Some(figure.value));
    let ratio = line[0].beside.map(|_| over(&|figure| Some(figure.value / figure.beside?.1)));
    let missed = if misses(demand, ratio.unwrap_or(value)) { ", **missed**" } else { "" };
    [
        what.clone(),
        number(value, unit),
        beside.unwrap_or_default(),
        ratio.map_or(String::new(), |ratio| format!("{ratio:.2}")),
        format!("{demand}{missed}"),
    ]
}

fn misses(demand: &str, value: f64) -> bool {
    let mut words = demand.split(' ');
    let (than, limit) = (words.next(), words.next().and_then(|limit| limit.parse::<f64>().ok()));
    match (than, limit) {
        // What was not measured is missed, too.
        (Some("<="), Some(limit)) => value.is_nan() || value > limit,
        (Some(">="), Some(limit)) => value.is_nan() || value < limit,
        _ => false,
    }
}

/// Three digits that mean something.
fn number(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 => 0,
        size if size >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {unit}")
}
