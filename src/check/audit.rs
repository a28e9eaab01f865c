//! The rights of the live identities: what is missing, and what is too much.

use std::collections::BTreeMap;

use async_nats::Client;

use super::findings::Findings;
use crate::config::{PipelineConfig, covers};
use crate::error::Result;
use crate::mssql::connect::Session;
use crate::mssql::rights::{self as held_rights, Held};
use crate::mssql::{progress, target};
use crate::nats::user_info;
use crate::rights::nats::{NatsRights, Verb};
use crate::rights::sql::{self, Securable, SqlRight};
use crate::run::Planned;

const NATS: &str = "nats rights";
const SQL: &str = "sql rights";
/// Names of tables that are told; of more there is only the number.
const MOST_NAMES: usize = 5;

/// The rights of the connection to NATS.
pub(super) async fn nats(findings: &mut Findings, client: &Client, needed: &NatsRights) {
    let user = match user_info::ask(client).await {
        Ok(user) => user,
        // what is missing is found by what fails
        Err(error) => return Findings::warning(NATS, &format!("cannot be looked at: {error}")),
    };
    let failed_before = findings.failed;
    let mut is_too_much = false;
    if user.account == "$SYS" {
        is_too_much = true;
        findings.too_much(NATS, "the user is one of the system account, which rules the server");
    }
    for verb in [Verb::Publish, Verb::Subscribe] {
        let (word, lists) = (verb.as_str(), user.subjects(verb));
        for right in needed.of(verb) {
            let (subject, purpose) = (&right.subject, right.purpose);
            let is_allowed = covers(&lists.allow, subject);
            let is_denied = lists.deny.iter().any(|denied| crate::config::subjects_overlap(denied, subject));
            if !is_allowed || is_denied {
                findings.failed(NATS, &format!("{word} on {subject:?} is missing, for {purpose}"));
            }
        }
        let subjects: Vec<&String> = needed.of(verb).iter().map(|right| &right.subject).collect();
        for allowed in lists.allow.iter().filter(|allowed| !covers(&lists.deny, allowed)) {
            if !covers(&subjects, allowed) {
                is_too_much = true;
                let what = if allowed == ">" { " (everything)" } else { "" };
                findings.too_much(NATS, &format!("{word} on {allowed:?}{what} is more than is needed"));
            }
        }
    }
    if findings.failed == failed_before && !is_too_much {
        Findings::good(NATS, &format!("{:?} has what is needed, and no more", user.user));
    }
}

/// The rights of the session's user.
pub(super) async fn sql(findings: &mut Findings, session: &mut Session, planned: &[Planned]) {
    let looked = look(session, planned).await;
    let Some(Looked { missing, roles, user, excess }) = findings.of(SQL, looked) else { return };
    for right in &missing {
        findings.failed(SQL, &format!("{right} is missing, for {}", right.purpose));
    }
    for role in &roles {
        findings
            .too_much(SQL, &format!("the user {user:?} is a member of {role}, which is more than is needed"));
    }
    let mut by_permission: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for Held { permission, securable } in &excess {
        by_permission.entry(permission).or_default().push(securable.to_string());
    }
    for (permission, mut on) in by_permission {
        let more = on.len().saturating_sub(MOST_NAMES);
        on.truncate(MOST_NAMES);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        let text = format!("{permission} on {}{more} is more than is needed", on.join(", "));
        findings.too_much(SQL, &text);
    }
    if missing.is_empty() && roles.is_empty() && excess.is_empty() {
        Findings::good(SQL, &format!("{user:?} has what is needed, and no more"));
    }
}

struct Looked {
    missing: Vec<SqlRight>,
    roles: Vec<&'static str>,
    user: String,
    /// Nothing, where a role explains it all.
    excess: Vec<Held>,
}

async fn look(session: &mut Session, planned: &[Planned]) -> Result<Looked> {
    let pipelines = || planned.iter().map(|(pipeline, schema)| (pipeline, schema));
    let granted = sql::loader(pipelines(), true);
    let mut needed: Vec<SqlRight> = Vec::new();
    for (pipeline, schema) in pipelines() {
        for right in of_pipeline(session, pipeline, sql::loader([(pipeline, schema)], false)).await? {
            if !needed.contains(&right) {
                needed.push(right);
            }
        }
    }
    let missing = held_rights::missing(session, &needed).await?;
    let membership = held_rights::membership(session).await?;
    let excess = match membership.roles.iter().any(|role| matches!(*role, "db_owner" | "sysadmin")) {
        true => Vec::new(),
        false => held_rights::held(session).await?,
    };
    let is_needed = |held: &Held| {
        let says = |right: &SqlRight| {
            right.permission == held.permission
                && (right.securable.has(&held.securable) && held.securable.has(&right.securable)
                    || matches!(right.securable, Securable::Schema(_))
                        && right.securable.has(&held.securable))
        };
        granted.iter().chain(&needed).any(says)
    };
    Ok(Looked {
        missing,
        roles: membership.roles,
        user: membership.user,
        excess: excess.into_iter().filter(|held| !is_needed(held)).collect(),
    })
}

/// What a pipeline needs now: what is there has not to be created.
async fn of_pipeline(
    session: &mut Session,
    pipeline: &PipelineConfig,
    rights: Vec<SqlRight>,
) -> Result<Vec<SqlRight>> {
    let used = sql::own_tables(pipeline);
    let mut needed = rights;
    if pipeline.create_table && !used.is_empty() && !progress::are_there(session, &used).await? {
        // who makes them all needs more than is worth to list: what `grants` prints makes them
        needed.retain(|right| !matches!(right.securable, Securable::Own(_)));
        needed.push(SqlRight {
            permission: "CREATE SCHEMA",
            securable: Securable::Database,
            purpose: "making the sink's own tables (or run what `grants` prints, which makes them)",
        });
    }
    if pipeline.create_table && target::exists(session, &pipeline.table).await? {
        let own = |right: &SqlRight| right.permission == "CREATE SCHEMA";
        needed = needed
            .into_iter()
            .filter_map(|right| match own(&right) {
                true => Some(right),
                false => sql::for_existing(&right, &pipeline.table),
            })
            .collect();
    }
    Ok(needed)
}
