//! Users, roles and permissions.

use sqlparser::tokenizer::Token;

use super::super::error::SqlError;
use super::Reader;

/// A statement about who may do what.
#[derive(Debug)]
pub(in super::super) enum Security {
    CreateUser { name: String, kind: UserKind },
    CreateRole { name: String, owner: Option<String> },
    ChangePassword(ChangePassword),
    Drop { kind: PrincipalKind, name: String, if_exists: bool },
    AlterRole { role: String, member: String, is_added: bool },
    Permission(Box<PermissionChange>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum PrincipalKind {
    User,
    Role,
}

/// ALTER USER … WITH PASSWORD.
pub(in super::super) struct ChangePassword {
    pub(in super::super) user: String,
    pub(in super::super) password: String,
}

impl std::fmt::Debug for ChangePassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChangePassword").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How somebody comes to be a user.
pub(in super::super) enum UserKind {
    Password(String),
    /// By a login of the server; without a name it is that of the user.
    Login(Option<String>),
    WithoutLogin,
    /// By a token. With the id of the external provider's object, where the name alone does not say whose.
    External(Option<String>),
}

impl std::fmt::Debug for UserKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password",
            Self::Login(_) => "Login",
            Self::WithoutLogin => "WithoutLogin",
            Self::External(_) => "External",
        })
    }
}

/// GRANT, REVOKE or DENY.
#[derive(Debug)]
pub(in super::super) struct PermissionChange {
    /// The statement's name.
    pub(in super::super) verb: &'static str,
    pub(in super::super) permissions: Vec<&'static str>,
    pub(in super::super) securable: Securable,
    pub(in super::super) principals: Vec<String>,
    /// WITH GRANT OPTION, or GRANT OPTION FOR.
    pub(in super::super) is_grantable: bool,
    pub(in super::super) cascades: bool,
}

#[derive(Debug)]
pub(in super::super) enum Securable {
    Database,
    Schema(String),
    Object(Vec<String>),
}

/// Permissions on tables, on schemas for all tables in them, and on the database for all in it.
const OF_TABLES: &[&str] = &[
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "REFERENCES",
    "ALTER",
    "CONTROL",
    "TAKE OWNERSHIP",
    "VIEW DEFINITION",
];
/// What ALL stands for.
const ALL_OF_TABLES: &[&str] = &["SELECT", "INSERT", "UPDATE", "DELETE", "REFERENCES"];
/// Permissions on the database alone.
const OF_DATABASE: &[&str] =
    &["CONNECT", "CREATE TABLE", "CREATE SCHEMA", "ALTER ANY USER", "ALTER ANY ROLE", "ALTER ANY SCHEMA"];

impl Reader<'_> {
    /// `None` where the next statement is not of this kind.
    pub(super) fn security(&mut self) -> Result<Option<Security>, SqlError> {
        if self.are(&["EXECUTE", "AS"]) || self.are(&["EXEC", "AS"]) || self.is("REVERT") {
            return Err(SqlError::unsupported("EXECUTE AS"));
        }
        if self.accept_all(&["CREATE", "USER"]) {
            return self.create_user().map(Some);
        }
        if self.accept_all(&["ALTER", "USER"]) {
            return self.change_password().map(Some);
        }
        if self.accept_all(&["CREATE", "ROLE"]) {
            let name = self.identifier()?;
            let owner = if self.accept("AUTHORIZATION") { Some(self.identifier()?) } else { None };
            return Ok(Some(Security::CreateRole { name, owner }));
        }
        for (word, kind) in [("USER", PrincipalKind::User), ("ROLE", PrincipalKind::Role)] {
            if self.accept_all(&["DROP", word]) {
                let if_exists = self.accept_all(&["IF", "EXISTS"]);
                return Ok(Some(Security::Drop { kind, name: self.identifier()?, if_exists }));
            }
        }
        if self.accept_all(&["ALTER", "ROLE"]) {
            let role = self.identifier()?;
            let is_added = self.accept_all(&["ADD", "MEMBER"]);
            if !is_added && !self.accept_all(&["DROP", "MEMBER"]) {
                return Err(SqlError::unsupported(&format!(
                    "ALTER ROLE {}",
                    self.parser.peek_token_ref().token
                )));
            }
            return Ok(Some(Security::AlterRole { role, member: self.identifier()?, is_added }));
        }
        for verb in ["GRANT", "REVOKE", "DENY"] {
            if self.accept(verb) {
                return self
                    .permission_change(verb)
                    .map(|change| Some(Security::Permission(Box::new(change))));
            }
        }
        Ok(None)
    }

    fn create_user(&mut self) -> Result<Security, SqlError> {
        let name = self.identifier()?;
        let mut kind = if self.accept_all(&["FOR", "LOGIN"]) || self.accept_all(&["FROM", "LOGIN"]) {
            UserKind::Login(Some(self.identifier()?))
        } else if self.accept_all(&["WITHOUT", "LOGIN"]) {
            UserKind::WithoutLogin
        } else if self.accept_all(&["FROM", "EXTERNAL", "PROVIDER"]) {
            UserKind::External(None)
        } else if self.is("FOR") || self.is("FROM") {
            let words: Vec<String> =
                (0..2).map(|index| self.parser.peek_nth_token_ref(index).token.to_string()).collect();
            return Err(SqlError::unsupported(&format!("CREATE USER {}", words.join(" "))));
        } else {
            UserKind::Login(None)
        };
        if self.accept("WITH") {
            loop {
                let option = self.identifier()?.to_ascii_uppercase();
                self.expect(&Token::Eq)?;
                match (option.as_str(), &mut kind) {
                    ("PASSWORD", kind @ UserKind::Login(None)) => {
                        *kind = UserKind::Password(self.constant_text()?);
                    }
                    ("OBJECT_ID", UserKind::External(id)) => *id = Some(self.constant_text()?),
                    // names without a schema are looked for in dbo
                    ("DEFAULT_SCHEMA", _) => {
                        let schema = self.identifier()?;
                        if !schema.eq_ignore_ascii_case("dbo") {
                            return Err(SqlError::unsupported("DEFAULT_SCHEMA other than dbo"));
                        }
                    }
                    _ => return Err(SqlError::unsupported(&format!("{option} of CREATE USER"))),
                }
                if !self.accept_token(&Token::Comma) {
                    break;
                }
            }
        }
        Ok(Security::CreateUser { name, kind })
    }

    fn change_password(&mut self) -> Result<Security, SqlError> {
        let user = self.identifier()?;
        if !self.accept_all(&["WITH", "PASSWORD"]) {
            return Err(SqlError::unsupported("ALTER USER with anything but PASSWORD"));
        }
        self.expect(&Token::Eq)?;
        let password = self.constant_text()?;
        if self.is("OLD_PASSWORD") {
            return Err(SqlError::unsupported("OLD_PASSWORD of ALTER USER"));
        }
        Ok(Security::ChangePassword(ChangePassword { user, password }))
    }

    fn constant_text(&mut self) -> Result<String, SqlError> {
        match self.parser.next_token().token {
            Token::SingleQuotedString(text) | Token::NationalStringLiteral(text) => Ok(text),
            // never what stands there: it may be a password
            _ => Err(SqlError::new(102, 15, 1, "Incorrect syntax: a string was expected.")),
        }
    }

    fn permission_change(&mut self, verb: &'static str) -> Result<PermissionChange, SqlError> {
        let mut is_grantable = verb == "REVOKE" && self.accept_all(&["GRANT", "OPTION", "FOR"]);
        let mut names = vec![self.permission_name()?];
        while self.accept_token(&Token::Comma) {
            names.push(self.permission_name()?);
        }
        let securable = if self.accept("ON") { Some(self.securable()?) } else { None };
        if securable.is_some() && self.parser.peek_token_ref().token == Token::LParen {
            return Err(SqlError::unsupported("permissions on columns"));
        }
        // SQL Server takes either word for REVOKE
        if !(self.accept("TO") || verb == "REVOKE" && self.accept("FROM")) {
            return Err(self.unexpected());
        }
        let mut principals = vec![self.identifier()?];
        while self.accept_token(&Token::Comma) {
            principals.push(self.identifier()?);
        }
        if verb == "GRANT" {
            is_grantable = self.accept_all(&["WITH", "GRANT", "OPTION"]);
        }
        let cascades = verb != "GRANT" && self.accept("CASCADE");
        if self.is("AS") {
            return Err(SqlError::unsupported(&format!("AS of {verb}")));
        }
        let mut permissions = Vec::new();
        for name in &names {
            permissions.extend(permissions_of(name, securable.as_ref())?);
        }
        let securable = securable.unwrap_or(Securable::Database);
        Ok(PermissionChange { verb, permissions, securable, principals, is_grantable, cascades })
    }

    /// The words of a permission, up to what ends them.
    fn permission_name(&mut self) -> Result<String, SqlError> {
        let mut words: Vec<String> = Vec::new();
        while !["ON", "TO", "FROM"].iter().any(|word| self.is(word)) {
            match &self.parser.peek_token_ref().token {
                Token::Word(word) if word.quote_style.is_none() => {
                    words.push(word.value.to_ascii_uppercase());
                }
                Token::LParen => return Err(SqlError::unsupported("permissions on columns")),
                _ => break,
            }
            self.parser.next_token();
        }
        if words.is_empty() {
            return Err(self.unexpected());
        }
        Ok(words.join(" "))
    }

    fn securable(&mut self) -> Result<Securable, SqlError> {
        if self.parser.peek_nth_token_ref(1).token != Token::DoubleColon {
            return self.object_name().map(Securable::Object);
        }
        let class = self.identifier()?;
        self.expect(&Token::DoubleColon)?;
        match class.to_ascii_uppercase().as_str() {
            "OBJECT" => self.object_name().map(Securable::Object),
            "SCHEMA" => self.identifier().map(Securable::Schema),
            "DATABASE" => self.identifier().map(|_| Securable::Database),
            _ => Err(SqlError::unsupported(&format!("permissions on {class}::"))),
        }
    }
}

fn permissions_of(name: &str, securable: Option<&Securable>) -> Result<Vec<&'static str>, SqlError> {
    let is_of_database = matches!(securable, None | Some(Securable::Database));
    if matches!(name, "ALL" | "ALL PRIVILEGES") {
        return match securable {
            Some(Securable::Object(_)) => Ok(ALL_OF_TABLES.to_vec()),
            _ => Err(SqlError::unsupported("ALL on a schema or the database")),
        };
    }
    if let Some(known) = OF_TABLES.iter().find(|known| **known == name) {
        return Ok(vec![known]);
    }
    match OF_DATABASE.iter().find(|known| **known == name) {
        Some(known) if is_of_database => Ok(vec![known]),
        Some(_) => Err(SqlError::syntax(name)),
        None => Err(SqlError::unsupported(&format!("permission {name}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Statement, parse};
    use super::*;

    fn security(text: &str) -> Security {
        match parse(text).unwrap().pop() {
            Some(Statement::Security(security)) => *security,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn permissions_are_read_with_what_they_are_on() {
        let Security::Permission(change) =
            security("GRANT SELECT, VIEW DEFINITION ON OBJECT::dbo.[a b] TO [x y], z WITH GRANT OPTION;")
        else {
            panic!()
        };
        assert_eq!(change.permissions, ["SELECT", "VIEW DEFINITION"]);
        assert_eq!(change.principals, ["x y", "z"]);
        assert!(change.is_grantable && !change.cascades);
        assert!(matches!(change.securable, Securable::Object(name) if name == ["dbo", "a b"]));
        let Security::Permission(change) = security("REVOKE ALTER ON SCHEMA::s FROM x CASCADE") else {
            panic!()
        };
        assert!(matches!(change.securable, Securable::Schema(name) if name == "s"));
        assert!(change.cascades);
        let Security::Permission(change) = security("DENY CREATE TABLE TO x") else { panic!() };
        assert!(matches!(change.securable, Securable::Database));
        for (text, number) in [
            ("GRANT CREATE TABLE ON dbo.t TO x", 102),
            ("GRANT SELECT (a) ON dbo.t TO x", 40517),
            ("GRANT SELECT ON dbo.t (a, b) TO x", 40517),
            ("GRANT EXECUTE ON dbo.p TO x", 40517),
            ("GRANT SELECT ON dbo.t FROM x", 102),
            ("CREATE USER x FROM CERTIFICATE c", 40517),
            ("CREATE USER x WITH DEFAULT_SCHEMA = other", 40517),
        ] {
            assert_eq!(parse(text).unwrap_err().number, number, "{text}");
        }
    }

    #[test]
    fn a_password_is_nowhere_to_be_seen() {
        let created = security("CREATE USER x WITH PASSWORD = N'secret', DEFAULT_SCHEMA = dbo");
        assert!(
            matches!(&created, Security::CreateUser { kind: UserKind::Password(text), .. } if text == "secret")
        );
        assert!(!format!("{created:?}").contains("secret"));
    }
}
