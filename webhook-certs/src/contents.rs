//! What the Secret holds. Each part is read on its own, so that one broken part is repaired without giving up the others.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::{extensions::GeneralName, parse_x509_certificate, prelude::X509Certificate};

use crate::{
    authority::{self, BACKDATE, MakeError, Pair, Signer},
    rotation::{Facts, LeafFacts, Policy, Step, Validity},
};

/// `data` of a Secret.
pub type Data = BTreeMap<String, ByteString>;

/// The leaf (and, if somebody else manages the Secret, its intermediates), PEM.
pub const LEAF: &str = "tls.crt";
/// The leaf's key, PEM.
pub const LEAF_KEY: &str = "tls.key";
/// Every CA that clients shall trust, PEM.
pub const BUNDLE: &str = "ca.crt";
/// The key of the CA that signs leaves. Which CA of the bundle that is follows from the key.
pub const ISSUER_KEY: &str = "ca.key";
/// The key of the CA that is published and not in use yet.
pub const NEXT_KEY: &str = "next-ca.key";

/// Why a part cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The key is not in the Secret, or empty.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// It is there and is not what it should be.
    #[error("{0} is no valid PEM of the expected kind")]
    Malformed(&'static str),
    /// `tls.crt` and `tls.key` do not belong together.
    #[error("tls.key does not fit tls.crt")]
    WrongKey,
    /// No certificate of the bundle signed the leaf.
    #[error("no CA in ca.crt signed tls.crt")]
    UnknownSigner,
    /// The bundle does not contain the CA that a key belongs to.
    #[error("no CA in ca.crt belongs to {0}")]
    UnknownCa(&'static str),
}

/// The next contents could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// Key or certificate generation failed.
    #[error(transparent)]
    Make(#[from] MakeError),
    /// The step needs a CA that is not there: [`crate::rotation::next_step`] was not asked about these contents.
    #[error("making a certificate failed: {0}")]
    Unusable(#[from] Flaw),
}

/// A certificate of the bundle.
pub struct CaCertificate {
    /// As found, one PEM section.
    pub pem: String,
    /// The same, decoded.
    pub der: CertificateDer<'static>,
    validity: Validity,
    public_key: Vec<u8>,
}

/// A CA and its key.
pub struct Ca {
    /// The certificate's public key info, which identifies it within the bundle.
    public_key: Vec<u8>,
    validity: Validity,
    der: CertificateDer<'static>,
    key: String,
}

/// A leaf that can be served.
pub struct Leaf {
    /// For rustls.
    pub certified: Arc<CertifiedKey>,
    /// When it was made and ends.
    pub validity: Validity,
    /// The DNS names it covers.
    pub dns_names: Vec<String>,
    /// The public key info of the CA of the bundle that signed it.
    signer: Option<Vec<u8>>,
}

/// The Secret's data, read.
pub struct Contents {
    /// The leaf, if it can be served.
    pub leaf: Result<Leaf, Flaw>,
    /// Every readable certificate of the bundle.
    pub bundle: Vec<CaCertificate>,
    issuer: Result<Ca, Flaw>,
    next: Result<Ca, Flaw>,
}

impl Contents {
    /// Reads. Never fails as a whole: a part that is broken says so itself.
    pub fn read(data: &Data) -> Self {
        let bundle = text(data, BUNDLE).map(certificates).unwrap_or_default();
        let leaf = read_leaf(data, &bundle);
        let issuer = read_ca(data, ISSUER_KEY, &bundle);
        let next = read_ca(data, NEXT_KEY, &bundle);
        Self { leaf, bundle, issuer, next }
    }

    /// Whether a leaf can be served, and the next one signed.
    pub fn is_whole(&self) -> bool {
        self.leaf.is_ok() && self.issuer.is_ok()
    }

    /// The bundle as PEM: what clients are to trust.
    pub fn bundle_pem(&self) -> String {
        self.bundle.iter().map(|ca| ca.pem.as_str()).collect()
    }

    /// What the rotation needs to know.
    pub fn facts(&self, dns_names: &[String]) -> Facts {
        let issuer = self.issuer.as_ref().ok();
        // A step that was cut short could leave the same key in both places; it is then the issuer's.
        let next = self.next.as_ref().ok().filter(|next| issuer.is_none_or(|issuer| issuer.public_key != next.public_key));
        let leaf = self.leaf.as_ref().ok().and_then(|leaf| {
            let signer = leaf.signer.as_ref()?;
            Some(LeafFacts {
                validity: leaf.validity,
                names_fit: dns_names.iter().all(|name| leaf.dns_names.contains(name)),
                signed_by_issuer: issuer.is_some_and(|issuer| issuer.public_key == *signer),
            })
        });
        let in_use = [issuer, next].map(|ca| ca.map(|ca| &ca.public_key));
        Facts {
            leaf,
            issuer: issuer.map(|ca| ca.validity),
            next: next.map(|ca| ca.validity),
            retired: self.bundle.iter().any(|ca| !in_use.contains(&Some(&ca.public_key))),
        }
    }

    /// The data after `step`. Only the keys named in this module are touched; whatever else is in `data` stays.
    pub fn advance(
        &self,
        data: &Data,
        step: Step,
        name: &str,
        dns_names: &[String],
        now: Timestamp,
        policy: &Policy,
    ) -> Result<Data, AdvanceError> {
        let mut data = data.clone();
        let mut put = |key: &str, value: String| data.insert(key.to_owned(), ByteString(value.into_bytes()));
        match step {
            Step::Wait { .. } => {}
            Step::CreateAll => {
                let ca = authority::make_ca(name, now, policy.ca_lifetime())?;
                put(BUNDLE, ca.certificate);
                put(ISSUER_KEY, ca.key);
                data.remove(NEXT_KEY);
                let made = read_ca(&data, ISSUER_KEY, &text(&data, BUNDLE).map(certificates)?)?;
                put_leaf(&mut data, made.sign(name, dns_names, now, policy)?);
            }
            Step::PublishNewCa => {
                let ca = authority::make_ca(name, now, policy.ca_lifetime())?;
                put(BUNDLE, self.bundle_pem() + &ca.certificate);
                put(NEXT_KEY, ca.key);
            }
            Step::SwitchLeaf => {
                let next = self.next.as_ref().map_err(Flaw::clone)?;
                put(ISSUER_KEY, next.key.clone());
                data.remove(NEXT_KEY);
                put_leaf(&mut data, next.sign(name, dns_names, now, policy)?);
            }
            Step::RenewLeaf => {
                let issuer = self.issuer.as_ref().map_err(Flaw::clone)?;
                let pair = issuer.sign(name, &self.names_for_renewal(dns_names), now, policy)?;
                put_leaf(&mut data, pair);
            }
            Step::DropOldCa => {
                let keep: Vec<_> = [&self.issuer, &self.next].into_iter().flatten().map(|ca| &ca.public_key).collect();
                put(BUNDLE, self.bundle.iter().filter(|ca| keep.contains(&&ca.public_key)).map(|ca| ca.pem.as_str()).collect());
            }
        }
        Ok(data)
    }

    /// While two versions with different names run side by side, a leaf for both keeps them from renewing in turns.
    fn names_for_renewal(&self, wanted: &[String]) -> Vec<String> {
        let mut names = wanted.to_vec();
        if let Ok(leaf) = &self.leaf
            && !wanted.iter().all(|name| leaf.dns_names.contains(name))
        {
            names.extend(leaf.dns_names.iter().filter(|name| !wanted.contains(name)).cloned());
        }
        names
    }
}

impl Ca {
    fn sign(&self, name: &str, dns_names: &[String], now: Timestamp, policy: &Policy) -> Result<Pair, MakeError> {
        let signer = Signer { certificate: &self.der, not_after: self.validity.not_after, key: &self.key };
        authority::make_leaf(&signer, name, dns_names, now, policy.leaf_lifetime())
    }
}

fn put_leaf(data: &mut Data, pair: Pair) {
    data.insert(LEAF.to_owned(), ByteString(pair.certificate.into_bytes()));
    data.insert(LEAF_KEY.to_owned(), ByteString(pair.key.into_bytes()));
}

fn text<'a>(data: &'a Data, key: &'static str) -> Result<&'a str, Flaw> {
    let bytes = data.get(key).filter(|bytes| !bytes.0.is_empty()).ok_or(Flaw::Missing(key))?;
    str::from_utf8(&bytes.0).map_err(|_| Flaw::Malformed(key))
}

/// The readable certificates of a PEM text, each once. A broken section is left out, not an end.
pub fn certificates(text: &str) -> Vec<CaCertificate> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found: Vec<CaCertificate> = Vec::new();
    for section in text.split(BEGIN).skip(1) {
        let Some((body, _)) = section.split_once(END) else { continue };
        let pem = format!("{BEGIN}{body}{END}\n");
        let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) else { continue };
        let Some((validity, public_key)) = inspect(&der, |x509| (validity(x509), x509.public_key().raw.to_vec())) else { continue };
        if !found.iter().any(|known| known.der == der) {
            found.push(CaCertificate { pem, der, validity, public_key });
        }
    }
    found
}

fn read_leaf(data: &Data, bundle: &[CaCertificate]) -> Result<Leaf, Flaw> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(text(data, LEAF)?.as_bytes()).collect::<Result<_, _>>().map_err(|_| Flaw::Malformed(LEAF))?;
    let key = PrivateKeyDer::from_pem_slice(text(data, LEAF_KEY)?.as_bytes()).map_err(|_| Flaw::Malformed(LEAF_KEY))?;
    let first = chain.first().ok_or(Flaw::Malformed(LEAF))?;
    let (validity, dns_names, signer) =
        inspect(first, |x509| (validity(x509), dns_names(x509), signer(x509, bundle))).ok_or(Flaw::Malformed(LEAF))?;
    let certified = CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => Flaw::WrongKey,
        _ => Flaw::Malformed(LEAF_KEY),
    })?;
    Ok(Leaf { certified: Arc::new(certified), validity, dns_names, signer })
}

fn read_ca(data: &Data, key: &'static str, bundle: &[CaCertificate]) -> Result<Ca, Flaw> {
    let pem = text(data, key)?;
    let public_key = rcgen::KeyPair::from_pem(pem).map_err(|_| Flaw::Malformed(key))?;
    let public_key = rcgen::PublicKeyData::subject_public_key_info(&public_key);
    let certificate = bundle.iter().find(|ca| ca.public_key == public_key).ok_or(Flaw::UnknownCa(key))?;
    Ok(Ca { public_key, validity: certificate.validity, der: certificate.der.clone(), key: pem.to_owned() })
}

fn inspect<T>(der: &CertificateDer<'_>, look: impl FnOnce(&X509Certificate<'_>) -> T) -> Option<T> {
    parse_x509_certificate(der).ok().map(|(_, x509)| look(&x509))
}

fn validity(x509: &X509Certificate<'_>) -> Validity {
    let at = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    let validity = x509.validity();
    Validity {
        made: at(validity.not_before.timestamp()).checked_add(BACKDATE).unwrap_or(Timestamp::MAX),
        not_after: at(validity.not_after.timestamp()),
    }
}

fn dns_names(x509: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = x509.subject_alternative_name() else { return Vec::new() };
    let dns = |name: &GeneralName<'_>| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None };
    names.value.general_names.iter().filter_map(dns).collect()
}

fn signer(x509: &X509Certificate<'_>, bundle: &[CaCertificate]) -> Option<Vec<u8>> {
    let signed_it = |ca: &&CaCertificate| {
        inspect(&ca.der, |ca| x509.issuer() == ca.subject() && x509.verify_signature(Some(ca.public_key())).is_ok()).unwrap_or(false)
    };
    bundle.iter().find(signed_it).map(|ca| ca.public_key.clone())
}
