//! Faults from a file: the same, in TOML.

use std::time::Duration;

use serde::Deserialize;

use super::{Effect, Fault, Faults, Moment, Occasion, Schedule, ServerError};

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FaultsFileError {
    /// The field's path, such as `fault[0].nth`; `.` is the file itself.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultsFile {
    /// Where the chances of all fractions begin.
    #[serde(default)]
    seed: u64,
    rows_per_second: Option<u64>,
    rows_per_second_of_a_load: Option<u64>,
    max_loads: Option<usize>,
    /// 10928 unless it is given.
    load_error: Option<i32>,
    max_connections: Option<usize>,
    /// 10928 unless it is given.
    connection_error: Option<i32>,
    #[serde(default)]
    fault: Vec<FaultEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultEntry {
    on: On,
    nth: Option<u64>,
    every: Option<u64>,
    fraction: Option<f64>,
    at_most: Option<u64>,
    error: Option<i32>,
    fail_after_write: Option<i32>,
    class: Option<u8>,
    state: Option<u8>,
    message: Option<String>,
    disconnect: Option<When>,
    hold_answer: Option<bool>,
    #[serde(default, with = "humantime_serde")]
    delay_answer: Option<Duration>,
    #[serde(default, with = "humantime_serde")]
    failover: Option<Duration>,
    database_full: Option<Full>,
    #[serde(default, with = "humantime_serde")]
    token_expired: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum On {
    Login,
    BulkLoad,
    Commit,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum When {
    Before,
    During,
    After,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Full {
    error: i32,
    #[serde(with = "humantime_serde")]
    lasts: Duration,
}

pub(super) fn parse(text: &str) -> Result<Faults, FaultsFileError> {
    let whole = |reason: String| FaultsFileError { field: ".".into(), reason };
    let document = toml::Deserializer::parse(text).map_err(|error| whole(error.to_string()))?;
    let file: FaultsFile = serde_path_to_error::deserialize(document).map_err(|error| FaultsFileError {
        field: error.path().to_string(),
        reason: error.into_inner().message().to_owned(),
    })?;
    let faults = Faults::default();
    faults.limit_rows_per_second(file.rows_per_second);
    faults.limit_rows_per_second_of_a_load(file.rows_per_second_of_a_load);
    faults.limit_loads(file.max_loads, file.load_error.unwrap_or(10928));
    faults.limit_connections(file.max_connections, file.connection_error.unwrap_or(10928));
    for (error, field, limit, name) in [
        (file.connection_error, "connection_error", file.max_connections, "max_connections"),
        (file.load_error, "load_error", file.max_loads, "max_loads"),
    ] {
        if error.is_some() && limit.is_none() {
            return Err(FaultsFileError {
                field: field.into(),
                reason: format!("without {name} it never strikes"),
            });
        }
    }
    for (index, entry) in file.fault.into_iter().enumerate() {
        let named = |(field, reason): (&str, String)| FaultsFileError {
            field: if field.is_empty() {
                format!("fault[{index}]")
            } else {
                format!("fault[{index}].{field}")
            },
            reason,
        };
        let fault =
            entry.into_fault(file.seed.wrapping_add(u64::try_from(index).unwrap_or(0))).map_err(named)?;
        faults.script(fault).map_err(|error| named(("", error.to_string())))?;
    }
    Ok(faults)
}

impl FaultEntry {
    /// The fault, or the field that is wrong and why.
    fn into_fault(self, seed: u64) -> Result<Fault, (&'static str, String)> {
        let occasion = match self.on {
            On::Login => Occasion::Login,
            On::BulkLoad => Occasion::BulkLoad,
            On::Commit => Occasion::Commit,
        };
        let schedule = match (self.nth, self.every, self.fraction) {
            (None, None, None) => Schedule::Always,
            (Some(nth), None, None) => Schedule::Nth(nth),
            (None, Some(nth), None) => Schedule::Every(nth),
            (None, None, Some(share)) => Schedule::Fraction { share, seed },
            _ => return Err(("", "only one of nth, every and fraction".into())),
        };
        let has_text = self.class.is_some() || self.state.is_some() || self.message.is_some();
        if has_text && self.error.is_none() && self.fail_after_write.is_none() {
            return Err(("", "class, state and message belong to error or fail_after_write".into()));
        }
        if self.class.is_some_and(|class| !(11..=25).contains(&class)) {
            return Err(("class", "an error's class is from 11 to 25".into()));
        }
        if self.hold_answer == Some(false) {
            return Err(("hold_answer", "true, or left out".into()));
        }
        let Self { class, state, message, .. } = self;
        let server_error = |number| ServerError { number, class, state, message: message.clone() };
        let moment = |when| match when {
            When::Before => Moment::Before,
            When::During => Moment::During,
            When::After => Moment::After,
        };
        let effects = [
            self.error.map(|number| Effect::Reject(server_error(number))),
            self.fail_after_write.map(|number| Effect::FailAfterWrite(server_error(number))),
            self.disconnect.map(|when| Effect::Disconnect(moment(when))),
            self.hold_answer.map(|_| Effect::HoldAnswer),
            self.delay_answer.map(Effect::DelayAnswer),
            self.failover.map(Effect::FailOver),
            self.database_full.map(|full| Effect::FillDatabase(full.error.into(), full.lasts)),
            self.token_expired.map(Effect::ExpireTokens),
        ];
        let mut effects = effects.into_iter().flatten();
        match (effects.next(), effects.next()) {
            (Some(effect), None) => Ok(Fault { occasion, schedule, effect, at_most: self.at_most }),
            _ => Err((
                "",
                "exactly one of error, fail_after_write, disconnect, hold_answer, delay_answer, failover, \
                 database_full and token_expired"
                    .into(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_fault_can_be_written() {
        let text = r#"
            seed = 7
            rows_per_second = 10_000
            rows_per_second_of_a_load = 5_000
            max_loads = 2
            load_error = 49918
            max_connections = 8
            connection_error = 10929
            [[fault]]
            on = "bulk_load"
            nth = 3
            error = 40501
            [[fault]]
            on = "commit"
            fraction = 0.1
            fail_after_write = 40197
            class = 20
            message = "gone"
            [[fault]]
            on = "bulk_load"
            every = 5
            at_most = 2
            disconnect = "during"
            [[fault]]
            on = "login"
            hold_answer = true
            [[fault]]
            on = "commit"
            delay_answer = "250ms"
            [[fault]]
            on = "bulk_load"
            failover = "5s"
            [[fault]]
            on = "commit"
            database_full = { error = 9002, lasts = "1m" }
            [[fault]]
            on = "login"
            token_expired = "10s"
        "#;
        let faults = parse(text).unwrap();
        assert_eq!(faults.scripts().len(), 8);
    }

    #[test]
    fn an_error_names_the_field() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        for (text, expected) in [
            ("seeed = 1", "unknown field `seeed`"),
            ("connection_error = 10928", "connection_error: "),
            ("load_error = 10928", "load_error: "),
            ("rows_per_second = -1", "rows_per_second: "),
            ("[[fault]]\non = 'commit'\nerror = 1\nnht = 2", "fault[0].nht: unknown field `nht`"),
            ("[[fault]]\non = 'insert'\nerror = 1", "fault[0].on: unknown variant `insert`"),
            ("[[fault]]\non = 'commit'", "fault[0]: exactly one of"),
            ("[[fault]]\non = 'commit'\nerror = 1\ndisconnect = 'after'", "fault[0]: exactly one of"),
            ("[[fault]]\non = 'commit'\nerror = 1\nnth = 1\nevery = 2", "fault[0]: only one of"),
            ("[[fault]]\non = 'commit'\nerror = 1\nnth = 0", "fault[0]: occasions are counted from 1"),
            ("[[fault]]\non = 'commit'\nerror = 1\nfraction = 2.0", "fault[0]: 2 is no share"),
            (
                "[[fault]]\non = 'commit'\ndisconnect = 'during'",
                "fault[0]: this effect cannot happen on commit",
            ),
            ("[[fault]]\non = 'commit'\nerror = 1\nclass = 5", "fault[0].class: "),
            ("[[fault]]\non = 'commit'\ndelay_answer = 'soon'", "fault[0].delay_answer: "),
            (
                "[[fault]]\non = 'commit'\ndatabase_full = { error = 1 }",
                "fault[0].database_full: missing field `lasts`",
            ),
            ("[fault", ".: "),
        ] {
            let found = error(text);
            assert!(found.starts_with(expected) || found.contains(expected), "{text}: {found}");
        }
    }
}
