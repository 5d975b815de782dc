//! Doors to decoders that nothing outside of this crate needs, for those who feed them hostile bytes (`fuzz/`). No part of the interface.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use crate::codec::DecodeError;
use crate::digest::Digest;
use crate::index::parse_head;
use crate::layer::{Step, encoding};
use crate::record::RecordHead;

/// As a record's times are read.
pub fn read_times(bytes: &[u8]) -> Result<Vec<u64>, DecodeError> {
    crate::record::encoding::decode_times(bytes)
}

/// As they are written.
pub fn write_times(times: &[u64]) -> Vec<u8> {
    crate::record::encoding::encode_times(times)
}

/// As a record's command is read.
pub fn read_argv(bytes: &[u8]) -> Result<Vec<Vec<u8>>, DecodeError> {
    crate::record::encoding::decode_argv(bytes)
}

/// As it is written.
pub fn write_argv(argv: &[Vec<u8>]) -> Vec<u8> {
    crate::record::encoding::encode_argv(argv)
}

/// The steps of a layer's log, how many of its bytes they are, and whether what follows is damage.
pub fn read_log(bytes: &[u8], layer: &Digest) -> (Vec<Step>, usize, bool) {
    let log = encoding::read_log(bytes, layer);
    (log.steps, log.length, log.damaged)
}

/// A record of a layer's log.
pub fn write_log_record(before: &Digest, steps: &[Step]) -> Result<Vec<u8>, DecodeError> {
    encoding::write_record(before, steps).map(|(record, _)| record)
}

/// A record of a layer's log around bytes that only claim to be steps.
pub fn frame_log_record(before: &Digest, steps: &[u8]) -> Vec<u8> {
    encoding::frame(before, steps).0
}

/// Whether the store could be opened, by its file `format`; else the line that is not known.
pub fn read_format(text: &[u8]) -> Result<(), String> {
    crate::format::check_text(text)
}

/// A value as SQLite may hand it out, whatever the column was declared as.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// A fraction.
    Real(f64),
    /// Text that is valid UTF-8.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// How many columns the row of a record's head has.
pub const HEAD_COLUMNS: usize = 17;

/// Reads rows as the index does.
pub struct Rows(Connection);

impl Rows {
    /// Needs no store.
    pub fn new() -> Result<Rows, rusqlite::Error> {
        Connection::open_in_memory().map(Rows)
    }

    /// The head that these columns hold; `None` if they do not vouch for each other.
    pub fn read(&self, columns: &[Column; HEAD_COLUMNS]) -> Result<Option<RecordHead>, rusqlite::Error> {
        let marks: Vec<String> = (1..=HEAD_COLUMNS).map(|number| format!("?{number}")).collect();
        let values = columns.iter().map(|column| match column {
            Column::Null => Value::Null,
            Column::Integer(number) => Value::Integer(*number),
            Column::Real(number) => Value::Real(*number),
            Column::Text(text) => Value::Text(text.clone()),
            Column::Bytes(bytes) => Value::Blob(bytes.clone()),
        });
        let mut query = self.0.prepare_cached(&format!("SELECT {}", marks.join(", ")))?;
        query.query_row(params_from_iter(values), |row| Ok(parse_head(row)?.map(|row| row.head)))
    }
}

/// The columns of a head that vouch for each other, as they would be stored.
pub fn write_row(head: &RecordHead, captured: &Digest, details: &Digest) -> [Column; HEAD_COLUMNS] {
    let mut head = head.clone();
    head.id = head.identity(captured);
    let digest = |digest: &Digest| Column::Bytes(digest.0.to_vec());
    let bound = |place: &Option<Vec<u8>>| place.clone().map_or(Column::Null, Column::Bytes);
    [
        digest(&head.id.0),
        digest(&head.task_key.0),
        digest(&head.own_key.0),
        Column::Integer(i64::from(head.usable)),
        digest(&head.fingerprint),
        digest(&head.manifest),
        Column::Integer(i64::from(head.exit_code)),
        Column::Integer(head.command_ms as i64),
        Column::Integer(head.created_ms as i64),
        bound(&head.bound_workspace),
        bound(&head.bound_home),
        Column::Integer(i64::from(head.depth)),
        Column::Integer(head.output_bytes as i64),
        digest(captured),
        digest(details),
        digest(&head.seal_with(captured, details)),
        Column::Integer(1),
    ]
}
