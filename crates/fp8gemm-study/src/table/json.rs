//! Tables in JSON: cells as plain values, read back by their column's kind.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cell, Column, ColumnKind, Table};

#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    name: String,
    title: String,
    columns: Vec<Column>,
    rows: Vec<Vec<Value>>,
}

impl From<Table> for Stored {
    fn from(table: Table) -> Self {
        let value = |cell: &Cell| match cell {
            Cell::Count(count) => Value::from(*count),
            // JSON has no NaN and no infinities: they are text, as bit patterns are.
            Cell::Float(figure) if figure.is_finite() => Value::from(*figure),
            Cell::Missing => Value::Null,
            other => Value::from(other.to_string()),
        };
        let rows = table.rows.iter().map(|row| row.iter().map(value).collect()).collect();
        Self { name: table.name, title: table.title, columns: table.columns, rows }
    }
}

impl TryFrom<Stored> for Table {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let mut table = Self { rows: Vec::new(), name: stored.name, title: stored.title, columns: stored.columns };
        for row in stored.rows {
            let cells: Result<Vec<Cell>, String> = row
                .iter()
                .enumerate()
                .map(|(index, value)| {
                    let kind = table.columns.get(index).map(|column| column.kind);
                    kind.and_then(|kind| read(kind, value)).ok_or_else(|| format!("{value} is not of column {index}"))
                })
                .collect();
            table.push(cells?).map_err(|error| error.to_string())?;
        }
        Ok(table)
    }
}

fn read(kind: ColumnKind, value: &Value) -> Option<Cell> {
    if value.is_null() {
        return Some(Cell::Missing);
    }
    match kind {
        ColumnKind::Text => value.as_str().map(Cell::from),
        ColumnKind::Count => value.as_u64().map(Cell::from),
        ColumnKind::Float => match value.as_str() {
            Some(text) => text.parse().ok().map(Cell::Float),
            None => value.as_f64().map(Cell::Float),
        },
        ColumnKind::Bits => {
            let digits = value.as_str()?.strip_prefix("0x")?;
            Some(Cell::bits(u64::from_str_radix(digits, 16).ok()?, digits.len() as u8))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Breaks if a result read back from its file differs from what was computed: NaN, infinities,
    /// missing cells, leading zeros of bits, the last digit of a float.
    #[test]
    fn tables_survive_json() {
        let mut table = Table::new("t", "title").text("a", "").count("b", "").bits("c", "").float("d", "dB", "x");
        for figure in [0.1 + 0.2, f64::INFINITY, f64::NEG_INFINITY, 5e-324, -0.0, 3.0] {
            table.push([Cell::from("x,\"y"), Cell::from(7u64), Cell::bits(0xA, 4), Cell::from(figure)]).unwrap();
        }
        table.push([Cell::Missing, Cell::Missing, Cell::Missing, Cell::Missing]).unwrap();
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<Table>(&text).unwrap(), table);
        assert!(serde_json::from_str::<Table>(&text.replace("\"0x000A\"", "7")).is_err());
    }

    /// Breaks if a row that does not fit its columns is accepted.
    #[test]
    fn rows_fit_their_columns() {
        let mut table = Table::new("t", "title").text("a", "").float("d", "dB", "x");
        assert!(table.push([Cell::from("x")]).is_err());
        assert!(table.push([Cell::from(1.0), Cell::from(1.0)]).is_err());
        assert!(table.push([Cell::from("x"), Cell::from(1usize)]).is_err());
        assert!(table.rows().is_empty());
    }
}
