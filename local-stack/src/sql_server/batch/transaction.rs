//! BEGIN, COMMIT, ROLLBACK and SAVE of a transaction.

use sqlparser::keywords::Keyword;
use sqlparser::tokenizer::Token;

use super::super::error::SqlError;
use super::{Reader, Statement};

impl Reader<'_> {
    /// A statement about a transaction; `None` where the next one is another.
    pub(super) fn transaction_statement(&mut self) -> Result<Option<Statement>, SqlError> {
        let named =
            |word: &str| word.eq_ignore_ascii_case("TRAN") || word.eq_ignore_ascii_case("TRANSACTION");
        let second = match &self.parser.peek_nth_token_ref(1).token {
            Token::Word(word) => word.value.clone(),
            _ => String::new(),
        };
        let verb = ["BEGIN", "COMMIT", "ROLLBACK", "SAVE"].into_iter().find(|verb| self.is(verb));
        let Some(verb) = verb else { return Ok(None) };
        let has_noun = named(&second);
        if self.are(&["BEGIN", "DISTRIBUTED"]) {
            return Err(SqlError::unsupported("BEGIN DISTRIBUTED TRANSACTION"));
        }
        if matches!(verb, "BEGIN" | "SAVE") && !has_noun {
            return Ok(None);
        }
        self.parser.next_token();
        if has_noun || (matches!(verb, "COMMIT" | "ROLLBACK") && second.eq_ignore_ascii_case("WORK")) {
            self.parser.next_token();
        }
        let name = match &self.parser.peek_token_ref().token {
            Token::Word(word) if has_noun && word.keyword == Keyword::NoKeyword => Some(self.identifier()?),
            _ => None,
        };
        if self.are(&["WITH", "MARK"]) || self.parser.peek_token_ref().token == Token::LParen {
            return Err(SqlError::unsupported("option of a transaction"));
        }
        if self.is("WITH") && verb == "COMMIT" {
            return Err(SqlError::unsupported("COMMIT WITH (DELAYED_DURABILITY)"));
        }
        Ok(Some(match verb {
            "BEGIN" => Statement::Begin,
            "COMMIT" => Statement::Commit,
            "ROLLBACK" => Statement::Rollback(name),
            _ => Statement::Save(name.ok_or_else(|| self.unexpected())?),
        }))
    }
}
