//! As T-SQL. To be run again without harm: it makes what is missing.

use super::{Granted, SqlUser};
use crate::mssql::statements::{literal, state};
use crate::rights::Role;
use crate::rights::sql::{Securable, SqlRight, own_tables};
use crate::run::Planned;
use crate::sql_name::quote;

/// The statements of all roles, with comments.
pub(super) fn script(granted: &[Granted], planned: &[Planned]) -> String {
    let mut lines = Vec::new();
    let has_loader = granted.iter().any(|granted| granted.role == Role::Loader);
    if has_loader && planned.iter().any(|(pipeline, _)| !own_tables(pipeline).is_empty()) {
        lines.push("-- the sink's own tables, so that no worker has to make them".to_owned());
        lines.extend(state::create_state().into_iter().map(|statement| format!("{statement};")));
        lines.push(String::new());
    }
    for granted in granted {
        lines.push(format!("-- {}: {}", granted.role, granted.role.purpose()));
        if granted.sql.is_empty() {
            lines.push("-- needs nothing in the database: give it no user there\n".to_owned());
            continue;
        }
        let is_to_create = |right: &SqlRight| right.permission == "CREATE TABLE";
        if granted.sql.iter().any(is_to_create) {
            lines.push(
                "-- create_table = true: the worker makes its table, and may do so in the whole schema. With \
                 create_table = false,\n-- and the table made by an owner (`nats-sql-sink ddl`), its rights are on the \
                 table alone"
                    .to_owned(),
            );
        }
        if granted.role == Role::Analyst {
            lines.push("-- after the tables have been made".to_owned());
        }
        let purposes =
            [None, None, None].into_iter().chain(granted.sql.iter().map(|right| Some(right.purpose)));
        for (index, (statement, purpose)) in statements(granted).into_iter().zip(purposes).enumerate() {
            if index == CREATE_USER {
                lines.extend(granted.sql_user.as_ref().map(|user| before_create_user(user, granted.role)));
            }
            let comment = purpose.map(|purpose| format!(" -- {purpose}")).unwrap_or_default();
            lines.push(format!("{statement};{comment}"));
        }
        lines.push(String::new());
    }
    lines.join("\n")
}

/// Which of a role's statements makes its user.
const CREATE_USER: usize = 1;

/// The statements of a role: three that make it, and one for each right.
pub(super) fn statements(granted: &Granted) -> Vec<String> {
    let Some(user) = &granted.sql_user else { return Vec::new() };
    let role = quote(&granted.sql_role);
    let make = |name: &str, statement: String| {
        format!("IF DATABASE_PRINCIPAL_ID({}) IS NULL {statement}", literal(name))
    };
    let mut statements = vec![
        make(&granted.sql_role, format!("CREATE ROLE {role}")),
        make(&user.name, create_user(user)),
        format!("ALTER ROLE {role} ADD MEMBER {}", quote(&user.name)),
    ];
    statements.extend(granted.sql.iter().map(|right| grant(right, &role)));
    statements
}

fn create_user(user: &SqlUser) -> String {
    let name = quote(&user.name);
    match user.is_external {
        true => format!("CREATE USER {name} FROM EXTERNAL PROVIDER"),
        false => format!("CREATE USER {name} FOR LOGIN {name}"),
    }
}

/// What has to be so before a user can be made.
fn before_create_user(user: &SqlUser, role: Role) -> String {
    let name = quote(&user.name);
    match user.is_external {
        true => format!(
            "-- as an Entra admin of the server; the name has to be the display name of the identity or application: \
             --user {role}=…"
        ),
        false => format!(
            "-- the login has to be there: CREATE LOGIN {name} WITH PASSWORD = '…', in master; or a contained user instead: \
             CREATE USER {name} WITH PASSWORD = '…'"
        ),
    }
}

fn grant(right: &SqlRight, role: &str) -> String {
    match &right.securable {
        Securable::Database => format!("GRANT {} TO {role}", right.permission),
        securable => format!("GRANT {} ON {securable} TO {role}", right.permission),
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::rights::nats::NatsRights;
    use crate::sql_name::TableName;

    #[test]
    fn names_cannot_be_left() {
        let table: TableName = "[a]]b'c].[t;--]".parse().expect("a name");
        let right = |permission, securable| SqlRight { permission, securable, purpose: "" };
        let granted = |is_external| Granted {
            role: Role::Loader,
            name: String::new(),
            nats_user: String::new(),
            nats: NatsRights::default(),
            sql_user: Some(SqlUser { name: "x'];--".to_owned(), is_external }),
            sql_role: "r".to_owned(),
            sql: vec![
                right("CREATE TABLE", Securable::Database),
                right("SELECT", Securable::Table(table.clone())),
                right("UPDATE", Securable::Own("progress")),
            ],
        };
        assert_snapshot!(statements(&granted(false)).join("\n"), @r"
        IF DATABASE_PRINCIPAL_ID(N'r') IS NULL CREATE ROLE [r]
        IF DATABASE_PRINCIPAL_ID(N'x''];--') IS NULL CREATE USER [x']];--] FOR LOGIN [x']];--]
        ALTER ROLE [r] ADD MEMBER [x']];--]
        GRANT CREATE TABLE TO [r]
        GRANT SELECT ON OBJECT::[a]]b'c].[t;--] TO [r]
        GRANT UPDATE ON OBJECT::[nats_sql_sink].[progress] TO [r]
        ");
        let external = statements(&granted(true));
        assert_eq!(
            external[CREATE_USER],
            "IF DATABASE_PRINCIPAL_ID(N'x''];--') IS NULL CREATE USER [x']];--] FROM EXTERNAL PROVIDER"
        );
        // what has to be done before stands above
        let above = |is_external| {
            let text = script(&[granted(is_external)], &[]);
            let lines: Vec<&str> = text.lines().collect();
            let user = lines.iter().position(|line| line.contains("IS NULL CREATE USER ")).expect("a user");
            lines[user - 1].to_owned()
        };
        assert_snapshot!(above(true), @"-- as an Entra admin of the server; the name has to be the display name of the identity or application: --user loader=…");
        assert_snapshot!(above(false), @"-- the login has to be there: CREATE LOGIN [x']];--] WITH PASSWORD = '…', in master; or a contained user instead: CREATE USER [x']];--] WITH PASSWORD = '…'");
    }
}
