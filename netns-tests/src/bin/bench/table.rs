//! Figures of all repetitions, as medians and as ratios.

use std::fmt;

use crate::scene::{Column, Scene};
use crate::system::System;

/// What others are compared with, where these were measured.
const BASES: [System; 2] = [System::WireGuardGo, System::Veth];
/// Widths of the name of a system and of a column.
const NAME: usize = 14;
const WIDTH: usize = 14;

/// The figures of one scene.
#[derive(Debug)]
pub(crate) struct Table {
    scene: Scene,
    /// Of each system, the figures of every repetition.
    rows: Vec<(System, Vec<Vec<f64>>)>,
}

impl Table {
    pub(crate) const fn new(scene: Scene) -> Self {
        Self {
            scene,
            rows: Vec::new(),
        }
    }

    pub(crate) const fn scene(&self) -> Scene {
        self.scene
    }

    /// Adds the figures of one more repetition.
    pub(crate) fn add(&mut self, system: &System, figures: Vec<f64>) {
        match self.rows.iter_mut().find(|(of, _)| of == system) {
            Some((_, repetitions)) => repetitions.push(figures),
            None => self.rows.push((system.clone(), vec![figures])),
        }
    }

    /// One line for every system, of one figure for each of these columns.
    fn write(
        &self,
        f: &mut fmt::Formatter<'_>,
        columns: &[(usize, Column)],
        figure: impl Fn(&[Vec<f64>], usize) -> f64,
    ) -> fmt::Result {
        write!(f, "{:NAME$}", "")?;
        for (_, column) in columns {
            write!(f, "{:>WIDTH$}", column.name)?;
        }
        writeln!(f)?;
        for (system, repetitions) in &self.rows {
            write!(f, "{:NAME$}", system.name())?;
            for (number, _) in columns {
                let figure = figure(repetitions, *number);
                if figure.is_finite() {
                    write!(f, "{figure:>WIDTH$.2}")?;
                } else {
                    write!(f, "{:>WIDTH$}", "-")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut columns: Vec<(usize, Column)> =
            self.scene.columns().iter().copied().enumerate().collect();
        writeln!(f, "\n{}: medians", self.scene.name())?;
        self.write(f, &columns, |repetitions, column| {
            median(repetitions.iter().map(|it| it[column]).collect())
        })?;
        columns.retain(|(_, column)| column.is_compared);
        for base in BASES {
            let Some((_, bases)) = self.rows.iter().find(|(system, _)| *system == base) else {
                continue;
            };
            if columns.is_empty() || self.rows.len() == 1 {
                continue;
            }
            writeln!(f, "\n{}: x {}", self.scene.name(), base.name())?;
            self.write(f, &columns, |repetitions, column| {
                let ratios = repetitions
                    .iter()
                    .zip(bases)
                    .map(|(own, base)| own[column] / base[column]);
                median(ratios.collect())
            })?;
        }
        Ok(())
    }
}

/// The middle one of those that are numbers.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_and_leaves_out_what_is_no_number() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, f64::NAN, 1.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn ratios_are_taken_within_a_repetition() {
        let mut table = Table::new(Scene::Setup);
        for (own, base) in [(10.0, 1.0), (20.0, 10.0), (30.0, 30.0)] {
            table.add(&System::Meshd, vec![own, own, f64::NAN]);
            table.add(&System::WireGuardGo, vec![base; 3]);
        }
        let text = table.to_string();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .filter(|line| line.starts_with("meshd"))
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows,
            [
                ["meshd", "20.00", "20.00", "-"],
                ["meshd", "2.00", "2.00", "-"]
            ]
        );
    }
}
