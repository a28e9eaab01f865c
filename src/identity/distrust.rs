//! Why a server is not believed to be who it should be: the same on both sides, and in the same words.

use rustls::CertificateError;

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distrust {
    /// Its certificate is of an authority that is not trusted.
    Authority,
    /// Its certificate is for another host name.
    HostName,
    /// Its certificate has expired.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// It answers without encryption.
    Plaintext,
}

impl Distrust {
    /// What a certificate is refused for; `None` where that is nothing of the common kinds.
    pub(crate) fn of(why: &CertificateError) -> Option<Self> {
        use CertificateError as Certificate;
        Some(match why {
            Certificate::UnknownIssuer | Certificate::BadSignature => Self::Authority,
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => Self::HostName,
            Certificate::Expired | Certificate::ExpiredContext { .. } => Self::Expired,
            Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => Self::NotYetValid,
            _ => return None,
        })
    }

    /// The same of a text that a library made of it.
    pub(crate) fn of_text(why: &str) -> Option<Self> {
        let kinds = [
            (Self::Authority, ["UnknownIssuer", "BadSignature"]),
            (Self::HostName, ["NotValidForName", "certificate not valid for name"]),
            (Self::NotYetValid, ["NotValidYet", "certificate not valid yet"]),
            (Self::Expired, ["Expired", "certificate expired"]),
        ];
        // the name of a host in the text is nobody's word
        let is_said = |said: &&str| why.trim_start().starts_with(*said);
        kinds.into_iter().find(|(_, texts)| texts.iter().any(is_said)).map(|(kind, _)| kind)
    }

    /// In words for whoever has to mend it, with the fields of the configuration that say who is trusted and where the server
    /// is.
    pub(crate) fn words(self, ca_file: &str, address: &str) -> String {
        match self {
            Self::Authority => {
                format!("the server's certificate is of an authority that is not trusted: see {ca_file}")
            }
            Self::HostName => {
                format!("the server's certificate is for another host name than the one in {address}")
            }
            Self::Expired => "the server's certificate has expired".to_owned(),
            Self::NotYetValid => "the server's certificate is not valid yet".to_owned(),
            Self::Plaintext => "the server answers without tls, and nothing is said without it: it is not set up for tls, or \
                                something in between takes it away"
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    /// The library's texts, which are not ours to choose, are those that are looked for.
    #[test]
    fn a_text_says_what_the_error_did() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expected = ServerName::try_from("Expired.example").expect("a name");
        for error in [
            CertificateError::UnknownIssuer,
            CertificateError::BadSignature,
            CertificateError::NotValidForName,
            CertificateError::NotValidForNameContext {
                expected,
                presented: vec!["UnknownIssuer".to_owned()],
            },
            CertificateError::Expired,
            CertificateError::ExpiredContext { time: at(2), not_after: at(1) },
            CertificateError::NotValidYet,
            CertificateError::NotValidYetContext { time: at(1), not_before: at(2) },
            CertificateError::Revoked,
        ] {
            assert_eq!(Distrust::of_text(&error.to_string()), Distrust::of(&error), "{error}");
        }
    }
}
