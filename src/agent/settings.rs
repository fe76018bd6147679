//! The environment that injection writes, parsed once. Every mistake is named in one message.

use std::{fmt, net::SocketAddr, path::PathBuf};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::api::names::FENCING_DIRECTORY;

/// What an agent needs to know.
#[derive(Debug)]
pub struct Settings {
    /// `KONDUCTOR_SERVER_ADDRESS`: address and port, because not every Pod has DNS.
    pub address: SocketAddr,
    /// `KONDUCTOR_SERVER_NAME`: what the server's certificate must say.
    pub server_name: ServerName<'static>,
    /// `KONDUCTOR_CA`: whom to trust.
    pub roots: RootCertStore,
    /// `KONDUCTOR_TOKEN_FILE`: the Pod-bound token, which the kubelet rewrites.
    pub token_file: PathBuf,
    /// `POD_NAMESPACE` and `POD_NAME`, for messages.
    pub pod: String,
    /// `KONDUCTOR_FENCING_HOLDS`: how many token files to wait for; 0 without fencing.
    pub fencing_holds: usize,
    /// Where those files are.
    pub fencing_directory: PathBuf,
}

/// Everything that is wrong with the environment.
#[derive(Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<String>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bad configuration: {}", self.0.join("; "))
    }
}

impl Settings {
    /// Parses what `variable` returns for each name.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Mistakes> {
        let mut reader = Reader { variable, mistakes: Vec::new() };
        let address = reader.required("KONDUCTOR_SERVER_ADDRESS", "an IP address and a port", |value| value.parse().ok());
        let server_name = reader.required("KONDUCTOR_SERVER_NAME", "a DNS name", |value| ServerName::try_from(value.to_owned()).ok());
        let roots = reader.required("KONDUCTOR_CA", "one or more CA certificates as PEM", roots);
        let token_file = reader.required("KONDUCTOR_TOKEN_FILE", "a path", |value| Some(PathBuf::from(value)));
        let fencing_holds = reader.optional("KONDUCTOR_FENCING_HOLDS", "a number", |value| value.parse().ok());
        let pod = match ["POD_NAMESPACE", "POD_NAME"].map(|name| reader.read(name)) {
            [Some(namespace), Some(name)] => format!("{namespace}/{name}"),
            _ => "this Pod".to_owned(),
        };
        match (address, server_name, roots, token_file) {
            (Some(address), Some(server_name), Some(roots), Some(token_file)) if reader.mistakes.is_empty() => Ok(Self {
                address,
                server_name,
                roots,
                token_file,
                pod,
                fencing_holds: fencing_holds.unwrap_or(0),
                fencing_directory: PathBuf::from(FENCING_DIRECTORY),
            }),
            _ => Err(Mistakes(reader.mistakes)),
        }
    }
}

struct Reader<F> {
    variable: F,
    mistakes: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn read(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.trim().is_empty())
    }

    fn required<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        if self.read(name).is_none() {
            self.mistakes.push(format!("{name} is not set"));
        }
        self.optional(name, expected, parse)
    }

    fn optional<T>(&mut self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let parsed = parse(self.read(name)?.trim());
        if parsed.is_none() {
            self.mistakes.push(format!("{name} is not {expected}"));
        }
        parsed
    }
}

fn roots(pem: &str) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}
