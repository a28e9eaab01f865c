//! A batch of T-SQL as a tree of statements.
//!
//! Queries and the statements that change rows are sqlparser's. What it has not, or reads otherwise than
//! SQL Server does (control of flow, transactions, DDL, `INSERT BULK`), is read here, token by token.

use sqlparser::ast::{Expr, ObjectName, ObjectNamePart, Statement as SqlStatement};
use sqlparser::dialect::MsSqlDialect;
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

use super::error::SqlError;
use super::types::SqlType;

mod ddl;
mod execute;
mod change;
mod insert_bulk;
mod security;
mod set;
mod tokens;
mod transaction;

pub(super) use ddl::{
    ColumnDefinition, ComputedColumn, ConstraintDefinition, ConstraintKind, Ddl, IndexDefinition, IndexKind,
    TableItem,
};
pub(super) use execute::{AppLockCall, AppLockProcedure, Argument, Execute};
pub(super) use insert_bulk::InsertBulk;
pub(super) use security::{PermissionChange, PrincipalKind, Securable, Security, UserKind};
pub(super) use set::SetOption;
use tokens::is_bare_word;

/// One statement.
#[derive(Debug)]
pub(super) enum Statement {
    /// SELECT, INSERT, UPDATE or DELETE.
    Sql(Box<SqlStatement>),
    Ddl(Box<Ddl>),
    Security(Box<Security>),
    InsertBulk(Box<InsertBulk>),
    If {
        condition: Box<Expr>,
        then: Box<Statement>,
        otherwise: Option<Box<Statement>>,
    },
    Block(Vec<Statement>),
    Try {
        body: Vec<Statement>,
        catch: Vec<Statement>,
    },
    Declare(Vec<(String, SqlType, Option<Expr>)>),
    SetVariable(String, Box<Expr>),
    SetOption(SetOption),
    Begin,
    Commit,
    Rollback(Option<String>),
    Save(String),
    Throw(Option<Box<(Expr, Expr, Expr)>>),
    Print(Box<Expr>),
    /// Seconds.
    WaitFor(f64),
    Use(String),
    Execute(Box<Execute>),
    AppLock(Box<AppLockCall>),
    Return,
}

/// A batch is not this deep unless somebody means harm.
const MAX_DEPTH: usize = 32;

/// Reads a batch.
pub(super) fn parse(text: &str) -> Result<Vec<Statement>, SqlError> {
    let dialect = MsSqlDialect {};
    let parser = Parser::new(&dialect).with_tokens_with_locations(tokens::read(&dialect, text)?);
    let mut reader = Reader { parser, depth: 0 };
    let mut statements = Vec::new();
    loop {
        reader.skip_semicolons();
        if reader.at_end() {
            return Ok(statements);
        }
        statements.push(reader.statement()?);
    }
}

/// A parameter of a statement.
#[derive(Clone, Debug)]
pub(super) struct Declaration {
    pub(super) name: String,
    pub(super) sql_type: SqlType,
    pub(super) is_output: bool,
}

/// Reads the declarations of a statement's parameters.
pub(super) fn parse_declarations(text: &str) -> Result<Vec<Declaration>, SqlError> {
    let dialect = MsSqlDialect {};
    let parser = Parser::new(&dialect).try_with_sql(text).map_err(syntax)?;
    let mut reader = Reader { parser, depth: 0 };
    let mut declarations = Vec::new();
    while !reader.at_end() {
        let name = reader.variable()?;
        reader.accept("AS");
        let sql_type = reader.data_type()?;
        let is_output = reader.accept("OUTPUT") || reader.accept("OUT");
        declarations.push(Declaration { name, sql_type, is_output });
        if !reader.at_end() {
            reader.expect(&Token::Comma)?;
        }
    }
    Ok(declarations)
}

fn syntax(error: ParserError) -> SqlError {
    match error {
        ParserError::RecursionLimitExceeded => SqlError::too_deep(),
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => {
            SqlError::new(102, 15, 1, format!("Incorrect syntax: {text}."))
        }
    }
}

/// Reads statements from sqlparser's tokens.
struct Reader<'a> {
    parser: Parser<'a>,
    depth: usize,
}

impl Reader<'_> {
    fn at_end(&self) -> bool {
        self.parser.peek_token_ref().token == Token::EOF
    }

    fn skip_semicolons(&mut self) {
        while self.parser.consume_token(&Token::SemiColon) {}
    }

    fn is(&self, text: &str) -> bool {
        is_bare_word(&self.parser.peek_token_ref().token, text)
    }

    fn is_nth(&self, index: usize, text: &str) -> bool {
        is_bare_word(&self.parser.peek_nth_token_ref(index).token, text)
    }

    /// Whether the next tokens are these words.
    fn are(&self, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(index, word)| self.is_nth(index, word))
    }

    fn accept(&mut self, text: &str) -> bool {
        let found = self.is(text);
        if found {
            self.parser.next_token();
        }
        found
    }

    fn accept_all(&mut self, words: &[&str]) -> bool {
        let found = self.are(words);
        if found {
            words.iter().for_each(|_| {
                self.parser.next_token();
            });
        }
        found
    }

    fn accept_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    fn expect_word(&mut self, text: &str) -> Result<(), SqlError> {
        if self.accept(text) { Ok(()) } else { Err(self.unexpected()) }
    }

    fn expect(&mut self, token: &Token) -> Result<(), SqlError> {
        if self.accept_token(token) { Ok(()) } else { Err(self.unexpected()) }
    }

    /// Error 102 at the next token.
    fn unexpected(&self) -> SqlError {
        match &self.parser.peek_token_ref().token {
            Token::EOF => SqlError::new(102, 15, 1, "Incorrect syntax: the statement ends too early."),
            token => SqlError::syntax(&token.to_string()),
        }
    }

    fn expression(&mut self) -> Result<Expr, SqlError> {
        self.parser.parse_expr().map_err(syntax)
    }

    fn identifier(&mut self) -> Result<String, SqlError> {
        self.parser.parse_identifier().map(|identifier| identifier.value).map_err(syntax)
    }

    fn object_name(&mut self) -> Result<Vec<String>, SqlError> {
        let name = self.parser.parse_object_name(false).map_err(syntax)?;
        name_parts(&name)
    }

    /// Names in parentheses, commas between them.
    fn identifiers(&mut self) -> Result<Vec<String>, SqlError> {
        self.expect(&Token::LParen)?;
        let mut names = vec![self.identifier()?];
        while self.accept_token(&Token::Comma) {
            names.push(self.identifier()?);
        }
        self.expect(&Token::RParen)?;
        Ok(names)
    }

    fn variable(&mut self) -> Result<String, SqlError> {
        let name = self.identifier()?;
        if name.starts_with('@') && !name.starts_with("@@") { Ok(name) } else { Err(SqlError::syntax(&name)) }
    }

    /// A type with its arguments, and its collation where one follows.
    fn data_type(&mut self) -> Result<SqlType, SqlError> {
        let mut name = self.identifier()?;
        if name.eq_ignore_ascii_case("sys") && self.accept_token(&Token::Period) {
            name = self.identifier()?;
        }
        if name.eq_ignore_ascii_case("double") && self.accept("precision") {
            name = "double precision".into();
        } else if (name.eq_ignore_ascii_case("character") || name.eq_ignore_ascii_case("char"))
            && self.accept("varying")
        {
            name = "varchar".into();
        }
        let mut arguments = Vec::new();
        if self.accept_token(&Token::LParen) {
            loop {
                arguments.push(self.parser.next_token().token.to_string());
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
            self.expect(&Token::RParen)?;
        }
        let sql_type = SqlType::parse(&name, &arguments)?;
        if self.accept("COLLATE") {
            let name = self.identifier()?;
            return Ok(sql_type.with_collation(super::types::Collation::of_clause(&name)?));
        }
        Ok(sql_type)
    }

    fn statement(&mut self) -> Result<Statement, SqlError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(SqlError::too_deep());
        }
        let statement = self.statement_inner();
        self.depth -= 1;
        statement
    }

    fn statement_inner(&mut self) -> Result<Statement, SqlError> {
        if let Some(statement) = self.transaction_statement()? {
            return Ok(statement);
        }
        if self.accept_all(&["BEGIN", "TRY"]) {
            let body = self.statements_until(&["END", "TRY"])?;
            self.skip_semicolons();
            if !self.accept_all(&["BEGIN", "CATCH"]) {
                return Err(self.unexpected());
            }
            return Ok(Statement::Try { body, catch: self.statements_until(&["END", "CATCH"])? });
        }
        if self.accept("BEGIN") {
            return Ok(Statement::Block(self.statements_until(&["END"])?));
        }
        if self.accept("IF") {
            let condition = Box::new(self.expression()?);
            let then = Box::new(self.statement()?);
            // `IF … ;` ends at the semicolon unless ELSE follows it
            if self.parser.peek_token_ref().token == Token::SemiColon && self.is_nth(1, "ELSE") {
                self.skip_semicolons();
            }
            let otherwise = if self.accept("ELSE") { Some(Box::new(self.statement()?)) } else { None };
            return Ok(Statement::If { condition, then, otherwise });
        }
        if self.accept("DECLARE") {
            return self.declare();
        }
        if self.is("SET") {
            return self.set();
        }
        if self.are(&["INSERT", "BULK"]) {
            return self.insert_bulk().map(|bulk| Statement::InsertBulk(Box::new(bulk)));
        }
        if self.accept("THROW") {
            if self.at_end() || self.parser.peek_token_ref().token == Token::SemiColon || self.is("END") {
                return Ok(Statement::Throw(None));
            }
            let number = self.expression()?;
            self.expect(&Token::Comma)?;
            let message = self.expression()?;
            self.expect(&Token::Comma)?;
            return Ok(Statement::Throw(Some(Box::new((number, message, self.expression()?)))));
        }
        if self.accept("PRINT") {
            return Ok(Statement::Print(Box::new(self.expression()?)));
        }
        if self.accept("WAITFOR") {
            return self.wait_for();
        }
        if self.accept("USE") {
            return Ok(Statement::Use(self.identifier()?));
        }
        if self.accept("RETURN") {
            return Ok(Statement::Return);
        }
        if let Some(security) = self.security()? {
            return Ok(Statement::Security(Box::new(security)));
        }
        if self.is("EXEC") || self.is("EXECUTE") {
            return self.execute();
        }
        if let Some(ddl) = self.ddl()? {
            return Ok(Statement::Ddl(Box::new(ddl)));
        }
        if ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].iter().any(|word| self.is(word))
            || self.parser.peek_token_ref().token == Token::LParen
        {
            return self.query_or_change().map(|statement| Statement::Sql(Box::new(statement)));
        }
        match &self.parser.peek_token_ref().token {
            Token::Word(word) if word.keyword != Keyword::NoKeyword => {
                let words: Vec<String> =
                    (0..2).map(|index| self.parser.peek_nth_token_ref(index).token.to_string()).collect();
                Err(SqlError::unsupported(&words.join(" ")))
            }
            Token::Word(word) => {
                Err(SqlError::new(2812, 16, 62, format!("Could not find stored procedure '{}'.", word.value)))
            }
            _ => Err(self.unexpected()),
        }
    }

    fn statements_until(&mut self, end: &[&str]) -> Result<Vec<Statement>, SqlError> {
        let mut statements = Vec::new();
        loop {
            self.skip_semicolons();
            if self.accept_all(end) {
                return Ok(statements);
            }
            if self.at_end() {
                return Err(self.unexpected());
            }
            statements.push(self.statement()?);
        }
    }

    fn declare(&mut self) -> Result<Statement, SqlError> {
        let mut declarations = Vec::new();
        loop {
            let name = self.variable()?;
            self.accept("AS");
            if self.is("TABLE") || self.is("CURSOR") {
                return Err(SqlError::unsupported("DECLARE of a table or a cursor"));
            }
            let sql_type = self.data_type()?;
            let value = if self.accept_token(&Token::Eq) { Some(self.expression()?) } else { None };
            declarations.push((name, sql_type, value));
            if !self.accept_token(&Token::Comma) {
                return Ok(Statement::Declare(declarations));
            }
        }
    }
}

/// The parts of a name, the brackets taken off.
pub(super) fn name_parts(name: &ObjectName) -> Result<Vec<String>, SqlError> {
    name.0
        .iter()
        .map(|part| match part {
            ObjectNamePart::Identifier(identifier) => Ok(identifier.value.clone()),
            ObjectNamePart::Function(function) => Err(SqlError::syntax(&function.to_string())),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::noise::Noise;
    use super::*;

    const BATCHES: &[&str] = &[
        "IF XACT_STATE() <> 1 THROW 50001, N'gone', 1; COMMIT TRANSACTION",
        "INSERT BULK [dbo].[t] ([a] nvarchar(20) COLLATE SQL_Latin1_General_CP1_CI_AS, [b] decimal(18,4)) WITH (KEEP_NULLS, ORDER([a] ASC), TABLOCK)",
        "CREATE TABLE dbo.t (a int IDENTITY(1,1) NOT NULL, b datetime2(7) DEFAULT SYSUTCDATETIME(), CONSTRAINT pk PRIMARY KEY NONCLUSTERED (a DESC), INDEX i CLUSTERED COLUMNSTORE)",
        "BEGIN TRY SELECT TOP (5) * FROM t AS x WITH (NOLOCK) WHERE a LIKE N'%x' ORDER BY 1 END TRY BEGIN CATCH THROW END CATCH",
        "SET XACT_ABORT ON; DECLARE @a int = 5, @b nvarchar(max); EXEC sp_executesql N'SELECT @x', N'@x int', @x = @a",
        "WITH c AS (SELECT a, ROW_NUMBER() OVER (PARTITION BY b ORDER BY c) AS r FROM t) SELECT * FROM c WHERE r = 1",
    ];

    #[test]
    fn batches_are_parsed() {
        for text in BATCHES {
            parse(text).unwrap();
        }
        assert_eq!(parse("SELECT 1; SELECT 2 SELECT 3").unwrap().len(), 3);
        assert_eq!(parse("").unwrap().len(), 0);
        assert_eq!(parse("SELECT 1 FROM").unwrap_err().number, 102);
        assert_eq!(parse(&"BEGIN ".repeat(1000)).unwrap_err().number, 191);
        assert_eq!(parse(&format!("SELECT {}1", "(".repeat(10_000))).unwrap_err().number, 191);
        assert_eq!(parse(&format!("SELECT 1{}", "+1".repeat(10_000))).unwrap_err().number, 191);
        assert_eq!(parse(&format!("SELECT a{}", " IS NULL".repeat(10_000))).unwrap_err().number, 191);
        assert_eq!(parse(&"SELECT 1 ".repeat(4000)).unwrap_err().number, 8623);
        assert!(parse(&format!("INSERT INTO t VALUES {} (-1)", "(-1, 1+1), ".repeat(1000))).is_ok());
        assert_eq!(parse("INSERT INTO t WITH (UPDLOCK) VALUES (1)").unwrap_err().number, 40517);
    }

    #[test]
    fn a_batch_of_any_text_is_parsed_or_refused() {
        let mut noise = Noise::new(6);
        for round in 0..5_000 {
            let bytes = noise.mutate(BATCHES[round % BATCHES.len()].as_bytes());
            let _ = parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
