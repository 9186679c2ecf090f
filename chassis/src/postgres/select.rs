//! A statement of texts of ours and parameters of the caller's.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// A parameter and its type.
pub type Param<'a> = (&'a (dyn ToSql + Sync), Type);

/// A statement in the making. What a caller writes travels as a parameter or chooses a text.
pub struct Select<'a> {
    text: String,
    params: Vec<Param<'a>>,
}

impl<'a> Select<'a> {
    /// Begins with a text that has no parameter.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), params: Vec::new() }
    }

    /// Adds a text, each `$?` of which stands for one of the parameters, in their order.
    pub fn then<const N: usize>(mut self, text: &str, params: [Param<'a>; N]) -> Self {
        let mut parts = text.split("$?");
        self.text.push_str(parts.next().unwrap_or_default());
        for (part, param) in parts.zip(params) {
            self.params.push(param);
            self.text.push('$');
            self.text.push_str(&self.params.len().to_string());
            self.text.push_str(part);
        }
        self
    }

    /// Returns the statement.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Runs the statement, which counts a list, if the count is wanted.
    ///
    /// # Errors
    /// The database's.
    pub async fn total(&self, client: &Client, is_wanted: bool) -> Result<Option<i64>, Error> {
        if !is_wanted {
            return Ok(None);
        }
        let rows = client.query_typed(self.text(), self.params()).await?;
        rows.first().map(|row| row.try_get(0)).transpose()
    }

    /// Returns its parameters.
    pub fn params(&self) -> &[Param<'a>] {
        &self.params
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_through() {
        let (one, two, three) = (1_i64, 2_i64, 3_i64);
        let select = Select::new("SELECT 1 WHERE true")
            .then(" AND (a, b) > ($?, $?)", [(&one, Type::INT8), (&two, Type::INT8)])
            .then(" ORDER BY a", [])
            .then(" LIMIT $?", [(&three, Type::INT8)]);
        assert_eq!(select.text(), "SELECT 1 WHERE true AND (a, b) > ($1, $2) ORDER BY a LIMIT $3");
        assert_eq!(select.params().len(), 3);
    }
}
