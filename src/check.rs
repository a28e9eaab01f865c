//! `check`: everything that `run` would need, looked at and left as it is. One line a finding.

mod audit;
mod findings;
mod nats;
mod table;

use std::time::Duration;

use self::findings::Findings;
use crate::budget::Budget;
use crate::config::Config;
use crate::error::{Error, Phase};
use crate::mssql::connect::Connector;
use crate::nats::{connect_as, denied::Denials};
use crate::output;
use crate::rights::{self, nats::USER_INFO};
use crate::run::{self, Planned};

/// How long NATS may take to answer to a ping.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// What has to be right is looked at; `true` where it is.
///
/// Nothing is created or changed, but for a consumer of a few milliseconds that counts the events of the partitions of a
/// pipeline in `exactly_once`.
pub(crate) async fn check(config: &Config, planned: &[Planned], is_strict: bool) -> bool {
    let mut findings = Findings::new(is_strict);
    let denials = Denials::of(Vec::new(), rights::nats::loader(config));
    let pipelines = planned.len();
    let tables =
        planned.iter().map(|(pipeline, _)| pipeline.table.to_string()).collect::<Vec<_>>().join(", ");
    Findings::good("configuration", &format!("can be run, into {tables}"));
    let connecting = connect_as(&config.nats, PING_INTERVAL, &denials);
    let client = findings.of("nats", connecting.await);
    if let Some(client) = &client {
        let info = client.server_info();
        let text = format!("connected to {}:{}, nats-server {}", info.host, info.port, info.version);
        Findings::good("nats", &text);
    }
    let connector = Connector::new(config.sql.clone());
    let mut session = findings.of("sql", Box::pin(connector.open()).await);
    if session.is_some() {
        let text = format!("logged in to {}, database {:?}", config.sql.server, config.sql.database);
        Findings::good("sql", &text);
    }
    if let Some(client) = &client {
        audit::nats(&mut findings, client, &rights::nats::loader(config)).await;
    }
    // one that has not answered in time is in the middle of an answer, and not asked again
    if let Some(mut open) = session.take() {
        let auditing = audit::sql(&mut findings, &mut open, planned);
        let late = |_elapsed| Error::sql_timeout(Phase::Target, "asking what the user may do");
        let done = tokio::time::timeout(config.sql.command_timeout, auditing).await.map_err(late);
        session = findings.of("sql rights", done).map(|()| open);
    }
    let budgets = Budget::divide(run::event_bytes(config, planned), pipelines);
    for ((pipeline, schema), budget) in planned.iter().zip(budgets) {
        if let Some(client) = &client {
            tokio::select! {
                () = nats::check(&mut findings, client, pipeline, session.as_mut(), config) => {}
                // what was asked is not answered, and why is said below
                () = denials.another() => {}
            }
        }
        if let Some(mut open) = session.take() {
            let checking =
                table::check(&mut findings, &mut open, config, (pipeline, schema), budget.capacity());
            let late = |_elapsed| Error::sql_timeout(Phase::Target, "reading the table's shape");
            let done = tokio::time::timeout(config.sql.command_timeout, checking).await.map_err(late);
            session = findings.of(&pipeline.name, done).map(|()| open);
        }
    }
    for denied in denials.texts() {
        // a worker never asks, and what cannot be looked at may be too much
        match denied.contains(USER_INFO) {
            true => findings.too_much("nats rights", &denied),
            false => findings.failed("nats rights", &denied),
        }
    }
    match findings.failed {
        0 => output::line("everything that `run` needs is there"),
        failed => output::line(&format!("{failed} of these keep `run` from working")),
    }
    findings.failed == 0
}
