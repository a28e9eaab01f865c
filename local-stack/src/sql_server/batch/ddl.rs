//! CREATE, ALTER, DROP and TRUNCATE.

use sqlparser::ast::Expr;
use sqlparser::tokenizer::Token;

use super::super::error::SqlError;
use super::super::types::SqlType;
use super::Reader;

/// A statement that changes what there is.
#[derive(Debug)]
pub(in super::super) enum Ddl {
    CreateTable { name: Vec<String>, items: Vec<TableItem> },
    AlterTableAdd { name: Vec<String>, items: Vec<TableItem> },
    AlterColumn { name: Vec<String>, column: Box<ColumnDefinition> },
    DropColumns { name: Vec<String>, columns: Vec<String>, if_exists: bool },
    DropConstraints { name: Vec<String>, constraints: Vec<String>, if_exists: bool },
    CreateIndex { table: Vec<String>, index: IndexDefinition },
    DropTable { names: Vec<Vec<String>>, if_exists: bool },
    DropIndex { table: Vec<String>, name: String, if_exists: bool },
    Truncate(Vec<String>),
    CreateSchema { name: String, owner: Option<String> },
    DropSchema { name: String, if_exists: bool },
}

/// What stands between the parentheses of CREATE TABLE.
#[derive(Debug)]
pub(in super::super) enum TableItem {
    Column(Box<ColumnDefinition>),
    Computed(Box<ComputedColumn>),
    Constraint(Box<ConstraintDefinition>),
    Index(IndexDefinition),
}

#[derive(Debug)]
pub(in super::super) struct ColumnDefinition {
    pub(in super::super) name: String,
    pub(in super::super) sql_type: SqlType,
    pub(in super::super) nullable: Option<bool>,
    /// Seed and increment.
    pub(in super::super) identity: Option<(i64, i64)>,
    /// The constraint's name where it has one, and the value.
    pub(in super::super) default: Option<(Option<String>, Expr)>,
    /// Constraints that were written behind the column.
    pub(in super::super) constraints: Vec<ConstraintDefinition>,
}

/// `name AS (expression) [PERSISTED [NOT NULL]]`.
#[derive(Debug)]
pub(in super::super) struct ComputedColumn {
    pub(in super::super) name: String,
    pub(in super::super) value: Expr,
    pub(in super::super) not_null: bool,
    pub(in super::super) is_persisted: bool,
}

#[derive(Debug)]
pub(in super::super) struct ConstraintDefinition {
    pub(in super::super) name: Option<String>,
    pub(in super::super) kind: ConstraintKind,
}

#[derive(Debug)]
pub(in super::super) enum ConstraintKind {
    Key {
        primary: bool,
        clustered: Option<bool>,
        columns: Vec<(String, bool)>,
    },
    Check(Expr),
    /// DEFAULT … FOR, in ALTER TABLE.
    Default {
        value: Expr,
        column: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum IndexKind {
    Clustered,
    Nonclustered,
    ClusteredColumnstore,
    NonclusteredColumnstore,
}

#[derive(Debug)]
pub(in super::super) struct IndexDefinition {
    pub(in super::super) name: String,
    pub(in super::super) unique: bool,
    pub(in super::super) kind: IndexKind,
    /// Names, and whether they descend.
    pub(in super::super) columns: Vec<(String, bool)>,
    pub(in super::super) included: Vec<String>,
}

impl Reader<'_> {
    /// `None` where the next statement is not of this kind.
    pub(super) fn ddl(&mut self) -> Result<Option<Ddl>, SqlError> {
        if self.accept_all(&["CREATE", "TABLE"]) {
            let name = self.object_name()?;
            self.expect(&Token::LParen)?;
            let mut items = Vec::new();
            loop {
                items.push(self.table_item()?);
                let comma = self.accept_token(&Token::Comma);
                if self.accept_token(&Token::RParen) {
                    break;
                }
                if !comma {
                    return Err(self.unexpected());
                }
            }
            self.filegroup()?;
            if self.is("WITH") {
                return Err(SqlError::unsupported("WITH of CREATE TABLE"));
            }
            return Ok(Some(Ddl::CreateTable { name, items }));
        }
        if self.accept_all(&["ALTER", "TABLE"]) {
            return self.alter_table().map(Some);
        }
        if self.accept_all(&["DROP", "TABLE"]) {
            let if_exists = self.accept_all(&["IF", "EXISTS"]);
            let mut names = vec![self.object_name()?];
            while self.accept_token(&Token::Comma) {
                names.push(self.object_name()?);
            }
            return Ok(Some(Ddl::DropTable { names, if_exists }));
        }
        if self.accept_all(&["DROP", "INDEX"]) {
            let if_exists = self.accept_all(&["IF", "EXISTS"]);
            let name = self.identifier()?;
            self.expect_word("ON")?;
            return Ok(Some(Ddl::DropIndex { table: self.object_name()?, name, if_exists }));
        }
        if self.accept_all(&["TRUNCATE", "TABLE"]) {
            let name = self.object_name()?;
            if self.is("WITH") {
                return Err(SqlError::unsupported("TRUNCATE TABLE WITH (PARTITIONS)"));
            }
            return Ok(Some(Ddl::Truncate(name)));
        }
        if self.accept_all(&["CREATE", "SCHEMA"]) {
            let name = self.identifier()?;
            let owner = if self.accept("AUTHORIZATION") { Some(self.identifier()?) } else { None };
            return Ok(Some(Ddl::CreateSchema { name, owner }));
        }
        if self.accept_all(&["DROP", "SCHEMA"]) {
            let if_exists = self.accept_all(&["IF", "EXISTS"]);
            return Ok(Some(Ddl::DropSchema { name: self.identifier()?, if_exists }));
        }
        if self.is("CREATE")
            && ["INDEX", "UNIQUE", "CLUSTERED", "NONCLUSTERED", "COLUMNSTORE"]
                .iter()
                .any(|word| self.is_nth(1, word))
        {
            self.parser.next_token();
            let unique = self.accept("UNIQUE");
            let kind = self.index_kind()?;
            self.expect_word("INDEX")?;
            let name = self.identifier()?;
            self.expect_word("ON")?;
            let table = self.object_name()?;
            let index = self.index_rest(name, unique, kind)?;
            return Ok(Some(Ddl::CreateIndex { table, index }));
        }
        Ok(None)
    }

    fn alter_table(&mut self) -> Result<Ddl, SqlError> {
        let name = self.object_name()?;
        if self.accept_all(&["ALTER", "COLUMN"]) {
            return match self.column()? {
                TableItem::Column(column)
                    if column.identity.is_none()
                        && column.default.is_none()
                        && column.constraints.is_empty() =>
                {
                    Ok(Ddl::AlterColumn { name, column })
                }
                _ => Err(SqlError::syntax("ALTER COLUMN")),
            };
        }
        if self.accept("DROP") {
            let of_columns = self.accept("COLUMN");
            if !of_columns {
                self.accept("CONSTRAINT");
            }
            let if_exists = self.accept_all(&["IF", "EXISTS"]);
            let mut names = vec![self.identifier()?];
            while self.accept_token(&Token::Comma) {
                if self.is("COLUMN") || self.is("CONSTRAINT") {
                    return Err(SqlError::unsupported("ALTER TABLE DROP of several kinds"));
                }
                names.push(self.identifier()?);
            }
            return Ok(if of_columns {
                Ddl::DropColumns { name, columns: names, if_exists }
            } else {
                Ddl::DropConstraints { name, constraints: names, if_exists }
            });
        }
        if !self.accept("ADD") {
            let token = &self.parser.peek_token_ref().token;
            return Err(SqlError::unsupported(&format!("ALTER TABLE {token}")));
        }
        let mut items = vec![self.table_item()?];
        while self.accept_token(&Token::Comma) {
            items.push(self.table_item()?);
        }
        Ok(Ddl::AlterTableAdd { name, items })
    }

    fn index_kind(&mut self) -> Result<IndexKind, SqlError> {
        let clustered = self.accept("CLUSTERED");
        if !clustered {
            self.accept("NONCLUSTERED");
        }
        if self.is("HASH") {
            return Err(SqlError::unsupported("hash index"));
        }
        Ok(match (clustered, self.accept("COLUMNSTORE")) {
            (true, true) => IndexKind::ClusteredColumnstore,
            (true, false) => IndexKind::Clustered,
            (false, true) => IndexKind::NonclusteredColumnstore,
            (false, false) => IndexKind::Nonclustered,
        })
    }

    fn index_rest(
        &mut self,
        name: String,
        unique: bool,
        kind: IndexKind,
    ) -> Result<IndexDefinition, SqlError> {
        let columns = if self.parser.peek_token_ref().token == Token::LParen {
            self.key_columns()?
        } else {
            Vec::new()
        };
        if columns.is_empty() && kind != IndexKind::ClusteredColumnstore {
            return Err(self.unexpected());
        }
        let included = if self.accept("INCLUDE") { self.identifiers()? } else { Vec::new() };
        if self.is("WHERE") {
            return Err(SqlError::unsupported("filtered index"));
        }
        self.index_options()?;
        self.filegroup()?;
        Ok(IndexDefinition { name, unique, kind, columns, included })
    }

    /// Options that change how an index is stored, and one that changes what it does.
    fn index_options(&mut self) -> Result<(), SqlError> {
        if !self.accept("WITH") {
            return Ok(());
        }
        self.expect(&Token::LParen)?;
        loop {
            let option = self.identifier()?.to_ascii_uppercase();
            self.expect(&Token::Eq)?;
            let value = self.parser.next_token().token.to_string();
            if option == "IGNORE_DUP_KEY" && !value.eq_ignore_ascii_case("OFF") {
                return Err(SqlError::unsupported("IGNORE_DUP_KEY"));
            }
            if !self.accept_token(&Token::Comma) {
                break;
            }
        }
        self.expect(&Token::RParen)
    }

    /// `ON [PRIMARY]`, the only one there is.
    fn filegroup(&mut self) -> Result<(), SqlError> {
        if !self.accept("ON") {
            return Ok(());
        }
        let name = self.identifier()?;
        if name.eq_ignore_ascii_case("PRIMARY") {
            Ok(())
        } else {
            Err(SqlError::unsupported(&format!("filegroup {name}")))
        }
    }

    fn key_columns(&mut self) -> Result<Vec<(String, bool)>, SqlError> {
        self.expect(&Token::LParen)?;
        let mut columns = Vec::new();
        loop {
            let name = self.identifier()?;
            let descending = self.accept("DESC");
            if !descending {
                self.accept("ASC");
            }
            columns.push((name, descending));
            if !self.accept_token(&Token::Comma) {
                break;
            }
        }
        self.expect(&Token::RParen)?;
        Ok(columns)
    }

    fn table_item(&mut self) -> Result<TableItem, SqlError> {
        if self.is("INDEX") {
            self.parser.next_token();
            let name = self.identifier()?;
            let unique = self.accept("UNIQUE");
            let kind = self.index_kind()?;
            return Ok(TableItem::Index(self.index_rest(name, unique, kind)?));
        }
        let named = self.is("CONSTRAINT");
        let name = if self.accept("CONSTRAINT") { Some(self.identifier()?) } else { None };
        if named || ["PRIMARY", "UNIQUE", "CHECK", "FOREIGN", "DEFAULT"].iter().any(|word| self.is(word)) {
            if self.accept("DEFAULT") {
                let value = self.parser.parse_prefix().map_err(super::syntax)?;
                self.expect_word("FOR")?;
                let column = self.identifier()?;
                return Ok(TableItem::Constraint(Box::new(ConstraintDefinition {
                    name,
                    kind: ConstraintKind::Default { value, column },
                })));
            }
            return Ok(TableItem::Constraint(Box::new(self.constraint(name, None)?)));
        }
        if self.is("PERIOD") || self.is("LIKE") {
            return Err(SqlError::unsupported(&format!(
                "{} in CREATE TABLE",
                self.parser.peek_token_ref().token
            )));
        }
        self.column()
    }

    /// A constraint behind its name; `column` where it stands behind one.
    fn constraint(
        &mut self,
        name: Option<String>,
        column: Option<&str>,
    ) -> Result<ConstraintDefinition, SqlError> {
        let primary = self.accept_all(&["PRIMARY", "KEY"]);
        if primary || self.accept("UNIQUE") {
            let clustered = if self.accept("CLUSTERED") {
                Some(true)
            } else if self.accept("NONCLUSTERED") {
                Some(false)
            } else {
                None
            };
            let columns = match column {
                Some(column) if self.parser.peek_token_ref().token != Token::LParen => {
                    vec![(column.to_owned(), false)]
                }
                _ => self.key_columns()?,
            };
            self.index_options()?;
            self.filegroup()?;
            return Ok(ConstraintDefinition {
                name,
                kind: ConstraintKind::Key { primary, clustered, columns },
            });
        }
        if self.accept("CHECK") {
            self.expect(&Token::LParen)?;
            let condition = self.expression()?;
            self.expect(&Token::RParen)?;
            return Ok(ConstraintDefinition { name, kind: ConstraintKind::Check(condition) });
        }
        if self.is("FOREIGN") || self.is("REFERENCES") {
            return Err(SqlError::unsupported("FOREIGN KEY"));
        }
        Err(self.unexpected())
    }

    fn column(&mut self) -> Result<TableItem, SqlError> {
        let name = self.identifier()?;
        if self.accept("AS") {
            let value = self.expression()?;
            let is_persisted = self.accept("PERSISTED");
            let not_null = is_persisted && self.accept_all(&["NOT", "NULL"]);
            if ["CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK"].iter().any(|word| self.is(word)) {
                return Err(SqlError::unsupported("constraint of a computed column"));
            }
            let column = ComputedColumn { name, value, not_null, is_persisted };
            return Ok(TableItem::Computed(Box::new(column)));
        }
        let sql_type = self.data_type()?;
        let mut column = ColumnDefinition {
            name,
            sql_type,
            nullable: None,
            identity: None,
            default: None,
            constraints: Vec::new(),
        };
        loop {
            if self.accept_all(&["NOT", "NULL"]) {
                column.nullable = Some(false);
            } else if self.accept("NULL") {
                column.nullable = Some(true);
            } else if self.accept("IDENTITY") {
                column.identity = Some(self.identity()?);
            } else if self.accept("COLLATE") {
                let collation = super::super::types::Collation::of_clause(&self.identifier()?)?;
                column.sql_type = column.sql_type.with_collation(collation);
            } else if self.is("CONSTRAINT")
                || ["PRIMARY", "UNIQUE", "CHECK", "DEFAULT", "REFERENCES", "FOREIGN"]
                    .iter()
                    .any(|word| self.is(word))
            {
                let name = if self.accept("CONSTRAINT") { Some(self.identifier()?) } else { None };
                if self.accept("DEFAULT") {
                    let value = self.parser.parse_prefix().map_err(super::syntax)?;
                    column.default = Some((name, value));
                } else {
                    let constraint = self.constraint(name, Some(&column.name))?;
                    column.constraints.push(constraint);
                }
            } else if self.accept_all(&["WITH", "VALUES"]) || self.accept("ROWGUIDCOL") {
            } else if ["SPARSE", "FILESTREAM", "GENERATED", "MASKED", "ENCRYPTED", "INDEX", "HIDDEN"]
                .iter()
                .any(|word| self.is(word))
            {
                return Err(SqlError::unsupported(&format!(
                    "{} of a column",
                    self.parser.peek_token_ref().token
                )));
            } else {
                return Ok(TableItem::Column(Box::new(column)));
            }
        }
    }

    fn identity(&mut self) -> Result<(i64, i64), SqlError> {
        if !self.accept_token(&Token::LParen) {
            return Ok((1, 1));
        }
        let seed = self.set_value()?.parse().map_err(|_| self.unexpected())?;
        self.expect(&Token::Comma)?;
        let increment = self.set_value()?.parse().map_err(|_| self.unexpected())?;
        self.expect(&Token::RParen)?;
        Ok((seed, increment))
    }
}
