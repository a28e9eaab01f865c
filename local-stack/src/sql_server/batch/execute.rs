//! EXECUTE.

use sqlparser::ast::{Expr, Value};
use sqlparser::tokenizer::Token;

use super::super::error::SqlError;
use super::{Reader, Statement};

/// EXECUTE of a text, of `sp_executesql` with its parameters, or of a procedure that stands for a text.
#[derive(Debug)]
pub(in super::super) struct Execute {
    pub(in super::super) text: Expr,
    pub(in super::super) declarations: Option<Expr>,
    pub(in super::super) arguments: Vec<Argument>,
}

/// A value for a parameter.
#[derive(Debug)]
pub(in super::super) struct Argument {
    /// The parameter's name, where it is given.
    pub(in super::super) name: Option<String>,
    pub(in super::super) value: Expr,
    /// The variable that takes the parameter's value at the end.
    pub(in super::super) output: Option<String>,
}

macro_rules! table_collations {
    () => {
        "SELECT column_id AS colid, name, CASE collation_name \
        WHEN 'SQL_Latin1_General_CP1_CI_AS' THEN 0x0904D00034 WHEN 'SQL_Latin1_General_CP1_CS_AS' THEN 0x0904C00033 \
        WHEN 'Latin1_General_100_BIN2' THEN 0x0904002200 WHEN 'Latin1_General_100_CI_AS_SC_UTF8' THEN 0x0904D02400 \
        WHEN 'Latin1_General_100_BIN2_UTF8' THEN 0x0904002600 END AS tds_collation, collation_name AS collation"
    };
}

/// Procedures of SQL Server that clients call, as statements: name, declarations, text.
const PROCEDURES: &[(&str, &str, &str)] = &[
    // every bulk copy of Microsoft's clients asks it; the numbers are those of MS-TDS 2.2.5.1.2
    (
        "sp_tablecollations_100",
        "@object nvarchar(4000)",
        concat!(
            table_collations!(),
            " FROM sys.columns WHERE object_id = OBJECT_ID(@object) ORDER BY column_id"
        ),
    ),
    (
        "tempdb..sp_tablecollations_100",
        "@object nvarchar(4000)",
        concat!(
            table_collations!(),
            " FROM tempdb.sys.columns WHERE object_id = OBJECT_ID('tempdb.' + @object) ORDER BY column_id"
        ),
    ),
];
/// A procedure about the locks of applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum AppLockProcedure {
    Get,
    Release,
}

/// EXECUTE of one of them.
#[derive(Debug)]
pub(in super::super) struct AppLockCall {
    /// The variable that takes its return value.
    pub(in super::super) result: Option<String>,
    pub(in super::super) procedure: AppLockProcedure,
    pub(in super::super) arguments: Vec<Argument>,
}

impl Reader<'_> {
    pub(super) fn execute(&mut self) -> Result<Statement, SqlError> {
        self.parser.next_token();
        let result = match &self.parser.peek_token_ref().token {
            Token::Word(word) if word.value.starts_with('@') => Some(self.variable()?),
            _ => None,
        };
        if result.is_some() {
            self.expect(&Token::Eq)?;
        }
        if let Some(call) = self.app_lock_call(result.clone())? {
            return Ok(Statement::AppLock(Box::new(call)));
        }
        if result.is_some() {
            return Err(SqlError::unsupported("return value of this procedure"));
        }
        if self.accept_token(&Token::LParen) {
            let text = self.expression()?;
            self.expect(&Token::RParen)?;
            let execute = Execute { text, declarations: None, arguments: Vec::new() };
            return Ok(Statement::Execute(Box::new(execute)));
        }
        // of the database at hand, as Microsoft's clients write it: `..name`
        while self.accept_token(&Token::Period) {}
        let name = self.object_name()?;
        let mut plain = name.last().map(|name| name.to_ascii_lowercase()).unwrap_or_default();
        if let [database, _, _] = name.as_slice()
            && database.eq_ignore_ascii_case("tempdb")
        {
            plain.insert_str(0, "tempdb..");
        }
        if plain == "sp_executesql" {
            let mut arguments = self.arguments()?.into_iter();
            let text = arguments.next().map(|argument| argument.value).ok_or_else(|| self.unexpected())?;
            let declarations = arguments.next().map(|argument| argument.value);
            let execute = Execute { text, declarations, arguments: arguments.collect() };
            return Ok(Statement::Execute(Box::new(execute)));
        }
        if let Some((_, declarations, text)) = PROCEDURES.iter().find(|(name, ..)| *name == plain) {
            let constant =
                |text: &str| Expr::Value(Value::NationalStringLiteral(text.to_owned()).with_empty_span());
            let execute = Execute {
                text: constant(text),
                declarations: Some(constant(declarations)),
                arguments: self.arguments()?,
            };
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

    fn app_lock_call(&mut self, result: Option<String>) -> Result<Option<AppLockCall>, SqlError> {
        // the name's last part decides: `sp_…`, `sys.sp_…`
        let qualified = self.parser.peek_nth_token_ref(1).token == Token::Period;
        let name = usize::from(qualified) * 2;
        let procedure = if self.is_nth(name, "sp_getapplock") {
            AppLockProcedure::Get
        } else if self.is_nth(name, "sp_releaseapplock") {
            AppLockProcedure::Release
        } else {
            return Ok(None);
        };
        self.object_name()?;
        Ok(Some(AppLockCall { result, procedure, arguments: self.arguments()? }))
    }

    fn arguments(&mut self) -> Result<Vec<Argument>, SqlError> {
        let mut arguments = vec![self.argument()?];
        while self.accept_token(&Token::Comma) {
            arguments.push(self.argument()?);
        }
        Ok(arguments)
    }

    /// An argument of a procedure: `[@name =] value [OUTPUT]`.
    fn argument(&mut self) -> Result<Argument, SqlError> {
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
        let mut output = None;
        if self.accept("OUTPUT") || self.accept("OUT") {
            output = match &value {
                Expr::Identifier(variable) if variable.value.starts_with('@') => Some(variable.value.clone()),
                _ => {
                    return Err(SqlError::new(
                        179,
                        15,
                        1,
                        "Cannot use the OUTPUT option when passing a constant to a stored procedure.",
                    ));
                }
            };
        }
        Ok(Argument { name, value, output })
    }
}
