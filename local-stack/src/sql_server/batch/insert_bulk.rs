//! `INSERT BULK`, which no user writes and every client's bulk load sends.

use sqlparser::tokenizer::Token;

use super::super::error::SqlError;
use super::super::types::SqlType;
use super::Reader;

/// What a client announces before it sends rows.
#[derive(Debug)]
pub(in super::super) struct InsertBulk {
    pub(in super::super) table: Vec<String>,
    /// Empty where the client left the list out: then it is all columns.
    pub(in super::super) columns: Vec<BulkColumn>,
    pub(in super::super) keep_nulls: bool,
    pub(in super::super) check_constraints: bool,
}

/// A column with the type under which the client will send it.
#[derive(Debug)]
pub(in super::super) struct BulkColumn {
    pub(in super::super) name: String,
    pub(in super::super) sql_type: SqlType,
}

impl Reader<'_> {
    pub(super) fn insert_bulk(&mut self) -> Result<InsertBulk, SqlError> {
        self.accept_all(&["INSERT", "BULK"]);
        let mut bulk = InsertBulk {
            table: self.object_name()?,
            columns: Vec::new(),
            keep_nulls: false,
            check_constraints: false,
        };
        if self.accept_token(&Token::LParen) {
            loop {
                let name = self.identifier()?;
                let sql_type = self.data_type()?;
                bulk.columns.push(BulkColumn { name, sql_type });
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
            self.expect(&Token::RParen)?;
        }
        if self.accept("WITH") {
            self.expect(&Token::LParen)?;
            loop {
                let option = self.identifier()?.to_ascii_uppercase();
                match option.as_str() {
                    "KEEP_NULLS" => bulk.keep_nulls = true,
                    "CHECK_CONSTRAINTS" => bulk.check_constraints = true,
                    // there are no triggers here, and PostgreSQL's loads need no lock on the table
                    "TABLOCK" | "FIRE_TRIGGERS" => {}
                    "ORDER" => {
                        self.expect(&Token::LParen)?;
                        loop {
                            self.identifier()?;
                            let _ = self.accept("ASC") || self.accept("DESC");
                            if !self.accept_token(&Token::Comma) {
                                break;
                            }
                        }
                        self.expect(&Token::RParen)?;
                    }
                    "ROWS_PER_BATCH" | "KILOBYTES_PER_BATCH" => {
                        self.expect(&Token::Eq)?;
                        self.parser.next_token();
                    }
                    _ => return Err(SqlError::unsupported(&format!("option {option} of INSERT BULK"))),
                }
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
            self.expect(&Token::RParen)?;
        }
        Ok(bulk)
    }
}
