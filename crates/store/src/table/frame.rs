//! A table in memory, as it comes with a call: only the columns that are wanted are read, and nothing touches the disk.

use std::io::Cursor;

use bytes::Bytes;
use wattle_core::ColumnKind;

use super::{
    Overrides,
    csv::{self, Start},
    infer::{Missing, number},
    parquet::{self, Batches, Cell, Opened, Unfit, pages},
    read::Positioned,
    shown,
};
use crate::{Error, Result};

/// A CSV or Parquet table in memory, of which the columns' names are known and no row is read yet.
///
/// What reading takes in memory beyond the table's own bytes is told before it is taken, to a function that may refuse.
/// Whether a column has a name, or one of its own, is for those to say who want it.
pub struct Frame {
    names: Vec<String>,
    content: Content,
}

enum Content {
    Csv { text: Bytes, start: Start },
    Parquet(Box<Opened>),
}

/// The values of a column of a [`Frame`].
#[derive(Debug, Clone, PartialEq)]
pub enum FrameColumn {
    /// Finite numbers; NaN where one is missing.
    Numbers(Vec<f64>),
    /// Texts; `None` where one is missing.
    Texts(Vec<Option<String>>),
}

impl FrameColumn {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        match self {
            FrameColumn::Numbers(values) => values.len(),
            FrameColumn::Texts(values) => values.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Frame {
    /// A CSV text with a header line.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] and [`Error::TooLarge`] where there is no header.
    pub fn csv(text: Bytes) -> Result<Frame> {
        let mut input = Cursor::new(text.as_ref());
        let start = Start::read(&mut input, &Overrides::default())?;
        let names = csv::header(&mut start.records(&mut input, 0, &mut |_| {})?)?;
        Ok(Frame { names, content: Content::Csv { text, start } })
    }

    /// A Parquet file.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] and [`Error::TooLarge`] where the footer is not one, and those of `reserve`.
    pub fn parquet<E: From<Error>>(bytes: Bytes, reserve: &mut dyn FnMut(u64) -> Result<(), E>) -> Result<Frame, E> {
        let opened = Opened::new(Positioned::in_memory(bytes), reserve)?;
        Ok(Frame { names: opened.names(), content: Content::Parquet(Box::new(opened)) })
    }

    /// The columns' names, in the order of the table.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Reads the columns at these places, each as this kind and none twice, into columns in the order asked.
    ///
    /// A value is missing where [`normalise`](super::normalise) takes it for missing, or where it is one of `missing`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] and [`Error::TooLarge`] for what cannot be read, naming the line or row and the column, and those
    /// of `reserve`.
    pub fn read<E: From<Error>>(
        self,
        wanted: &[(usize, ColumnKind)],
        missing: &[String],
        reserve: &mut dyn FnMut(u64) -> Result<(), E>,
    ) -> Result<Vec<FrameColumn>, E> {
        let missing = Missing::new(&Overrides { missing: missing.to_vec(), ..Overrides::default() });
        let mut builder = Builder::new(wanted, reserve);
        match self.content {
            Content::Csv { text, start } => read_csv(&text, &start, &self.names, wanted, &missing, &mut builder)?,
            Content::Parquet(opened) => read_parquet(*opened, &self.names, wanted, &missing, &mut builder)?,
        }
        Ok(builder.columns)
    }
}

fn read_csv<E: From<Error>>(
    text: &[u8],
    start: &Start,
    names: &[String],
    wanted: &[(usize, ColumnKind)],
    missing: &Missing,
    builder: &mut Builder<E>,
) -> Result<(), E> {
    let mut places = vec![None; names.len()];
    for (index, (column, kind)) in wanted.iter().enumerate() {
        places[*column] = Some((index, *kind));
    }
    let (mut input, mut progress) = (Cursor::new(text), |_| {});
    let mut records = start.records(&mut input, 0, &mut progress)?;
    csv::header(&mut records)?;
    while let Some(record) = records.next()? {
        record.check(names)?;
        for ((text, place), name) in record.fields().zip(&places).zip(names) {
            let Some((index, kind)) = *place else { continue };
            let cell = match kind {
                _ if missing.contains(text) => Cell::Missing,
                ColumnKind::Category => Cell::Text(text),
                ColumnKind::Number => {
                    number(text).map(Cell::Number).ok_or_else(|| no_number(&record.place(), name, text))?
                }
            };
            builder.push(index, cell)?;
        }
    }
    builder.settle()
}

fn read_parquet<E: From<Error>>(
    opened: Opened,
    names: &[String],
    wanted: &[(usize, ColumnKind)],
    missing: &Missing,
    builder: &mut Builder<E>,
) -> Result<(), E> {
    let mut stored: Vec<usize> = (0..wanted.len()).collect();
    stored.sort_unstable_by_key(|index| wanted[*index].0);
    let source = |index: &usize| {
        let place = wanted[*index].0;
        Ok((
            *index,
            wanted[*index].1,
            parquet::source(&names[place], opened.metadata.schema().field(place).data_type())?,
        ))
    };
    let columns = stored.iter().map(source).collect::<Result<Vec<_>>>()?;
    let places: Vec<usize> = stored.iter().map(|index| wanted[*index].0).collect();
    let allowed_bytes = pages::claim(opened.metadata.metadata(), &places);
    (builder.reserve)(allowed_bytes)?;
    let mut batches = Batches::new(opened, &places, allowed_bytes)?;
    let mut done = 0;
    while let Some(batch) = batches.next()? {
        for (at, (index, kind, source)) in columns.iter().enumerate() {
            let name = &names[wanted[*index].0];
            let cells = batches.cells(&batch, at, name, *source, *kind)?;
            for row in 0..batch.num_rows() {
                let place = || format!("row {}", done + row + 1);
                let cell = cells.get(row).meaning(*source, *kind, missing).map_err(|unfit| match unfit {
                    Unfit::NoNumber(text) => no_number(&place(), name, &text),
                    Unfit::Nul => parquet::nul(&place(), name),
                })?;
                builder.push(*index, cell)?;
            }
        }
        done += batch.num_rows();
    }
    builder.settle()
}

/// Columns that grow, and the memory that they will need.
struct Builder<'a, E> {
    columns: Vec<FrameColumn>,
    /// What the values took since `reserve` was told last.
    due_bytes: u64,
    reserve: &'a mut dyn FnMut(u64) -> Result<(), E>,
}

impl<'a, E: From<Error>> Builder<'a, E> {
    fn new(wanted: &[(usize, ColumnKind)], reserve: &'a mut dyn FnMut(u64) -> Result<(), E>) -> Builder<'a, E> {
        let column = |(_, kind): &(usize, ColumnKind)| match kind {
            ColumnKind::Number => FrameColumn::Numbers(Vec::new()),
            ColumnKind::Category => FrameColumn::Texts(Vec::new()),
        };
        Builder { columns: wanted.iter().map(column).collect(), due_bytes: 0, reserve }
    }

    fn push(&mut self, index: usize, cell: Cell) -> Result<(), E> {
        /// How much is taken before it is told.
        const DUE_BYTES: u64 = 64 << 10;
        self.due_bytes += match (&mut self.columns[index], cell) {
            (FrameColumn::Numbers(values), Cell::Number(value)) => push(values, value),
            (FrameColumn::Numbers(values), _) => push(values, f64::NAN),
            (FrameColumn::Texts(values), Cell::Text(text)) => push(values, Some(text.to_owned())) + text.len() as u64,
            (FrameColumn::Texts(values), _) => push(values, None),
        };
        if self.due_bytes > DUE_BYTES { self.settle() } else { Ok(()) }
    }

    fn settle(&mut self) -> Result<(), E> {
        (self.reserve)(std::mem::take(&mut self.due_bytes))
    }
}

/// Appends a value; how many bytes it takes. A vector that grows has room for twice what it holds.
fn push<T>(values: &mut Vec<T>, value: T) -> u64 {
    values.push(value);
    2 * size_of::<T>() as u64
}

fn no_number(place: &str, column: &str, value: &str) -> Error {
    Error::Invalid(format!(
        "{place}: {} in column {} is not a finite number: correct it, or leave it empty where a value is missing",
        shown(value),
        shown(column)
    ))
}
