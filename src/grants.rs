//! `grants`: for exactly this configuration, who has to be granted what, in the languages of those who grant it.

mod jwt;
mod server_config;
#[cfg(test)]
mod tests;
mod tsql;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::config::{AuthMethod, Config};
use crate::output;
use crate::rights::nats::{self, NatsRights, Verb};
use crate::rights::sql::{self, SqlRight};
use crate::rights::{Role, inbox_prefix};
use crate::run::Planned;

#[derive(Debug, Args)]
pub(crate) struct GrantsArgs {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", env = "NATS_SQL_SINK_CONFIG")]
    pub(crate) config: std::path::PathBuf,
    /// Only these roles
    #[arg(long = "role", value_name = "ROLE")]
    roles: Vec<Role>,
    /// In which form; all but json, where none is given
    #[arg(long = "form", value_name = "FORM")]
    forms: Vec<Form>,
    /// What users and roles are called, with the role behind it
    #[arg(long, value_name = "NAME", default_value = "nats_sql_sink", value_parser = name_prefix)]
    prefix: String,
    /// The user of a role, on both sides: `analyst=Report Readers`
    ///
    /// Where it is not given, the loader is the user of the configuration, as far as that names one.
    #[arg(long = "user", value_name = "ROLE=NAME", value_parser = user)]
    users: Vec<(Role, String)>,
    /// The stream that keeps receipts; without it, their reader may hear them as they come
    #[arg(long, value_name = "NAME", value_parser = token)]
    receipts_stream: Option<String>,
    /// What publishers publish on, where a transform makes other subjects of it; the pipelines' own, where none is given
    ///
    /// Also in the place of a pipeline's subject that is not granted, as `>` is not: of the dead-letter operator too.
    #[arg(long = "publish", value_name = "SUBJECT", value_parser = subject)]
    published: Vec<String>,
    /// Let the loader run `partitions change` and `partitions new-stream` too
    #[arg(long)]
    change_partitions: bool,
    /// The account of the users, for nsc
    #[arg(long, value_name = "NAME", default_value = "APP", value_parser = name_prefix)]
    account: String,
}

/// A form of the rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// T-SQL, for an owner of the database
    Sql,
    /// For the configuration file of a nats-server
    NatsConfig,
    /// Commands of nsc, for users by JWT
    Nsc,
    /// All of it, for programs: an auth callout, for one
    Json,
}

/// A role, with all that it is granted.
#[derive(Debug)]
struct Granted {
    role: Role,
    /// What it is called where nothing else is said.
    name: String,
    /// The user on the side of NATS.
    nats_user: String,
    /// What it may do there.
    nats: NatsRights,
    /// As whom it logs in to the database; `None` where it has no business there.
    sql_user: Option<SqlUser>,
    /// The role in the database.
    sql_role: String,
    /// What it may do there.
    sql: Vec<SqlRight>,
}

/// A user of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SqlUser {
    name: String,
    /// By a token of Entra ID, and not by a login.
    is_external: bool,
}

impl GrantsArgs {
    /// Prints them.
    pub(crate) fn print(&self, config: &Config, planned: &[Planned]) {
        let granted: Vec<Granted> = Role::ALL
            .into_iter()
            .filter(|role| self.roles.is_empty() || self.roles.contains(role))
            .map(|role| self.granted(role, config, planned))
            .collect();
        let forms = match self.forms.as_slice() {
            [] => &[Form::Sql, Form::NatsConfig, Form::Nsc][..],
            forms => forms,
        };
        for form in forms {
            let text = match form {
                Form::Sql => tsql::script(&granted, planned),
                Form::NatsConfig => server_config::text(&granted),
                Form::Nsc => jwt::commands(&granted, &self.account),
                Form::Json => {
                    format!("{:#}", json!({ "roles": granted.iter().map(json).collect::<Vec<_>>() }))
                }
            };
            if forms.len() > 1 {
                output::line(&format!("{} ---- {} ----\n", form.comment(), form.title()));
            }
            output::line(&text);
        }
    }

    fn granted(&self, role: Role, config: &Config, planned: &[Planned]) -> Granted {
        let own_name = format!("{}_{role}", self.prefix);
        let inbox = inbox_prefix(&own_name);
        let given = self.users.iter().rev().find(|(of, _)| *of == role).map(|(_, name)| name.clone());
        let pipelines = || planned.iter().map(|(pipeline, schema)| (pipeline, schema));
        let nats = match role {
            Role::Loader => nats::loader(config),
            Role::Publisher => nats::publisher(&inbox, &self.published_subjects(config)),
            Role::DeadLetterOperator => nats::dead_letter_operator_on(&inbox, config, &self.published),
            Role::ReceiptsReader => nats::receipts_reader(&inbox, config, self.receipts_stream.as_deref()),
            Role::Analyst => NatsRights::default(),
        };
        let sql = match role {
            Role::Loader => sql::loader(pipelines(), self.change_partitions),
            Role::Analyst => sql::analyst(pipelines().map(|(pipeline, _)| pipeline)),
            Role::Publisher | Role::DeadLetterOperator | Role::ReceiptsReader => Vec::new(),
        };
        let is_loader = role == Role::Loader;
        let is_external = config.sql.auth.method != AuthMethod::SqlLogin;
        let configured = config.sql.auth.user.clone().filter(|_| is_loader && !is_external);
        let sql_user =
            SqlUser { name: given.clone().or(configured).unwrap_or_else(|| own_name.clone()), is_external };
        Granted {
            role,
            name: own_name.clone(),
            nats_user: given
                .or_else(|| config.nats.user.clone().filter(|_| is_loader))
                .unwrap_or_else(|| own_name.clone()),
            nats,
            sql_user: (!sql.is_empty()).then_some(sql_user),
            // users and roles share one space of names
            sql_role: format!("{own_name}_role"),
            sql,
        }
    }

    fn published_subjects(&self, config: &Config) -> Vec<String> {
        if !self.published.is_empty() {
            return self.published.clone();
        }
        config.pipelines.iter().flat_map(|pipeline| pipeline.subjects.clone()).collect()
    }
}

impl Form {
    fn title(self) -> &'static str {
        match self {
            Form::Sql => "T-SQL, for an owner of the database",
            Form::NatsConfig => "for the configuration file of a nats-server",
            Form::Nsc => "commands of nsc, for users by JWT",
            Form::Json => "JSON",
        }
    }

    fn comment(self) -> &'static str {
        if self == Form::Sql { "--" } else { "#" }
    }
}

impl Granted {
    /// What a user's JWT says of its role, for an auth callout to go by.
    fn tag(&self) -> String {
        format!("role:{}", self.role)
    }

    /// What is said above its user on NATS.
    fn comments(&self) -> Vec<String> {
        let mut lines = vec![format!("# {}: {}", self.role, self.role.purpose())];
        if !self.nats.subscribe.is_empty() {
            lines.push(format!("# inbox prefix: {}", self.nats.inbox_prefix));
        }
        for subject in &self.nats.not_granted {
            lines.push(format!(
                "# not granted: publish on {}, which has subjects of the server's own in it. Name those of events by --publish",
                quoted(subject)
            ));
        }
        lines
    }

    /// Allow and deny lists of a kind. An empty list of NATS allows everything, so that who may do nothing is denied all.
    fn lists(&self, verb: Verb) -> (Vec<&str>, Vec<&'static str>) {
        let allowed: Vec<&str> = self.nats.of(verb).iter().map(|right| right.subject.as_str()).collect();
        let denied = if allowed.is_empty() { vec![">"] } else { Vec::new() };
        (allowed, denied)
    }
}

fn json(granted: &Granted) -> Value {
    let list = |verb| {
        let (allow, deny) = granted.lists(verb);
        json!({ "allow": allow, "deny": deny })
    };
    let rights = |verb| -> Vec<Value> {
        let rights = granted.nats.of(verb).iter();
        rights.map(|right| json!({ "subject": right.subject, "purpose": right.purpose })).collect()
    };
    let sql: Vec<Value> = granted
        .sql
        .iter()
        .map(|right| {
            json!({
                "permission": right.permission,
                "class": right.securable.class(),
                "on": right.securable.quoted(),
                "purpose": right.purpose,
            })
        })
        .collect();
    json!({
        "role": granted.role.as_str(),
        "purpose": granted.role.purpose(),
        "tag": granted.tag(),
        "nats": {
            "user": granted.nats_user,
            "inbox_prefix": (!granted.nats.subscribe.is_empty()).then_some(&granted.nats.inbox_prefix),
            "permissions": { "publish": list(Verb::Publish), "subscribe": list(Verb::Subscribe) },
            "purposes": { "publish": rights(Verb::Publish), "subscribe": rights(Verb::Subscribe) },
            "not_granted": granted.nats.not_granted,
        },
        "sql": granted.sql_user.as_ref().map(|user| json!({
            "user": user.name,
            "is_external": user.is_external,
            "role": granted.sql_role,
            "rights": sql,
            "statements": tsql::statements(granted),
        })),
    })
}

/// Part of names of both sides, and of a variable: no quotes are needed anywhere.
fn name_prefix(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    match text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(is_plain)
        && text.len() <= 64
    {
        true => Ok(text.to_owned()),
        false => Err("must begin with a letter, and have at most 64 of `A-Z a-z 0-9 _`".to_owned()),
    }
}

fn user(text: &str) -> Result<(Role, String), String> {
    let (role, name) = text.split_once('=').ok_or("must be `role=name`")?;
    let role = Role::from_str(role, false)?;
    match crate::sql_name::Identifier::new(name) {
        Ok(name) => Ok((role, name.as_str().to_owned())),
        Err(error) => Err(error.to_string()),
    }
}

fn token(text: &str) -> Result<String, String> {
    match text.is_empty() || text.contains(|c: char| c.is_whitespace() || matches!(c, '.' | '*' | '>' | '"'))
    {
        false => Ok(text.to_owned()),
        true => Err("must be the name of a stream".to_owned()),
    }
}

fn subject(text: &str) -> Result<String, String> {
    let problem = crate::config::subject_problem(text, true);
    problem.map_or_else(|| Ok(text.to_owned()), |problem| Err(problem.to_owned()))
}

/// A text as a quoted string of nats-server's configuration, which JSON text is too.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
