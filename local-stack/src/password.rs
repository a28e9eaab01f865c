//! Passwords that are made with a data folder and kept in it: every user of the machine can reach the ports.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::StackError;

/// The password in the file, which is made when it is missing, for its owner's eyes only.
pub(crate) fn kept_in(file: &Path) -> Result<String, StackError> {
    match std::fs::read_to_string(file) {
        Ok(password) => Ok(password.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let password = uuid::Uuid::new_v4().simple().to_string();
            let created = File::options().write(true).create_new(true).mode(0o600).open(file);
            let mut created = created.map_err(StackError::io("make", file))?;
            created.write_all(password.as_bytes()).map_err(StackError::io("write", file))?;
            Ok(password)
        }
        Err(error) => Err(StackError::io("read", file)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_password_is_made_once_and_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let password = kept_in(&file).unwrap();
        assert!(password.len() >= 32);
        assert_eq!(kept_in(&file).unwrap(), password);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
