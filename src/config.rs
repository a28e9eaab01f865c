//! The configuration: one TOML file, validated as a whole before anything starts.
//!
//! Every field is listed in `docs/configuration.md`. A [`Config`] holds no secret, only where each one is to be
//! read from.

mod auth;
mod keyed;
mod nats;
mod parse;
mod partitions;
mod pipeline;
mod problem;
mod rotation;
mod secret;
mod sql;
mod subject;
#[cfg(test)]
mod tests;
mod units;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use auth::AuthTable;
pub use auth::{AuthConfig, AuthFields, AuthMethod};
pub use keyed::MAX_KEY_COLUMNS;
pub use nats::{NatsAuth, NatsConfig, NatsTlsConfig};
pub use parse::Environment;
pub use partitions::{Layout, MAX_PARTITIONS, covers};
pub use pipeline::{
    BatchConfig, DEFAULT_BATCH_ROWS, DeadLetterConfig, DeliveryGuarantee, MAX_BATCH_ROWS, OnGap,
    PartitionsConfig, PipelineConfig, ReceiptsConfig, WriteMode, WritersConfig, default_batch_bytes,
    largest_batch_bytes,
};
pub use problem::{ConfigError, ConfigErrorKind, Problem};
pub use rotation::RotationConfig;
pub use secret::{EnvironmentReference, SecretSource};
pub use sql::{
    DEFAULT_SQL_PORT, Encryption, MAX_ENCRYPTED_PACKET_BYTES, MAX_PACKET_BYTES, SqlConfig, SqlServerAddress,
};
pub use subject::{subject_problem, subjects_overlap};

pub use crate::telemetry::{LogConfig, LogFormat};

use crate::telemetry;
use problem::{Checks, quote};

/// The least memory for events.
pub const MIN_MEMORY_BYTES: usize = 16 << 20;

/// The most memory for events: far more than writers can use.
pub const MAX_MEMORY_BYTES: usize = u32::MAX as usize;

/// All that `run` needs to know.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Bytes for everything that is held for events by the whole process, 16 MiB to 4 GiB − 1. Default 256 MiB.
    #[serde(default = "default_memory", deserialize_with = "units::bytes")]
    memory: usize,
    /// How long a stop may take to finish what is in flight, 1 s to 1 h. Default 25 s, which is below the 30 s
    /// that Kubernetes waits.
    #[serde(default = "default_shutdown_grace", with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// A pipeline is not ready after so long without a commit while it retries, 1 s to 1 d. Default 2 min.
    #[serde(default = "default_retry_window", with = "humantime_serde")]
    pub retry_window: Duration,
    /// Where the events come from.
    #[serde(default)]
    pub nats: NatsConfig,
    /// Where the rows go. Required.
    pub sql: SqlConfig,
    /// How old secrets may become.
    #[serde(default)]
    pub rotation: RotationConfig,
    /// Metrics, health and status.
    #[serde(default)]
    pub http: HttpConfig,
    /// What is logged.
    #[serde(default)]
    pub log: LogConfig,
    /// `[[pipeline]]`: at least one.
    #[serde(default, rename = "pipeline")]
    pub pipelines: Vec<PipelineConfig>,
}

fn default_memory() -> usize {
    256 << 20
}

fn default_shutdown_grace() -> Duration {
    Duration::from_secs(25)
}

fn default_retry_window() -> Duration {
    Duration::from_secs(120)
}

/// `[http]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// IP address and port for `/metrics`, `/livez`, `/readyz` and `/`. Port 0 takes a free one. Default
    /// 127.0.0.1:9464.
    pub listen: SocketAddr,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9464)) }
    }
}

impl Config {
    /// Reads and validates a file. Paths in it are relative to it.
    ///
    /// # Errors
    ///
    /// The file cannot be read or used; all that is wrong with it is said at once, as far as it could be read.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::read(path, error))?;
        Self::from_toml(&text, path, &|variable| std::env::var(variable).ok())
    }

    /// Like [`Config::load`], of a text that stands in the file `path`.
    ///
    /// # Errors
    ///
    /// As of [`Config::load`].
    pub fn from_toml(text: &str, path: &Path, environment: Environment<'_>) -> Result<Self, ConfigError> {
        let invalid = |problems| ConfigError::invalid(path, problems);
        let (mut config, positions): (Self, _) = parse::parse(text, environment).map_err(invalid)?;
        config.resolve_paths(path.parent().unwrap_or(Path::new("")));
        // After the paths: what the environment names is not relative to the file.
        config.sql.auth.fill_from(environment);
        if let Some(auth) = &mut config.nats.token_from {
            auth.table = AuthTable::Nats;
            auth.fill_from(environment);
        }
        let mut problems = config.validate();
        if problems.is_empty() {
            return Ok(config);
        }
        for problem in &mut problems {
            problem.position = parse::position_of(&problem.field, &positions);
        }
        Err(invalid(problems))
    }

    /// `memory`: bytes for everything that is held for events.
    pub fn memory_bytes(&self) -> usize {
        self.memory
    }

    fn resolve_paths(&mut self, folder: &Path) {
        let resolve = |path: &mut PathBuf| *path = folder.join(&*path);
        self.nats.paths().for_each(resolve);
        self.sql.paths().for_each(resolve);
        // An empty one stays empty, for validation to refuse.
        self.pipelines.iter_mut().map(|pipeline| &mut pipeline.schema).filter(is_not_empty).for_each(resolve);
    }

    /// All that is wrong. Nothing of a loaded configuration.
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut checks = Checks::new("", &mut problems);
        checks.bytes("memory", self.memory, &(MIN_MEMORY_BYTES..=MAX_MEMORY_BYTES));
        let (second, hour, day) = (1, 3600, 24 * 3600);
        let from_to = |least, most| Duration::from_secs(least)..=Duration::from_secs(most);
        checks.duration("shutdown_grace", self.shutdown_grace, &from_to(second, hour));
        checks.duration("retry_window", self.retry_window, &from_to(second, day));
        self.nats.validate(&mut checks.table("nats"));
        self.sql.validate(&mut checks.table("sql"));
        self.rotation.validate(&mut checks.table("rotation"));
        if let Err(message) = telemetry::check_filter(&self.log.filter) {
            checks.refuse(Problem::new("log.filter", message).with_value(quote(&self.log.filter)));
        }
        if self.pipelines.is_empty() {
            let hint = "begin one with the line `[[pipeline]]`";
            checks.refuse(Problem::new("pipeline", "there must be at least one").with_hint(hint));
        }
        for (index, pipeline) in self.pipelines.iter().enumerate() {
            let mut checks = checks.table(&format!("pipeline[{index}]"));
            pipeline.validate(&mut checks, self.memory, self.sql.max_connections);
        }
        let (pipelines, connections) = (self.pipelines.len(), self.sql.max_connections);
        if connections < pipelines {
            let message =
                format!("must be at least {pipelines}, the number of pipelines: each is sure of one");
            checks.refuse(Problem::new("sql.max_connections", message).with_value(connections));
        }
        self.validate_unique(&mut checks);
        problems
    }

    /// Two pipelines of one name would count as one in metrics; two on one consumer would take each other's
    /// events.
    fn validate_unique(&self, checks: &mut Checks<'_>) {
        let (mut names, mut consumers) = (HashMap::new(), HashMap::new());
        for (index, pipeline) in self.pipelines.iter().enumerate() {
            if let Some(earlier) = names.insert(&pipeline.name, index) {
                let message = format!("is already the name of pipeline[{earlier}]");
                let problem = Problem::new(format!("pipeline[{index}].name"), message);
                checks.refuse(problem.with_value(quote(&pipeline.name)));
            }
            // in exactly_once a name only begins with it
            if pipeline.delivery == DeliveryGuarantee::AtLeastOnce
                && let Some(earlier) = consumers.insert((&pipeline.stream, &pipeline.durable), index)
            {
                let message = format!("pipeline[{earlier}] has the same durable on the same stream");
                let problem = Problem::new(format!("pipeline[{index}].durable"), message);
                let hint = "two tables want two consumers, each of which sees every event";
                checks.refuse(problem.with_value(quote(&pipeline.durable)).with_hint(hint));
            }
        }
    }
}

fn is_not_empty(path: &&mut PathBuf) -> bool {
    !path.as_os_str().is_empty()
}
