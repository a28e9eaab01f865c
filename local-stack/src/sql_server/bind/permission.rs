//! What a statement needs permissions for: noted while it is bound, and checked before it runs.

use std::sync::Arc;

use super::super::catalogue::Table;
use super::Binder;

/// What a statement does with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Permission {
    Select,
    Insert,
    Update,
    Delete,
    /// Its definition is looked up, by a statement that checks by itself what it may.
    Checked,
}

impl Permission {
    pub(in super::super) fn name(self) -> Option<&'static str> {
        match self {
            Self::Select => Some("SELECT"),
            Self::Insert => Some("INSERT"),
            Self::Update => Some("UPDATE"),
            Self::Delete => Some("DELETE"),
            Self::Checked => None,
        }
    }
}

/// A permission that a statement needs.
#[derive(Clone, Debug)]
pub(in super::super) struct Access {
    pub(in super::super) permission: &'static str,
    pub(in super::super) table: Arc<Table>,
}

impl Binder<'_> {
    /// Notes a permission. Everybody may read the catalogue's views, which show what one may see, and everybody
    /// owns one's temporary tables.
    pub(super) fn needs(&self, permission: Permission, table: &Arc<Table>) {
        let Some(permission) = permission.name() else { return };
        if table.is_view || table.name.starts_with('#') {
            return;
        }
        let mut accesses = self.accesses.borrow_mut();
        if !accesses
            .iter()
            .any(|access| access.permission == permission && access.table.object_id == table.object_id)
        {
            accesses.push(Access { permission, table: table.clone() });
        }
    }
}
