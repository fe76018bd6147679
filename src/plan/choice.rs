//! The settings that are one word out of few. The first is the default wherever there is one.

use std::fmt;

pub use crate::api::Mode;

/// The words of annotations for the variants of an enum.
macro_rules! words {
    ($name:ident { $($variant:ident = $word:literal,)+ }) => {
        impl $name {
            /// All words, in annotations and settings.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word for it.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }

            /// What a word means.
            pub fn of(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(self.word())
            }
        }
    };
}

/// An enum whose variants are words of annotations.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$what])* $variant,)+
        }

        words! { $name { $($variant = $word,)+ } }
    };
}

choice! {
    /// What a wait does when its time is over.
    #[derive(Default)]
    OnTimeout {
        /// It fails, and the Pod with it.
        #[default]
        Fail = "fail",
        /// The Pod goes on as if it had not waited.
        Proceed = "proceed",
    }
}

words! {
    Mode {
        Write = "write",
        Read = "read",
    }
}

choice! {
    /// When somebody arrives at a Barrier.
    #[derive(Default)]
    On {
        /// When it has succeeded.
        #[default]
        Success = "success",
        /// Before its first container starts.
        Start = "start",
    }
}

choice! {
    /// Who reports that the holder ended.
    Release {
        /// The sidecar `konductor-hold`, which also verifies the hold whenever it starts.
        Hook = "hook",
        /// Nobody in the Pod: the controller reads it from the API.
        Controller = "controller",
    }
}

choice! {
    /// Where the waiting happens. Every strategy but `wrap` injects the acquire step too, which then finds that all is there.
    Strategy {
        /// In the acquire step, an init container.
        Init = "init",
        /// Before the Pod is given to a node: a scheduling gate.
        Gate = "gate",
        /// Before the Job makes its Pods: the Job is suspended.
        Suspend = "suspend",
        /// Around the command of one container, which is also all that holds.
        Wrap = "wrap",
    }
}

choice! {
    /// What a Job, or a wrapped command, does when somebody else holds what it asks for.
    #[derive(Default)]
    OnConflict {
        /// It waits.
        #[default]
        Queue = "queue",
        /// The Job is marked Complete without having run, the command left out.
        Skip = "skip",
    }
}

choice! {
    /// What happens to a Pod whose hold was taken while its node could not be reached.
    #[derive(Default)]
    OnLost {
        /// It is deleted.
        #[default]
        Kill = "kill",
        /// It goes on; only its fencing token protects what it writes to.
        Ignore = "ignore",
    }
}
