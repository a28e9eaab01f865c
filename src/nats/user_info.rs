//! What the user of the connection may do, asked of the server.

use std::time::Duration;

use async_nats::{Client, Request};
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Phase, Result};
use crate::rights::nats::{USER_INFO, Verb};

const PATIENCE: Duration = Duration::from_secs(5);

/// A user. Source: nats-server, `UserInfo`.
#[derive(Debug, Clone, Deserialize)]
pub struct UserInfo {
    /// Its name, or key.
    #[serde(default)]
    pub user: String,
    /// Its account.
    #[serde(default)]
    pub account: String,
    /// What it may do: everything, where there are none.
    #[serde(default)]
    pub permissions: Option<Permissions>,
}

/// Lists of subjects.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Permissions {
    #[serde(default)]
    publish: Option<Subjects>,
    #[serde(default)]
    subscribe: Option<Subjects>,
}

/// What is allowed, and of that denied. Without a list of what is allowed everything is.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Subjects {
    /// Patterns.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Patterns.
    #[serde(default)]
    pub deny: Vec<String>,
}

impl UserInfo {
    /// What it may publish on or subscribe to.
    pub fn subjects(&self, verb: Verb) -> Subjects {
        let permissions = self.permissions.clone().unwrap_or_default();
        let lists = match verb {
            Verb::Publish => permissions.publish,
            Verb::Subscribe => permissions.subscribe,
        };
        let mut lists = lists.unwrap_or_default();
        if lists.allow.is_empty() {
            lists.allow.push(">".to_owned());
        }
        lists
    }
}

#[derive(Debug, Deserialize)]
struct Answer {
    data: UserInfo,
}

/// Asks.
///
/// # Errors
///
/// Nobody answers, which is so where the user may not ask, or not hear the answer.
pub async fn ask(client: &Client) -> Result<UserInfo> {
    let unavailable = |text: String| Error::new(Phase::Nats, ErrorKind::NatsUnavailable, text);
    let request = Request::new().timeout(Some(PATIENCE));
    let answer = client
        .send_request(USER_INFO, request)
        .await
        .map_err(|error| unavailable(format!("asking what the user may do ({USER_INFO}): {error}")))?;
    let answer: Answer = serde_json::from_slice(&answer.payload)
        .map_err(|_| unavailable(format!("{USER_INFO}: the answer cannot be read")))?;
    Ok(answer.data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_lists_everything_is_allowed() {
        let user = |text: &str| serde_json::from_str::<UserInfo>(text).expect("a user");
        let of = |text: &str, verb| {
            let subjects = user(text).subjects(verb);
            (subjects.allow, subjects.deny)
        };
        let all = (vec![">".to_owned()], Vec::new());
        assert_eq!(of(r#"{"user":"a","account":"$G"}"#, Verb::Publish), all);
        let some = r#"{"permissions":{"publish":{"allow":["a.>"]},"subscribe":{"deny":["b"]}}}"#;
        assert_eq!(of(some, Verb::Publish), (vec!["a.>".to_owned()], Vec::new()));
        assert_eq!(of(some, Verb::Subscribe), (vec![">".to_owned()], vec!["b".to_owned()]));
    }
}
