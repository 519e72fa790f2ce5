//! The table: medians, how far the rounds lie apart, ratios, goals.
//!
//! Must not know how it was measured. Invariant: a figure that was not taken is a dash, never a nought.

use std::collections::BTreeMap;

use crate::rows::{Goal, Row};
use crate::servers::{Kind, Server};

/// The figures of all rounds, by row and by server.
#[derive(Default)]
pub(crate) struct Report(BTreeMap<Row, BTreeMap<String, Vec<f64>>>);

/// The middle, and how far apart the rounds were, as a part of it.
#[derive(Debug, Clone, Copy)]
struct Summary {
    median: f64,
    noise: f64,
}

impl Report {
    pub(crate) fn add(&mut self, row: Row, server: &str, figure: f64) {
        let of_row = self.0.entry(row).or_default();
        of_row.entry(server.to_owned()).or_default().push(figure);
    }

    fn summary(&self, row: Row, server: &str) -> Option<Summary> {
        let mut figures = self.0.get(&row)?.get(server)?.clone();
        figures.sort_by(f64::total_cmp);
        let (least, most) = (figures.first()?, figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            f64::midpoint(figures[middle - 1], figures[middle])
        };
        Some(Summary {
            median,
            noise: (most - least) / 2.0 / median,
        })
    }

    /// The best of the others, registries only or all.
    fn best(&self, row: Row, servers: &[Server], with_files: bool) -> Option<Summary> {
        let others = servers.iter().filter(|server| !server.is_ours);
        let others = others.filter(|server| with_files || server.kind != Kind::Nginx);
        let summaries = others.filter_map(|server| self.summary(row, &server.name));
        let by_median = |a: &Summary, b: &Summary| a.median.total_cmp(&b.median);
        if row.is_cost() {
            summaries.min_by(by_median)
        } else {
            summaries.max_by(by_median)
        }
    }

    /// As Markdown. Ratios of a cost are below 1 where ours is the cheaper.
    pub(crate) fn text(&self, servers: &[Server], with_goals: bool) -> String {
        let names: Vec<&str> = servers.iter().map(|server| &*server.name).collect();
        let (ratio, goals) = if with_goals {
            ("ours × best", " goal | |")
        } else {
            ("ratio", "")
        };
        let columns = names.len() + if with_goals { 3 } else { 1 };
        let mut text = format!(
            "| What | {} | {ratio} |{goals}\n|---|{}\n",
            names.join(" | "),
            "---|".repeat(columns)
        );
        for row in self.0.keys() {
            text += &self.line(*row, servers, with_goals);
        }
        text
    }

    fn line(&self, row: Row, servers: &[Server], with_goals: bool) -> String {
        let mut line = format!("| {} |", row.name());
        for server in servers {
            let cell = self.summary(row, &server.name).map_or_else(
                || "–".to_owned(),
                |Summary { median, noise }| format!("{} ±{:.0} %", number(median), noise * 100.0),
            );
            line += &format!(" {cell} |");
        }
        let ours = servers.iter().find(|server| server.is_ours);
        let ours = ours.and_then(|server| self.summary(row, &server.name));
        let with_files = !matches!(row.goal(), Goal::TimesBestRegistry(_));
        let best = self.best(row, servers, with_files);
        let ratio = ours.zip(best).map(|(ours, best)| ours.median / best.median);
        let told = ratio.map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        line += &format!(" {told} |");
        if with_goals {
            let (goal, is_met) = match row.goal() {
                Goal::TimesBest(times) => (
                    format!("{times} × best"),
                    ratio.map(|ratio| reaches(row, ratio, times)),
                ),
                Goal::TimesBestRegistry(times) => (
                    format!("{times} × best registry"),
                    ratio.map(|ratio| reaches(row, ratio, times)),
                ),
                Goal::Figure(figure) => (
                    number(figure),
                    ours.map(|ours| reaches(row, ours.median, figure)),
                ),
            };
            let verdict = match is_met {
                Some(true) => "met",
                Some(false) => "missed",
                None => "–",
            };
            let sign = if row.is_cost() { "≤" } else { "≥" };
            line += &format!(" {sign} {goal} | {verdict} |");
        }
        line + "\n"
    }

    /// The rows that must be reached and were missed by more than the noise.
    pub(crate) fn failures(&self, servers: &[Server]) -> Vec<String> {
        let judged = self.0.keys().filter_map(|row| {
            let must = row.must()?;
            let ours = servers.iter().find(|server| server.is_ours)?;
            let ours = self.summary(*row, &ours.name)?;
            let best = self.best(*row, servers, false)?;
            let ratio = ours.median / best.median;
            let noise = ours.noise + best.noise;
            let allowed = if row.is_cost() {
                must * (1.0 + noise)
            } else {
                must / (1.0 + noise)
            };
            let name = row.name();
            (!reaches(*row, ratio, allowed)).then(|| {
                format!("{name}: {ratio:.2} × the best other registry, must be {must} (noise {noise:.2})")
            })
        });
        judged.collect()
    }

    /// All figures, for other programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let rows = self
            .0
            .iter()
            .map(|(row, servers)| serde_json::json!({"row": row.name(), "figures": servers}));
        rows.collect()
    }
}

fn reaches(row: Row, figure: f64, wanted: f64) -> bool {
    if row.is_cost() {
        figure <= wanted
    } else {
        figure >= wanted
    }
}

/// With about three digits that say something.
fn number(figure: f64) -> String {
    match figure {
        figure if figure >= 100.0 => format!("{figure:.0}"),
        figure if figure >= 10.0 => format!("{figure:.1}"),
        figure => format!("{figure:.2}"),
    }
}
