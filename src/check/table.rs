//! The table of a pipeline, and the sink's own tables.

use super::findings::Findings;
use crate::config::{Config, PipelineConfig};
use crate::error::Result;
use crate::mssql::connect::Session;
use crate::mssql::progress;
use crate::mssql::target::{self, Way};
use crate::rights::sql::own_tables;
use crate::schema::Schema;
use crate::sizing;

/// Looks at what a pipeline has to do with the database.
pub(super) async fn check(
    findings: &mut Findings,
    session: &mut Session,
    config: &Config,
    (pipeline, schema): (&PipelineConfig, &Schema),
    budget: usize,
) {
    let about = |what: &str| format!("{}: {what}", pipeline.name);
    let used = own_tables(pipeline);
    let state = async {
        progress::refuse_delayed_durability(session).await?;
        Ok(match used.as_slice() {
            [] => None,
            used => Some(progress::are_there(session, used).await?),
        })
    };
    let state = state.await;
    match (findings.of(&about("database"), state), pipeline.create_table) {
        (Some(Some(true)), _) => {
            Findings::good(&about("database"), "the tables of the schema nats_sql_sink are there");
        }
        (Some(Some(false)), true) => {
            Findings::good(
                &about("database"),
                "the tables of the schema nats_sql_sink are missing, a worker makes them",
            );
        }
        (Some(Some(false)), false) => {
            let missing: Result<()> = Err(progress::missing());
            findings.of(&about("database"), missing);
        }
        (Some(None) | None, _) => {}
    }
    let table = &pipeline.table;
    let found = async {
        if pipeline.create_table && !target::exists(session, table).await? {
            return Ok(None);
        }
        target::prepare(session, table, schema, false, &Way::of(pipeline, schema)).await.map(Some)
    };
    let found = found.await;
    match findings.of(&about("table"), found) {
        None => {}
        Some(None) => Findings::good(&about("table"), &format!("{table} does not exist, a worker makes it")),
        Some(Some(target)) => {
            Findings::good(&about("table"), &format!("{table} takes the rows of the schema"));
            let sizes = sizing::decide(pipeline, schema, target.shape, config.memory_bytes(), budget);
            for decision in target.decisions.iter().chain(&sizes.decisions) {
                Findings::note(&about("table"), decision);
            }
            for warning in &sizes.warnings {
                Findings::warning(&about("table"), warning);
            }
        }
    }
}
