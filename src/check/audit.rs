//! The rights of the live identities: what is missing, and what is too much.

use std::collections::BTreeMap;

use async_nats::Client;

use super::findings::Findings;
use crate::config::{PipelineConfig, covers, subjects_overlap};
use crate::error::Result;
use crate::mssql::connect::Session;
use crate::mssql::rights::{self as held_rights, Held};
use crate::mssql::{progress, target};
use crate::nats::user_info::{self, Subjects};
use crate::rights::nats::{NatsRights, SubjectRight, Verb};
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
        // what is missing is found by what fails; what is too much is not
        Err(error) => return findings.too_much(NATS, &format!("cannot be looked at: {error}")),
    };
    let mut is_good = true;
    if user.account == "$SYS" {
        is_good = false;
        findings.too_much(NATS, "the user is one of the system account, which rules the server");
    }
    for verb in [Verb::Publish, Verb::Subscribe] {
        for found in compare(needed.of(verb), verb, &user.subjects(verb)) {
            is_good = false;
            match found {
                Found::Missing(text) => findings.failed(NATS, &text),
                Found::Narrowed(text) => Findings::warning(NATS, &text),
                Found::TooMuch(text) => findings.too_much(NATS, &text),
            }
        }
    }
    if is_good {
        Findings::good(NATS, &format!("{:?} has what is needed, and no more", user.user));
    }
}

/// What is found of the subjects that a user may publish on, or subscribe to.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Missing(String),
    /// A part of what is needed is denied.
    Narrowed(String),
    TooMuch(String),
}

/// Holds what is allowed and denied against what is needed.
fn compare(needed: &[SubjectRight], verb: Verb, lists: &Subjects) -> Vec<Found> {
    let (word, mut found) = (verb.as_str(), Vec::new());
    for SubjectRight { subject, purpose } in needed {
        let denied = lists.deny.iter().find(|denied| subjects_overlap(denied, subject));
        if !covers(&lists.allow, subject) || covers(&lists.deny, subject) {
            found.push(Found::Missing(format!("{word} on {subject:?} is missing, for {purpose}")));
        } else if let Some(denied) = denied {
            let text = format!("{word} on {subject:?} is denied in part, by {denied:?}: it is for {purpose}");
            found.push(Found::Narrowed(text));
        }
    }
    let subjects: Vec<&str> = needed.iter().map(|right| right.subject.as_str()).collect();
    for allowed in lists.allow.iter().filter(|allowed| !covers(&lists.deny, allowed)) {
        if !covers(&subjects, allowed) && !is_longer_ack(allowed, &subjects) {
            let what = if allowed == ">" { " (everything)" } else { "" };
            found.push(Found::TooMuch(format!("{word} on {allowed:?}{what} is more than is needed")));
        }
    }
    found
}

/// Whether this is what a server with `js_ack_fc_v2` lets a consumer be acknowledged on, with domain and account in front, and what
/// it is without them is needed.
fn is_longer_ack(allowed: &str, needed: &[&str]) -> bool {
    let Some(rest) = allowed.strip_prefix("$JS.ACK.") else { return false };
    let of_consumer = rest.splitn(3, '.').nth(2);
    of_consumer.is_some_and(|consumer| covers(needed, &format!("$JS.ACK.{consumer}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(needed: &[&str], allow: &[&str], deny: &[&str]) -> Vec<Found> {
        let right = |subject: &&str| SubjectRight { subject: (*subject).to_owned(), purpose: "a test" };
        let needed: Vec<SubjectRight> = needed.iter().map(right).collect();
        let owned = |subjects: &[&str]| subjects.iter().map(|subject| (*subject).to_owned()).collect();
        compare(&needed, Verb::Publish, &Subjects { allow: owned(allow), deny: owned(deny) })
    }

    fn missing(subject: &str) -> Found {
        Found::Missing(format!("publish on {subject:?} is missing, for a test"))
    }

    fn too_much(subject: &str) -> Found {
        Found::TooMuch(format!("publish on {subject:?} is more than is needed"))
    }

    #[test]
    fn what_is_needed_has_to_be_allowed_and_nothing_else() {
        assert_eq!(found(&["a", "b.>"], &["a", "b.>"], &[]), []);
        assert_eq!(found(&["a", "b.>"], &["a", "b.c"], &[]), [missing("b.>")]);
        assert_eq!(found(&["a"], &["a", "b"], &[]), [too_much("b")]);
        assert_eq!(found(&["a"], &["a", "b"], &["b"]), []);
        let everything = Found::TooMuch("publish on \">\" (everything) is more than is needed".to_owned());
        assert_eq!(found(&["a"], &[">"], &[]), [everything]);
    }

    #[test]
    fn it_is_missing_where_all_of_it_is_denied() {
        const DELETE: &str = "$JS.API.CONSUMER.DELETE.EVENTS.*";
        assert_eq!(found(&[DELETE], &[DELETE], &["$JS.API.CONSUMER.DELETE.>"]), [missing(DELETE)]);
        assert_eq!(found(&["a.>"], &["a.>"], &["a.*", "a.*.>"]), [missing("a.>")]);
        let other = "$JS.API.CONSUMER.DELETE.EVENTS.other";
        let text = format!("publish on {DELETE:?} is denied in part, by {other:?}: it is for a test");
        assert_eq!(found(&[DELETE], &[DELETE], &["b", other]), [Found::Narrowed(text)]);
        assert_eq!(found(&[DELETE], &[DELETE], &["$JS.API.CONSUMER.DELETE.OTHER.*"]), []);
    }

    #[test]
    fn acknowledgements_of_both_kinds_are_needed() {
        const ACK: &str = "$JS.ACK.S.d.>";
        for longer in ["$JS.ACK.hub.ACCOUNT.S.d.>", "$JS.ACK._.*.S.d.>", "$JS.ACK._.ACCOUNT.S.d.1.>"] {
            assert_eq!(found(&[ACK], &[ACK, longer], &[]), [], "{longer}");
        }
        for more in ["$JS.ACK.>", "$JS.ACK.*.*.>", "$JS.ACK._.ACCOUNT.S.>", "$JS.ACK._.ACCOUNT.S.e.>"] {
            assert_eq!(found(&[ACK], &[ACK, more], &[]), [too_much(more)], "{more}");
        }
        // the one does not make up for the other
        assert_eq!(found(&[ACK], &["$JS.ACK._.ACCOUNT.S.d.>"], &[]), [missing(ACK)]);
        assert_eq!(
            found(&["a"], &["a", "$JS.ACK._.ACCOUNT.S.d.>"], &[]),
            [too_much("$JS.ACK._.ACCOUNT.S.d.>")]
        );
    }
}
