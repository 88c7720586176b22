//! How a row's columns are read: by name, into the type that is meant. A column of an unexpected kind is
//! an error that names it.

use std::str::FromStr;

use gantry_model::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::Row as _;

use super::{Row, StoreError, code};

/// Typed columns of a row.
pub(crate) trait Columns {
    /// A TEXT column.
    fn text(&self, column: &'static str) -> Result<String, StoreError>;
    /// A TEXT column that may be NULL.
    fn maybe_text(&self, column: &'static str) -> Result<Option<String>, StoreError>;
    /// A BIGINT column as it is.
    fn integer(&self, column: &'static str) -> Result<i64, StoreError>;
    /// A BIGINT column as it is, which may be NULL.
    fn maybe_integer(&self, column: &'static str) -> Result<Option<i64>, StoreError>;

    /// A count or length.
    fn number(&self, column: &'static str) -> Result<u64, StoreError> {
        self.integer(column).map(code::from_db)
    }

    /// Yes or no.
    fn flag(&self, column: &'static str) -> Result<bool, StoreError> {
        Ok(self.integer(column)? != 0)
    }

    /// An instant.
    fn instant(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        self.integer(column).map(code::at)
    }

    /// An instant, if there is one.
    fn maybe_instant(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        self.maybe_integer(column).map(code::maybe_at)
    }

    /// An id, or anything else that is spelled as text.
    fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, StoreError> {
        code::id(column, &self.text(column)?)
    }

    /// The same, if there is one.
    fn maybe_parsed<T: FromStr>(&self, column: &'static str) -> Result<Option<T>, StoreError> {
        self.maybe_text(column)?.map(|text| code::id(column, &text)).transpose()
    }

    /// A value that is kept as JSON.
    fn json<T: DeserializeOwned>(&self, column: &'static str) -> Result<T, StoreError> {
        code::json(column, &self.text(column)?)
    }
}

impl Columns for Row {
    fn text(&self, column: &'static str) -> Result<String, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn maybe_text(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn integer(&self, column: &'static str) -> Result<i64, StoreError> {
        Ok(self.try_get(column)?)
    }

    fn maybe_integer(&self, column: &'static str) -> Result<Option<i64>, StoreError> {
        Ok(self.try_get(column)?)
    }
}
