//! Makes a CA and a leaf (ECDSA P-256). Pure but for the randomness of the keys: the time is a parameter.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use rustls::pki_types::CertificateDer;

/// How long before it was made a certificate becomes valid, so that a client whose clock is behind accepts it.
/// The moment a certificate was made is its `notBefore` plus this; it must therefore never change.
pub const BACKDATE: SignedDuration = SignedDuration::from_hours(1);

/// A certificate and its private key, both as PEM.
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key, PKCS #8.
    pub key: String,
}

/// Who signs: a CA's certificate, its end, and its key as PEM.
pub struct Signer<'a> {
    /// The CA's certificate.
    pub certificate: &'a CertificateDer<'static>,
    /// No leaf outlives its CA.
    pub not_after: Timestamp,
    /// The CA's key, PKCS #8 PEM.
    pub key: &'a str,
}

/// A certificate could not be made.
#[derive(Debug, thiserror::Error)]
#[error("making a certificate failed: {0}")]
pub struct MakeError(#[from] rcgen::Error);

/// Makes a self-signed CA called `name`, that may sign leaves and nothing below them.
pub fn make_ca(name: &str, made: Timestamp, lifetime: SignedDuration) -> Result<Pair, MakeError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    // The time in the name tells two CAs of one bundle apart, for people and for verifiers that search by name.
    params.distinguished_name = distinguished(&format!("{name} CA {made:.0}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, made, made + lifetime);
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// Makes a server certificate for `dns_names`, valid for `lifetime` but not longer than its CA.
pub fn make_leaf(
    signer: &Signer<'_>,
    name: &str,
    dns_names: &[String],
    made: Timestamp,
    lifetime: SignedDuration,
) -> Result<Pair, MakeError> {
    let issuer = Issuer::from_ca_cert_der(signer.certificate, KeyPair::from_pem(signer.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(dns_names)?;
    params.distinguished_name = distinguished(name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, made, (made + lifetime).min(signer.not_after));
    Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

fn distinguished(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// rcgen takes the `time` crate's type; naming it would cost a dependency, so it is reached by arithmetic.
fn set_validity(params: &mut CertificateParams, made: Timestamp, not_after: Timestamp) {
    let since_epoch = |at: Timestamp| Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0));
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + since_epoch(made - BACKDATE);
    params.not_after = epoch + since_epoch(not_after);
}
