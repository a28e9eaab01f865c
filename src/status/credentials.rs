//! What is known of the secrets of this process: how old they are, when they end, and what is wrong with new ones. Nothing
//! of it makes a pipeline not ready: the work goes on with the secrets that there are.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// The secrets of each plane (`nats`, `sql`). Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    planes: Arc<Mutex<BTreeMap<&'static str, CredentialStatus>>>,
}

/// What is known of those of one plane. No text holds anything of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialStatus {
    /// Since when they are in use, or when they were issued where they say so.
    pub since: SystemTime,
    /// When they end, where they do.
    pub expires_at: Option<SystemTime>,
    /// That they are near their end, or too old.
    pub warning: Option<String>,
    /// What keeps new ones from being used.
    pub problem: Option<String>,
}

impl Credentials {
    /// Takes the place of what was known of the plane.
    pub fn set(&self, plane: &'static str, status: CredentialStatus) {
        self.planes.lock().unwrap_or_else(PoisonError::into_inner).insert(plane, status);
    }

    /// What is known now, by the plane's name.
    pub fn snapshot(&self) -> Vec<(&'static str, CredentialStatus)> {
        let planes = self.planes.lock().unwrap_or_else(PoisonError::into_inner);
        planes.iter().map(|(plane, status)| (*plane, status.clone())).collect()
    }
}
