//! The database as somebody else sees it, who is not the sink.

use futures_util::StreamExt;
use tiberius::{Client, QueryItem, Row};
use tokio::net::TcpStream;
use tokio_util::compat::Compat;

/// A SQL client that is not the sink's.
pub struct Sql {
    client: Client<Compat<TcpStream>>,
}

impl Sql {
    /// Of one that has logged in.
    pub fn of(client: Client<Compat<TcpStream>>) -> Self {
        Self { client }
    }

    pub async fn rows(&mut self, sql: &str) -> Vec<Row> {
        let mut answer = self.client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        let mut rows = Vec::new();
        while let Some(item) = answer.next().await {
            match item.unwrap_or_else(|error| panic!("{sql}: {error}")) {
                QueryItem::Row(row) => rows.push(row),
                QueryItem::Metadata(_) => {}
            }
        }
        rows
    }

    pub async fn execute(&mut self, sql: &str) {
        self.rows(sql).await;
    }

    /// The number of the error that a statement is refused with; `None` where it is not.
    pub async fn refusal(&mut self, sql: &str) -> Option<u32> {
        self.refused(sql).await.map(|(number, _)| number)
    }

    /// The number and the text of the error that the server refuses a batch with.
    pub async fn refused(&mut self, sql: &str) -> Option<(u32, String)> {
        let told = |token: &tiberius::error::TokenError| Some((token.code(), token.message().to_owned()));
        let mut answer = match self.client.simple_query(sql).await {
            Ok(answer) => answer,
            Err(tiberius::error::Error::Server(token)) => return told(&token),
            Err(error) => panic!("{sql}: {error}"),
        };
        while let Some(item) = answer.next().await {
            match item {
                Ok(_) => {}
                Err(tiberius::error::Error::Server(token)) => return told(&token),
                Err(error) => panic!("{sql}: {error}"),
            }
        }
        None
    }

    /// The one number that a statement answers with.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let rows = self.rows(sql).await;
        let row = rows.first().unwrap_or_else(|| panic!("{sql} has no row"));
        let cell = row.cells().next().unwrap_or_else(|| panic!("{sql} has no column")).1;
        match cell {
            tiberius::ColumnData::I32(value) => i64::from(value.unwrap_or_default()),
            tiberius::ColumnData::I64(value) => value.unwrap_or_default(),
            other => panic!("{sql} answers with {other:?}"),
        }
    }
}
