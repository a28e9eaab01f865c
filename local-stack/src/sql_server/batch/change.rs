//! SELECT, INSERT, UPDATE and DELETE, and what sqlparser does not know of them.

use sqlparser::ast::Statement as SqlStatement;
use sqlparser::tokenizer::Token;

use super::super::error::SqlError;
use super::{Reader, syntax};

impl Reader<'_> {
    pub(super) fn query_or_change(&mut self) -> Result<SqlStatement, SqlError> {
        for word in ["INSERT", "UPDATE"] {
            if self.are(&[word, "TOP"]) {
                return Err(SqlError::unsupported(&format!("TOP of {word}")));
            }
        }
        if self.are(&["DELETE", "TOP"]) {
            return self.delete_top();
        }
        let statement = self.parser.parse_statement().map_err(syntax)?;
        match &statement {
            // sqlparser takes what is MySQL's
            SqlStatement::Delete(delete) if delete.limit.is_some() => Err(SqlError::syntax("LIMIT")),
            SqlStatement::Update(update) if update.limit.is_some() => Err(SqlError::syntax("LIMIT")),
            _ => Ok(statement),
        }
    }

    /// `DELETE TOP (n)`: how many stands where sqlparser keeps the LIMIT of others.
    fn delete_top(&mut self) -> Result<SqlStatement, SqlError> {
        let delete = self.parser.next_token();
        self.parser.next_token();
        self.expect(&Token::LParen)?;
        let count = self.expression()?;
        self.expect(&Token::RParen)?;
        if self.is("PERCENT") {
            return Err(SqlError::unsupported("TOP PERCENT"));
        }
        match self.parser.parse_delete(delete).map_err(syntax)? {
            SqlStatement::Delete(mut delete) if delete.limit.is_none() => {
                delete.limit = Some(count);
                Ok(SqlStatement::Delete(delete))
            }
            SqlStatement::Delete(_) => Err(SqlError::syntax("LIMIT")),
            _ => Err(SqlError::syntax("TOP")),
        }
    }
}
