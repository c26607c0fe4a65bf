//! Whom a certificate names.

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use super::Principal;

/// The first of: a URI among the subject's alternative names (a SPIFFE id, for one), a DNS name, an
/// email address, the common name. `None` where there is none of them, or it is empty. The
/// certificate was verified before; this only reads it.
pub(super) fn principal(der: &[u8]) -> Option<Principal> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let first = |pick: fn(&GeneralName<'_>) -> Option<String>| names.iter().find_map(pick);
    let name = first(uri).or_else(|| first(dns)).or_else(|| first(email)).or_else(|| {
        let common = certificate.subject().iter_common_name().next()?;
        common.as_str().ok().map(str::to_owned)
    })?;
    (!name.is_empty()).then(|| Principal(name.into()))
}

fn uri(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::URI(text) = name { Some((*text).to_owned()) } else { None }
}

fn dns(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(text) = name { Some((*text).to_owned()) } else { None }
}

fn email(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::RFC822Name(text) = name { Some((*text).to_owned()) } else { None }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn named(common: Option<&str>, others: Vec<SanType>) -> Option<String> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(common) = common {
            parameters.distinguished_name.push(DnType::CommonName, common);
        }
        parameters.subject_alt_names = others;
        let key = KeyPair::generate().expect("there is randomness");
        let certificate = parameters.self_signed(&key).expect("it is well formed");
        principal(certificate.der()).map(|principal| principal.as_str().to_owned())
    }

    #[test]
    fn the_most_telling_name_counts() {
        let dns = || SanType::DnsName("lab.example".try_into().expect("it is ASCII"));
        let uri = || SanType::URI("spiffe://example/lab".try_into().expect("it is ASCII"));
        assert_eq!(named(Some("lab"), vec![dns(), uri()]).as_deref(), Some("spiffe://example/lab"));
        assert_eq!(named(Some("lab"), vec![dns()]).as_deref(), Some("lab.example"));
        assert_eq!(named(Some("lab"), vec![]).as_deref(), Some("lab"));
        assert_eq!(named(None, vec![]), None);
        assert_eq!(named(Some(""), vec![]), None);
        assert_eq!(principal(b"no certificate"), None);
    }
}
