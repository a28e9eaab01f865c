//! An operator with one account, and the system's: who may log in is said by JWTs, and not by the server's file.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::ConnectOptions;
use nkeys::KeyPair;
use serde_json::json;

use super::Permissions;
use super::claims::{ClaimsError, now, sign};

/// Signs accounts and users.
pub struct Operator {
    operator: KeyPair,
    account: KeyPair,
    system: KeyPair,
    /// Users whose JWTs up to this second are not taken any more.
    revoked: BTreeMap<String, u64>,
}

/// A user, with what proves that one is it.
pub struct User {
    /// By which the user is known.
    pub public_key: String,
    /// What the account says of it.
    pub jwt: String,
    seed: String,
}

impl User {
    /// As a `.creds` file has it.
    pub fn credentials(&self) -> String {
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            self.jwt, self.seed
        )
    }
}

/// Why a change of an account did not reach the server.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The account could not be signed.
    #[error(transparent)]
    Claims(#[from] ClaimsError),
    /// The server did not take it.
    #[error("the server did not take the account: {0}")]
    Server(String),
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            operator: KeyPair::new_operator(),
            account: KeyPair::new_account(),
            system: KeyPair::new_account(),
            revoked: BTreeMap::new(),
        }
    }
}

impl Operator {
    /// Lines for the server's configuration.
    ///
    /// # Errors
    /// Where nothing can be signed.
    pub fn server_config(&self) -> Result<String, ClaimsError> {
        let operator = json!({
            "sub": self.operator.public_key(), "name": "local stack", "nats": { "type": "operator" },
        });
        let system = json!({
            "sub": self.system.public_key(), "name": "SYS",
            "nats": { "type": "account", "limits": without_limits(false) },
        });
        Ok(format!(
            "operator: {}\nsystem_account: {system_key}\nresolver: MEMORY\n\
             resolver_preload: {{\n  {}: {}\n  {system_key}: {}\n}}\n",
            sign(operator, &self.operator)?,
            self.account.public_key(),
            self.account_jwt()?,
            sign(system, &self.operator)?,
            system_key = self.system.public_key(),
        ))
    }

    fn account_jwt(&self) -> Result<String, ClaimsError> {
        let account = json!({
            "sub": self.account.public_key(), "name": "APP",
            "nats": { "type": "account", "limits": without_limits(true), "revocations": self.revoked },
        });
        sign(account, &self.operator)
    }

    /// A new user of the account, for this long or without an end.
    ///
    /// # Errors
    /// Where nothing can be signed.
    pub fn user(
        &self,
        name: &str,
        permissions: &Permissions,
        tags: &[&str],
        life: Option<Duration>,
    ) -> Result<User, ClaimsError> {
        Self::user_of(&self.account, name, permissions, tags, life)
    }

    fn user_of(
        account: &KeyPair,
        name: &str,
        permissions: &Permissions,
        tags: &[&str],
        life: Option<Duration>,
    ) -> Result<User, ClaimsError> {
        let user = KeyPair::new_user();
        let [publish, subscribe] = permissions.claims();
        let mut claims = json!({
            "sub": user.public_key(), "name": name,
            "nats": {
                "type": "user", "pub": publish, "sub": subscribe, "tags": tags,
                "subs": -1, "data": -1, "payload": -1,
            },
        });
        if let Some(life) = life {
            claims["exp"] = json!(now() + life.as_secs());
        }
        let jwt = sign(claims, account)?;
        Ok(User { public_key: user.public_key(), jwt, seed: user.seed()? })
    }

    /// Takes no JWT of the user any more that was issued up to now, and tells the server: it throws the user out.
    ///
    /// # Errors
    /// Where the server does not take it.
    pub async fn revoke(
        &mut self,
        user: &User,
        server: &str,
        options: ConnectOptions,
    ) -> Result<(), PushError> {
        self.revoked.insert(user.public_key.clone(), now());
        let account = self.account_jwt()?;
        let system = Self::user_of(&self.system, "system", &Permissions::default(), &[], None)?;
        let failed = |error: &dyn std::fmt::Display| PushError::Server(error.to_string());
        let options = options.credentials(&system.credentials()).map_err(|error| failed(&error))?;
        let client = options.connect(server).await.map_err(|error| failed(&error))?;
        let subject = format!("$SYS.REQ.ACCOUNT.{}.CLAIMS.UPDATE", self.account.public_key());
        let answer = client.request(subject, account.into()).await.map_err(|error| failed(&error))?;
        let answer: serde_json::Value =
            serde_json::from_slice(&answer.payload).map_err(|error| failed(&error))?;
        match answer["data"]["code"].as_u64() {
            Some(200) => Ok(()),
            _ => Err(failed(&answer)),
        }
    }
}

/// The limits of an account: −1 stands for none.
fn without_limits(has_jetstream: bool) -> serde_json::Value {
    let mut limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    if has_jetstream {
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            limits[limit] = json!(-1);
        }
    }
    limits
}
