//! A [`Figure`]: lines or bars of a table's columns, drawn as SVG.
//!
//! A figure holds no data, only which columns of which table it shows; so a stored outcome can be
//! drawn again. The SVG is 720 wide, with its own white ground, and the same text for the same table.
//!
//! ```
//! use fp8gemm_study::{Figure, Scale, Table};
//!
//! let mut table = Table::new("sweep", "Bias").count("k", "").float("bias", "%", "");
//! table.push([128u64.into(), (-0.06).into()])?;
//! table.push([4096u64.into(), (-7.5).into()])?;
//! let figure = Figure::lines("bias", "Bias by K", "sweep").x("k", Scale::Log2).y(["bias"], Scale::Log10);
//! assert!(figure.svg(&table)?.starts_with("<svg"));
//! # Ok::<(), fp8gemm_study::StudyError>(())
//! ```

mod draw;
mod series;

use serde::{Deserialize, Serialize};

use crate::{Cell, StudyError, Table};

/// How an axis is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// In equal steps.
    Linear,
    /// In powers of two, each a tick: for sizes. Positive figures only; y axes take it as `Log10`.
    Log2,
    /// In powers of ten. Magnitudes are shown, zeros left out.
    Log10,
}

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FigureKind {
    /// A line with a mark at each row.
    Lines,
    /// A group of bars at each text of the x column.
    Bars,
}

/// A plot of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    name: String,
    title: String,
    table: String,
    kind: FigureKind,
    x: String,
    x_scale: Scale,
    y: Vec<String>,
    y_scale: Scale,
    y_label: Option<String>,
    by: Vec<String>,
    only: Vec<(String, String)>,
    marks: Vec<(f64, String)>,
}

impl Figure {
    fn new(kind: FigureKind, name: &str, title: &str, table: &str) -> Self {
        Self {
            name: name.to_owned(),
            title: title.to_owned(),
            table: table.to_owned(),
            kind,
            x: String::new(),
            x_scale: Scale::Linear,
            y: Vec::new(),
            y_scale: Scale::Linear,
            y_label: None,
            by: Vec::new(),
            only: Vec::new(),
            marks: Vec::new(),
        }
    }

    /// Lines: a figure of that name (also its file's) and title, of the table of that name.
    pub fn lines(name: &str, title: &str, table: &str) -> Self {
        Self::new(FigureKind::Lines, name, title, table)
    }

    /// Bars.
    pub fn bars(name: &str, title: &str, table: &str) -> Self {
        Self::new(FigureKind::Bars, name, title, table)
    }

    /// The column along x: numbers for lines, any for bars (each text once, in the order of rows).
    #[must_use]
    pub fn x(mut self, column: &str, scale: Scale) -> Self {
        self.x = column.to_owned();
        self.x_scale = scale;
        self
    }

    /// The columns shown, each a series (or one for each group).
    #[must_use]
    pub fn y<'a>(mut self, columns: impl IntoIterator<Item = &'a str>, scale: Scale) -> Self {
        self.y = columns.into_iter().map(str::to_owned).collect();
        self.y_scale = scale;
        self
    }

    /// Another label than the first column's heading.
    #[must_use]
    pub fn y_label(mut self, label: &str) -> Self {
        self.y_label = Some(label.to_owned());
        self
    }

    /// Splits the rows into series by the texts of this column; may be called for several.
    #[must_use]
    pub fn by(mut self, column: &str) -> Self {
        self.by.push(column.to_owned());
        self
    }

    /// Shows only rows that have this text in that column.
    #[must_use]
    pub fn only(mut self, column: &str, text: &str) -> Self {
        self.only.push((column.to_owned(), text.to_owned()));
        self
    }

    /// A horizontal line, as for a published figure; the label is an entry of the legend.
    #[must_use]
    pub fn mark(mut self, y: f64, label: &str) -> Self {
        self.marks.push((y, label.to_owned()));
        self
    }

    /// Name of the figure and of its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its title.
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Name of the table it is of.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Draws it.
    ///
    /// # Errors
    /// [`StudyError::Table`] where the table has not the columns, or nothing that can be drawn.
    pub fn svg(&self, table: &Table) -> Result<String, StudyError> {
        let series = self.series(table)?;
        let label = |column: &str| Ok::<_, StudyError>(table.columns()[table.index(column)?].heading());
        let x_label = label(&self.x)?;
        let y_label = match (&self.y_label, self.y.first()) {
            (Some(label), _) => label.clone(),
            (None, Some(column)) if self.y_scale != Scale::Linear && self.has_negative(table)? => {
                format!("magnitude of {}", label(column)?)
            }
            (None, Some(column)) => label(column)?,
            (None, None) => String::new(),
        };
        Ok(draw::svg(self, &series, &x_label, &y_label))
    }
    fn has_negative(&self, table: &Table) -> Result<bool, StudyError> {
        let columns = self.y.iter().map(|column| table.index(column)).collect::<Result<Vec<_>, _>>()?;
        let negative = |row: &Vec<Cell>| columns.iter().any(|&index| row[index].number().is_some_and(|y| y < 0.0));
        Ok(table.rows().iter().any(negative))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new("t", "").text("who", "").count("k", "").float("bias", "%", "");
        for (who, k, bias) in
            [("a", 0u64, 1.0), ("a", 128, -1.0), ("b", 256, 0.0), ("b", 512, f64::NAN), ("b", 512, 2.0)]
        {
            table.push([who.into(), k.into(), bias.into()]).unwrap();
        }
        table
    }

    /// Breaks if a logarithmic plot meets zero, NaN or a negative figure and fails, or if series mix.
    #[test]
    fn what_cannot_be_drawn_is_left_out() {
        let figure = Figure::lines("f", "A < B", "t").x("k", Scale::Log2).y(["bias"], Scale::Log10).by("who");
        let series = figure.series(&table()).unwrap();
        assert_eq!(series.iter().map(|series| series.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(series[0].points, [("128".to_owned(), 128.0, 1.0)]);
        assert_eq!(series[1].points, [("512".to_owned(), 512.0, 2.0)]);
        let svg = figure.svg(&table()).unwrap();
        assert!(svg.contains("magnitude of bias [%]") && svg.contains("A &lt; B") && !svg.contains("NaN"));
    }

    /// Breaks if a legend of many or long names is cut off at the bottom of the drawing or at its right, if a number
    /// in it has lost its column's name, or if a mark has no entry.
    #[test]
    fn legends_are_whole() {
        for names in [7usize, 14] {
            let mut table = Table::new("t", "").count("interval", "").count("k", "").float("bias", "%", "");
            for (name, k) in (0..names).flat_map(|name| [(name, 1usize), (name, 2)]) {
                table.push([Cell::from(name), k.into(), (1.0 + name as f64).into()]).unwrap();
            }
            for figure in [Figure::lines("f", "", "t"), Figure::bars("f", "", "t")] {
                let figure = figure.x("k", Scale::Linear).y(["bias"], Scale::Linear).by("interval");
                let figure = figure.mark(2.0, "as it was published in a report with a long title");
                let svg = figure.svg(&table).unwrap();
                let mut found = 0;
                for text in svg.split("<text ").skip(1) {
                    let content = text.split_once('>').unwrap().1.split('<').next().unwrap();
                    if !content.starts_with("interval = ") && !content.starts_with("as it was") {
                        continue;
                    }
                    let place = |name: &str| -> f64 {
                        text.split_once(&format!("{name}=\"")).unwrap().1.split('"').next().unwrap().parse().unwrap()
                    };
                    assert!(place("y") < 420.0 - 4.0, "{text}");
                    assert!(place("x") + 5.5 * content.len() as f64 <= 720.0, "{text}");
                    found += 1;
                }
                assert_eq!(found, names + 1, "{svg}");
            }
        }
    }

    /// Breaks if a figure of nothing, or of a column that is not there, is drawn.
    #[test]
    fn a_figure_of_nothing_is_an_error() {
        let figure = Figure::bars("f", "", "t").x("who", Scale::Linear).y(["bias"], Scale::Linear);
        assert!(figure.svg(&table()).is_ok());
        assert!(figure.clone().only("who", "c").svg(&table()).is_err());
        assert!(figure.by("nobody").svg(&table()).is_err());
    }
}
