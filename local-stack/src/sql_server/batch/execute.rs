//! EXECUTE.

use sqlparser::ast::Expr;
use sqlparser::tokenizer::Token;

use super::super::error::SqlError;
use super::{Reader, Statement};

/// EXECUTE of a text, or of `sp_executesql` with its parameters.
#[derive(Debug)]
pub(in super::super) struct Execute {
    pub(in super::super) text: Expr,
    pub(in super::super) declarations: Option<Expr>,
    /// Values, with the parameters' names where they are given.
    pub(in super::super) arguments: Vec<(Option<String>, Expr)>,
}

impl Reader<'_> {
    pub(super) fn execute(&mut self) -> Result<Statement, SqlError> {
        self.parser.next_token();
        if self.accept_token(&Token::LParen) {
            let text = self.expression()?;
            self.expect(&Token::RParen)?;
            let execute = Execute { text, declarations: None, arguments: Vec::new() };
            return Ok(Statement::Execute(Box::new(execute)));
        }
        let name = self.object_name()?;
        if name.last().is_some_and(|name| name.eq_ignore_ascii_case("sp_executesql")) {
            let mut arguments = vec![self.argument()?];
            while self.accept_token(&Token::Comma) {
                arguments.push(self.argument()?);
            }
            let mut arguments = arguments.into_iter();
            let text = arguments.next().map(|(_, text)| text).ok_or_else(|| self.unexpected())?;
            let declarations = arguments.next().map(|(_, declarations)| declarations);
            let execute = Execute { text, declarations, arguments: arguments.collect() };
            return Ok(Statement::Execute(Box::new(execute)));
        }
        Err(match name.last() {
            Some(name) if name.starts_with("sp_") || name.starts_with("xp_") => {
                SqlError::unsupported(&format!("EXECUTE {name}"))
            }
            _ => {
                SqlError::new(2812, 16, 62, format!("Could not find stored procedure '{}'.", name.join(".")))
            }
        })
    }

    /// An argument of a procedure: `[@name =] value`.
    fn argument(&mut self) -> Result<(Option<String>, Expr), SqlError> {
        let name = match &self.parser.peek_token_ref().token {
            Token::Word(word)
                if word.value.starts_with('@') && self.parser.peek_nth_token_ref(1).token == Token::Eq =>
            {
                Some(word.value.clone())
            }
            _ => None,
        };
        if name.is_some() {
            self.parser.next_token();
            self.parser.next_token();
        }
        let value = self.expression()?;
        if self.is("OUTPUT") || self.is("OUT") {
            return Err(SqlError::unsupported("OUTPUT parameter of a statement"));
        }
        Ok((name, value))
    }
}
