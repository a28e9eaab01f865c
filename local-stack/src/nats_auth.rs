//! Identities for the NATS server of a test: certificates of a test authority, users by JWT below an operator, and users
//! by the token of somebody else, whom an auth callout maps to permissions.
//!
//! The JWTs are written here, and not by a crate: those that there are for NATS know no operators, or no answers to an
//! auth callout. Source: NATS ADR-14 (JWT library), ADR-26 (auth callout).

pub mod callout;
mod claims;
pub mod operator;

pub use claims::ClaimsError;

/// Subjects that a user may publish to and subscribe to. Of none given, all are meant, as NATS has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects that may be published to.
    pub publish: Vec<String>,
    /// Subjects that may be subscribed to.
    pub subscribe: Vec<String>,
}

impl Permissions {
    /// These and no others.
    pub fn new(publish: &[&str], subscribe: &[&str]) -> Self {
        let owned = |subjects: &[&str]| subjects.iter().map(|subject| (*subject).to_owned()).collect();
        Self { publish: owned(publish), subscribe: owned(subscribe) }
    }

    /// The fields of a user's claims.
    fn claims(&self) -> [serde_json::Value; 2] {
        [&self.publish, &self.subscribe].map(|subjects| match subjects.is_empty() {
            true => serde_json::json!({}),
            false => serde_json::json!({ "allow": subjects }),
        })
    }
}
