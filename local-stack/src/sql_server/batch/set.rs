//! SET.

use sqlparser::tokenizer::Token;

use super::super::error::SqlError;
use super::{Reader, Statement};

/// SET of a session's option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum SetOption {
    XactAbort(bool),
    NoCount(bool),
    ImplicitTransactions(bool),
    /// Milliseconds; -1 waits without end.
    LockTimeout(i32),
    /// PostgreSQL's name of the level.
    Isolation(&'static str),
    FormatOnly(bool),
    /// Changes nothing that this server does.
    Nothing,
}

impl Reader<'_> {
    pub(super) fn set(&mut self) -> Result<Statement, SqlError> {
        self.expect_word("SET")?;
        let first = self.parser.peek_token_ref().token.to_string();
        if first.starts_with('@') {
            let name = self.variable()?;
            self.expect(&Token::Eq)?;
            return Ok(Statement::SetVariable(name, Box::new(self.expression()?)));
        }
        if self.accept_all(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
            let levels: [(&[&str], &'static str); 5] = [
                // PostgreSQL shows nobody what is not committed: stricter than asked
                (&["READ", "UNCOMMITTED"], "READ COMMITTED"),
                (&["READ", "COMMITTED"], "READ COMMITTED"),
                (&["REPEATABLE", "READ"], "REPEATABLE READ"),
                (&["SNAPSHOT"], "REPEATABLE READ"),
                (&["SERIALIZABLE"], "SERIALIZABLE"),
            ];
            for (words, level) in levels {
                if self.accept_all(words) {
                    return Ok(Statement::SetOption(SetOption::Isolation(level)));
                }
            }
            return Err(self.unexpected());
        }
        let mut names = vec![self.identifier()?.to_ascii_uppercase()];
        while self.accept_token(&Token::Comma) {
            names.push(self.identifier()?.to_ascii_uppercase());
        }
        let value = self.set_value()?;
        let switch = || match value.to_ascii_uppercase().as_str() {
            "ON" => Ok(true),
            "OFF" => Ok(false),
            _ => Err(SqlError::syntax(&value)),
        };
        let mut option = SetOption::Nothing;
        for name in names {
            match name.as_str() {
                "XACT_ABORT" => option = SetOption::XactAbort(switch()?),
                "NOCOUNT" => option = SetOption::NoCount(switch()?),
                "IMPLICIT_TRANSACTIONS" => option = SetOption::ImplicitTransactions(switch()?),
                "FMTONLY" => option = SetOption::FormatOnly(switch()?),
                "LOCK_TIMEOUT" => {
                    option = SetOption::LockTimeout(value.parse().map_err(|_| SqlError::syntax(&value))?);
                }
                // what this server does is what these mean when they are ON
                "ANSI_NULLS"
                | "ANSI_PADDING"
                | "ANSI_WARNINGS"
                | "QUOTED_IDENTIFIER"
                | "CONCAT_NULL_YIELDS_NULL"
                | "ARITHABORT"
                | "ANSI_NULL_DFLT_ON" => {
                    if !switch()? && name != "ARITHABORT" {
                        return Err(SqlError::unsupported(&format!("SET {name} OFF")));
                    }
                }
                "ANSI_DEFAULTS" => {
                    if switch()? {
                        option = SetOption::ImplicitTransactions(true);
                    }
                }
                "NUMERIC_ROUNDABORT" | "ANSI_NULL_DFLT_OFF" | "PARSEONLY" | "NOEXEC" | "SHOWPLAN_ALL"
                | "SHOWPLAN_XML" | "SHOWPLAN_TEXT" => {
                    if switch()? {
                        return Err(SqlError::unsupported(&format!("SET {name} ON")));
                    }
                }
                // no limit on rows, and on texts that are sent back none either
                "ROWCOUNT" => {
                    if value != "0" {
                        return Err(SqlError::unsupported("SET ROWCOUNT"));
                    }
                }
                // there are no cursors here, and no text is cut that is sent back
                "CURSOR_CLOSE_ON_COMMIT"
                | "TEXTSIZE"
                | "DEADLOCK_PRIORITY"
                | "STATISTICS"
                | "CONTEXT_INFO"
                | "QUERY_GOVERNOR_COST_LIMIT" => {}
                "LANGUAGE" => {
                    if !value.eq_ignore_ascii_case("us_english") && !value.eq_ignore_ascii_case("english") {
                        return Err(SqlError::unsupported("SET LANGUAGE"));
                    }
                }
                "DATEFORMAT" => {
                    if !value.eq_ignore_ascii_case("mdy") && !value.eq_ignore_ascii_case("ymd") {
                        return Err(SqlError::unsupported("SET DATEFORMAT"));
                    }
                }
                "DATEFIRST" => {
                    if value != "7" {
                        return Err(SqlError::unsupported("SET DATEFIRST"));
                    }
                }
                _ => return Err(SqlError::unsupported(&format!("SET {name}"))),
            }
        }
        Ok(Statement::SetOption(option))
    }

    /// `WAITFOR DELAY 'hh:mm[:ss[.mmm]]'`.
    pub(super) fn wait_for(&mut self) -> Result<Statement, SqlError> {
        if !self.accept("DELAY") {
            return Err(SqlError::unsupported("WAITFOR of anything but DELAY"));
        }
        let text = match self.parser.next_token().token {
            Token::SingleQuotedString(text) | Token::NationalStringLiteral(text) => text,
            _ => return Err(SqlError::unsupported("WAITFOR DELAY of what is not a constant")),
        };
        let wrong = || {
            SqlError::new(
                148,
                15,
                1,
                format!("Incorrect time syntax in time string '{text}' used with WAITFOR."),
            )
        };
        let mut seconds = 0.0;
        let mut unit = 3600.0;
        for part in text.split(':') {
            let number = Some(part).filter(|part| part.starts_with(|c: char| c.is_ascii_digit()));
            let number = number.and_then(|part| part.parse::<f64>().ok()).ok_or_else(wrong)?;
            // hours are checked with the whole
            if unit < 3600.0 && number >= 60.0 {
                return Err(wrong());
            }
            seconds += unit * number;
            unit /= 60.0;
        }
        // less than a day
        if (0.0..86_400.0).contains(&seconds) { Ok(Statement::WaitFor(seconds)) } else { Err(wrong()) }
    }

    /// What follows the name of an option: a word, a number with its sign, or a text.
    pub(super) fn set_value(&mut self) -> Result<String, SqlError> {
        let minus = self.accept_token(&Token::Minus);
        let value = match self.parser.next_token().token {
            Token::Word(word) => word.value,
            Token::Number(number, _) => number,
            Token::SingleQuotedString(text) | Token::NationalStringLiteral(text) => text,
            token => return Err(SqlError::syntax(&token.to_string())),
        };
        // SET STATISTICS IO ON
        if self.is("ON") || self.is("OFF") {
            self.parser.next_token();
        }
        Ok(if minus { format!("-{value}") } else { value })
    }
}
