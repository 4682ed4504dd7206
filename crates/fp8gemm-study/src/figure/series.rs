//! The points of a figure, taken from a table.

use super::{Figure, FigureKind, Scale};
use crate::{Cell, StudyError, Table};

/// One line, or the bars of one colour.
pub(super) struct Series {
    pub(super) name: String,
    /// Text and number of x, and y as it is drawn.
    pub(super) points: Vec<(String, f64, f64)>,
}

impl Figure {
    /// The series in the order in which they first occur.
    pub(super) fn series(&self, table: &Table) -> Result<Vec<Series>, StudyError> {
        let indices = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|name| table.index(name)).collect::<Result<Vec<_>, _>>()
        };
        let x = table.index(&self.x)?;
        let (y, by) = (indices(&mut self.y.iter())?, indices(&mut self.by.iter())?);
        let only = indices(&mut self.only.iter().map(|(column, _)| column))?;
        let mut series: Vec<Series> = Vec::new();
        for row in table.rows() {
            if only.iter().zip(&self.only).any(|(&index, (_, text))| row[index].to_string() != *text) {
                continue;
            }
            // A number alone says nothing: `K = 4096`.
            let label = |&index: &usize| match &row[index] {
                Cell::Count(count) => format!("{} = {count}", table.columns()[index].name),
                other => other.to_string(),
            };
            let group: Vec<String> = by.iter().map(label).collect();
            for (&column, column_name) in y.iter().zip(&self.y) {
                let mut name = group.clone();
                if y.len() > 1 || name.is_empty() {
                    name.push(column_name.clone());
                }
                let Some(point) = self.point(&row[x], &row[column]) else { continue };
                let name = name.join(", ");
                match series.iter_mut().find(|series| series.name == name) {
                    Some(series) => series.points.push(point),
                    None => series.push(Series { name, points: vec![point] }),
                }
            }
        }
        if series.is_empty() {
            return Err(StudyError::table(&self.table, format!("figure `{}` has nothing to draw", self.name)));
        }
        Ok(series)
    }

    /// Nothing for what cannot be drawn: missing and non-finite figures, zero on a logarithmic axis.
    fn point(&self, x: &Cell, y: &Cell) -> Option<(String, f64, f64)> {
        let y = match self.y_scale {
            Scale::Linear => y.number()?,
            _ => y.number()?.abs(),
        };
        let number = match self.kind {
            FigureKind::Bars => 0.0,
            FigureKind::Lines => x.number()?,
        };
        let positive = |value: f64, scale| scale == Scale::Linear || value > 0.0;
        let drawn = y.is_finite()
            && number.is_finite()
            && positive(y, self.y_scale)
            && (self.kind == FigureKind::Bars || positive(number, self.x_scale));
        drawn.then(|| (x.to_string(), number, y))
    }
}
