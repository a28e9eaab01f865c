//! The secrets of the database as a whole: whether any of their files is another one now.

use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use super::nats::Fingerprint;
use super::{IdentityError, Lifetime, modified, read_certificates, read_file};

/// What the files hold at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Changes with any of the contents.
    pub fingerprint: Fingerprint,
    /// Of all of them together; of files that do not say when they were issued, since when they are there.
    pub lifetime: Lifetime,
    /// When they were read.
    pub read_at: SystemTime,
}

impl Seen {
    /// Like no file that there is.
    pub fn nothing() -> Self {
        Self {
            fingerprint: Fingerprint::default(),
            lifetime: Lifetime::default(),
            read_at: SystemTime::now(),
        }
    }
}

/// What a file is, for how it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nobody else may read it, and it becomes old.
    Secret,
    /// Of authorities.
    Certificates,
}

/// Reads these files, each with the field that names it.
///
/// # Errors
///
/// One of them cannot be read, or a secret is no text.
pub fn look<'a>(
    files: impl IntoIterator<Item = (Content, &'static str, &'a Path)>,
) -> Result<Seen, IdentityError> {
    let mut hash = Sha256::new();
    let mut lifetime = Lifetime::default();
    let mut seen = |content: &[u8]| {
        hash.update(content.len().to_le_bytes());
        hash.update(content);
    };
    for (content, field, path) in files {
        match content {
            Content::Certificates => seen(&read_certificates(field, path)?),
            Content::Secret => {
                let secret = read_file(field, path)?;
                seen(secret.expose().as_bytes());
                let of_certificate = CertificateDer::pem_slice_iter(secret.expose().as_bytes())
                    .find_map(|certificate| super::lifetime::of_certificate(&certificate.ok()?));
                let own = of_certificate.unwrap_or_else(|| super::lifetime::of_token(secret.expose()));
                let issued_at = own.issued_at.or_else(|| modified(path));
                lifetime = lifetime.and(Lifetime { issued_at, ..own });
            }
        }
    }
    Ok(Seen { fingerprint: hash.finalize().into(), lifetime, read_at: SystemTime::now() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_beside_its_key_says_when_it_ends() {
        let end = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(2_000_000_000);
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).expect("a certificate");
        params.not_after = end.into();
        let key = rcgen::KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        for text in [format!("{pem}{}", key.serialize_pem()), format!("{}{pem}", key.serialize_pem())] {
            let file = tempfile::NamedTempFile::new().expect("a file");
            std::fs::write(file.path(), text).expect("it can be written");
            let seen = look([(Content::Secret, "a", file.path())]).expect("it can be read");
            assert_eq!(seen.lifetime.expires_at, Some(end));
        }
    }

    #[test]
    fn another_content_is_seen_and_another_writing_of_the_same_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, other) = (folder.path().join("one"), folder.path().join("other"));
        let seen = |one_text: &str, other_text: &str| {
            std::fs::write(&one, one_text).expect("it can be written");
            std::fs::write(&other, other_text).expect("it can be written");
            let files =
                [(Content::Secret, "a", one.as_path()), (Content::Certificates, "b", other.as_path())];
            look(files).expect("they can be read").fingerprint
        };
        let first = seen("ab", "c");
        assert_eq!(seen("ab\n", "c"), first);
        assert_ne!(seen("a", "bc"), first, "the same letters in other files");
        // a bundle of authorities is larger than any secret
        assert_ne!(seen("ab", &"c".repeat(200_000)), first);
        std::fs::write(&one, "").expect("it can be written");
        assert_eq!(look([(Content::Secret, "a", one.as_path())]).expect_err("it is empty").field, "a");
    }
}
