//! The environment that injection writes, parsed once. Every mistake is named in one message.

use std::{
    collections::BTreeMap,
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

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
    /// `KONDUCTOR_FENCING_DIRECTORY`: where those files are, if not in their usual place.
    pub fencing_directory: PathBuf,
    /// `KONDUCTOR_FENCING_ENV`: the variables that a wrapped command gets, each with the number of its token.
    pub fencing_env: Vec<(String, usize)>,
    /// `KONDUCTOR_TERMINATION_LOG`: where a wrapped container's last words belong.
    pub termination_log: Option<PathBuf>,
}

/// All of these variables. Those of a wrapped container stand in a file, so that its command's environment stays as it is.
const VARIABLES: [&str; 10] = [
    "KONDUCTOR_SERVER_ADDRESS",
    "KONDUCTOR_SERVER_NAME",
    "KONDUCTOR_CA",
    "KONDUCTOR_TOKEN_FILE",
    "KONDUCTOR_FENCING_HOLDS",
    "KONDUCTOR_FENCING_ENV",
    "KONDUCTOR_FENCING_DIRECTORY",
    "KONDUCTOR_TERMINATION_LOG",
    "POD_NAMESPACE",
    "POD_NAME",
];

/// The text of a file that [`Settings::from_file`] reads.
pub fn to_file(variable: impl Fn(&str) -> Option<String>) -> String {
    let given: BTreeMap<&str, String> = VARIABLES.into_iter().filter_map(|name| Some((name, variable(name)?))).collect();
    serde_json::to_string_pretty(&given).unwrap_or_default()
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
    /// Parses what the install step has written into a file.
    pub fn from_file(path: &Path) -> Result<Self, Mistakes> {
        let unreadable = |error: &dyn fmt::Display| Mistakes(vec![format!("{}: {error}", path.display())]);
        let text = fs::read_to_string(path).map_err(|error| unreadable(&error))?;
        let given: BTreeMap<String, String> = serde_json::from_str(&text).map_err(|error| unreadable(&error))?;
        Self::from_environment(|name| given.get(name).cloned())
    }

    /// Parses what `variable` returns for each name.
    pub fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Mistakes> {
        let mut reader = Reader { variable, mistakes: Vec::new() };
        let address = reader.required("KONDUCTOR_SERVER_ADDRESS", "an IP address and a port", |value| value.parse().ok());
        let server_name = reader.required("KONDUCTOR_SERVER_NAME", "a DNS name", |value| ServerName::try_from(value.to_owned()).ok());
        let roots = reader.required("KONDUCTOR_CA", "one or more CA certificates as PEM", roots);
        let token_file = reader.required("KONDUCTOR_TOKEN_FILE", "a path", |value| Some(PathBuf::from(value)));
        let fencing_holds = reader.optional("KONDUCTOR_FENCING_HOLDS", "a number", |value| value.parse().ok());
        let fencing_env = reader.optional("KONDUCTOR_FENCING_ENV", "a list of NAME=NUMBER", |value| {
            value
                .split(' ')
                .map(|pair| pair.split_once('=').and_then(|(name, index)| Some((name.to_owned(), index.parse().ok()?))))
                .collect()
        });
        let fencing_directory = reader.read("KONDUCTOR_FENCING_DIRECTORY").unwrap_or_else(|| FENCING_DIRECTORY.to_owned());
        let termination_log = reader.read("KONDUCTOR_TERMINATION_LOG").map(PathBuf::from);
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
                fencing_directory: PathBuf::from(fencing_directory),
                fencing_env: fencing_env.unwrap_or_default(),
                termination_log,
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
