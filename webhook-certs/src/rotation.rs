//! What is due next: a pure function of what the Secret holds, the time and the policy.
//!
//! The order of the steps carries the promise. A new CA is published beside the old one ([`Step::PublishNewCa`]) and signs nothing for
//! [`Policy::overlap`]. That is how old a client's bundle may be: an agent in a Pod keeps the bundle it was born with. Only then does a leaf of the
//! new CA appear ([`Step::SwitchLeaf`]), and the old CA leaves the bundle once no replica can still be serving its leaf ([`Step::DropOldCa`]).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// How long the API server may take to act on a changed webhook configuration (its own watch; usually milliseconds).
const PROPAGATION: SignedDuration = SignedDuration::from_secs(30);

/// Lifetimes. Build with [`Policy::new`], which refuses combinations that could not keep the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    ca_lifetime: SignedDuration,
    leaf_lifetime: SignedDuration,
    overlap: SignedDuration,
}

/// Lifetimes that do not fit each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The leaf must be good for something.
    #[error("the leaf's lifetime must be at least a minute")]
    LeafTooShort,
    /// A leaf is renewed by the old CA during the overlap, which must therefore span more than one.
    #[error("the overlap of two CAs must be at least twice the leaf's lifetime")]
    OverlapTooShort,
    /// A rotation takes up to two overlaps and must end before the next begins.
    #[error("the CA's lifetime must be at least four times the overlap")]
    CaTooShort,
}

impl Policy {
    /// A policy with these lifetimes; `overlap` is how long both CAs are trusted before the new one is used.
    pub fn new(ca_lifetime: Duration, leaf_lifetime: Duration, overlap: Duration) -> Result<Self, PolicyError> {
        let signed = |d: Duration| SignedDuration::try_from(d).unwrap_or(SignedDuration::MAX);
        let (ca_lifetime, leaf_lifetime, overlap) = (signed(ca_lifetime), signed(leaf_lifetime), signed(overlap));
        if leaf_lifetime < SignedDuration::from_mins(1) {
            return Err(PolicyError::LeafTooShort);
        }
        if overlap / 2 < leaf_lifetime {
            return Err(PolicyError::OverlapTooShort);
        }
        if ca_lifetime / 4 < overlap {
            return Err(PolicyError::CaTooShort);
        }
        Ok(Self { ca_lifetime, leaf_lifetime, overlap })
    }

    /// How long a CA lives.
    pub fn ca_lifetime(&self) -> SignedDuration {
        self.ca_lifetime
    }

    /// How long a leaf lives; it is renewed at two thirds.
    pub fn leaf_lifetime(&self) -> SignedDuration {
        self.leaf_lifetime
    }

    /// How long a new CA is published before it is used.
    pub fn overlap(&self) -> SignedDuration {
        self.overlap
    }

    /// A new CA is published when the old one has this much left: the overlap, and the same again in reserve.
    fn ca_margin(&self) -> SignedDuration {
        self.overlap * 2
    }
}

impl Default for Policy {
    /// Ten years, ninety days, one year.
    fn default() -> Self {
        let days = |n: i64| SignedDuration::from_hours(24 * n);
        Self { ca_lifetime: days(3650), leaf_lifetime: days(90), overlap: days(365) }
    }
}

/// When a certificate was made and when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// When it was made (not `notBefore`, which is backdated).
    pub made: Timestamp,
    /// Its `notAfter`.
    pub not_after: Timestamp,
}

impl Validity {
    fn lifetime(&self) -> SignedDuration {
        self.not_after.duration_since(self.made)
    }
}

/// A leaf that has its key and was signed by a CA of the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeafFacts {
    /// When it was made and ends.
    pub validity: Validity,
    /// It covers every name it should.
    pub names_fit: bool,
    /// It was signed by the present issuer, not by a CA that is on its way out.
    pub signed_by_issuer: bool,
}

/// What the Secret holds, reduced to what matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The leaf, if it is whole.
    pub leaf: Option<LeafFacts>,
    /// The CA that signs leaves, if its key is there.
    pub issuer: Option<Validity>,
    /// The CA that is published but not yet in use, if its key is there.
    pub next: Option<Validity>,
    /// The bundle has CAs that are neither.
    pub retired: bool,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing is due before `until`.
    Wait {
        /// When to look again.
        until: Timestamp,
    },
    /// Nothing usable is there: a CA and a leaf, used at once.
    CreateAll,
    /// Add a CA to the bundle; it signs nothing yet.
    PublishNewCa,
    /// The published CA becomes the issuer and signs the leaf.
    SwitchLeaf,
    /// A new leaf from the present issuer.
    RenewLeaf,
    /// Take every CA out of the bundle that is neither the issuer nor the next.
    DropOldCa,
}

impl Step {
    /// For logs.
    pub fn words(&self) -> &'static str {
        match self {
            Self::Wait { .. } => "nothing is due",
            Self::CreateAll => "made a CA and a certificate",
            Self::PublishNewCa => "published a new CA beside the present one",
            Self::SwitchLeaf => "switched to a certificate of the new CA",
            Self::RenewLeaf => "renewed the certificate",
            Self::DropOldCa => "dropped the old CA from the bundle",
        }
    }
}

/// Decides. `published_since` is since when every webhook configuration is known to carry the bundle of these facts; `None` if not all do.
pub fn next_step(facts: &Facts, published_since: Option<Timestamp>, now: Timestamp, policy: &Policy) -> Step {
    // A CA that cannot sign a whole leaf any more is no use: near its end, leaves would become ever shorter.
    let can_sign = |ca: &Validity| ca.not_after.duration_since(now) >= policy.leaf_lifetime;
    let issuer = facts.issuer.filter(can_sign);
    let next = facts.next.filter(can_sign);

    let Some(leaf) = facts.leaf.filter(|leaf| now < leaf.validity.not_after) else {
        // Nobody can verify what is served now, so there is nothing to lose by hurrying.
        return match (issuer, next) {
            (Some(_), _) => Step::RenewLeaf,
            (None, Some(_)) => Step::SwitchLeaf,
            (None, None) => Step::CreateAll,
        };
    };

    let mut due = Due { now, until: leaf.validity.not_after };
    if let Some(next) = next {
        let published = published_since.map(|since| since + PROPAGATION);
        let in_order = published.map(|published| published.max(next.made + policy.overlap));
        // Without an issuer the present leaf is the last of its kind: better a switch that some clients cannot follow than an expired leaf.
        let last_call = issuer.is_none().then(|| leaf.validity.not_after - leaf.validity.lifetime() / 10);
        if [in_order, last_call].into_iter().flatten().any(|at| due.at(at)) {
            return Step::SwitchLeaf;
        }
    } else if issuer.is_none_or(|issuer| due.at(issuer.not_after - policy.ca_margin())) {
        return Step::PublishNewCa;
    }

    if issuer.is_some() && (!leaf.names_fit || due.at(leaf.validity.made + leaf.validity.lifetime() / 3 * 2)) {
        return Step::RenewLeaf;
    }
    // A replica that missed every event still reads the Secret every hour; a third of a leaf's life is far beyond that.
    if facts.retired && leaf.signed_by_issuer && due.at(leaf.validity.made + leaf.validity.lifetime() / 3) {
        return Step::DropOldCa;
    }
    Step::Wait { until: due.until }
}

/// Collects the earliest of the moments that were asked about and have not come.
struct Due {
    now: Timestamp,
    until: Timestamp,
}

impl Due {
    fn at(&mut self, at: Timestamp) -> bool {
        if self.now >= at {
            return true;
        }
        self.until = self.until.min(at);
        false
    }
}
