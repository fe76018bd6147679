//! The names that konductor shares with the cluster: annotations, labels, finalizers, containers, ports.
//! They stand in one file because the webhook writes them, the controller reads them and policies freeze them.

/// API group of every konductor kind.
pub const GROUP: &str = "konductor.io";
/// API version of every konductor kind.
pub const VERSION: &str = "v1";

/// Prefix of the annotations a person writes.
pub const USER_PREFIX: &str = "konductor.io/";
/// The annotation that switches konductor off where it is `false`.
pub const INJECT: &str = "konductor.io/inject";
/// Prefix of the annotations that only konductor writes.
pub const STATUS_PREFIX: &str = "status.konductor.io/";

/// On Pods that carry injected steps, and on Jobs that hold: konductor watches only objects with this label, value `true`.
pub const INJECTED_LABEL: &str = "konductor.io/injected";
/// On a pod template (and so on its Pods) and on a jobTemplate: where the annotations were copied from, [`COPIED_FROM_JOB`] or
/// [`COPIED_FROM_CRON_JOB`]. A Pod that carries `Job` acts under its Job's hold.
pub const COPIED_FROM: &str = "status.konductor.io/copied-from";
/// Value of [`COPIED_FROM`] on a Job's pod template.
pub const COPIED_FROM_JOB: &str = "Job";
/// Value of [`COPIED_FROM`] on a CronJob's jobTemplate.
pub const COPIED_FROM_CRON_JOB: &str = "CronJob";
/// On a Pod with `fencing=true`: annotation `status.konductor.io/token-<n>` holds the fencing token of its n-th hold (canonical order, from 0).
pub const TOKEN_ANNOTATION_PREFIX: &str = "status.konductor.io/token-";
/// Beside them: when they were written last. It differs each time, so that a kubelet that missed them looks again.
pub const TOKENS_WRITTEN: &str = "status.konductor.io/tokens-written";

/// On a Job with `strategy=suspend`, value `true`: konductor suspended it, and resumes it.
pub const SUSPENDED: &str = "status.konductor.io/suspended";

/// Keeps a held primitive from vanishing before its last holder has ended.
pub const HELD_FINALIZER: &str = "konductor.io/held";
/// Keeps a Job or Pod from vanishing before its outcome is recorded where it is counted.
pub const OUTCOME_FINALIZER: &str = "konductor.io/outcome";
/// Keeps a Pod with `strategy=gate` from being given to a node before it is its turn.
pub const SCHEDULING_GATE: &str = "konductor.io/wait";
/// Reason of the conditions of a Job that never started because there was nothing left to do for it.
pub const SKIPPED: &str = "KonductorSkipped";

/// The init container that waits and acquires.
pub const ACQUIRE_CONTAINER: &str = "konductor-acquire";
/// The sidecar that verifies the hold when it starts and reports the end of the app containers.
pub const HOLD_CONTAINER: &str = "konductor-hold";
/// The init container that verifies the hold where there is no sidecar. Between the acquire step and an app with fencing tokens there must be one: a kubelet
/// may start what follows the acquire step with the Pod as it knew it before the tokens were written, but not what follows that.
pub const VERIFY_CONTAINER: &str = "konductor-verify";
/// The init container that puts konductor's binary beside a command that is wrapped.
pub const INSTALL_CONTAINER: &str = "konductor-install";
/// The volume with that binary.
pub const WRAP_VOLUME: &str = "konductor-wrap";
/// Where [`WRAP_VOLUME`] is mounted, in the install step and the wrapped container.
pub const WRAP_DIRECTORY: &str = "/konductor.io";
/// The binary in it: the first word of a wrapped command.
pub const WRAPPER: &str = "/konductor.io/konductor";
/// The projected volume with the Pod-bound token of the injected containers.
pub const TOKEN_VOLUME: &str = "konductor-token";
/// Where the injected containers find [`TOKEN_VOLUME`]; the file is `token`.
pub const TOKEN_DIRECTORY: &str = "/var/run/secrets/konductor.io";
/// The volume with the fencing tokens, one file a hold: from the Pod's annotations, or with `strategy=wrap` written by what wraps the command.
pub const FENCING_VOLUME: &str = "konductor-fencing";
/// Where [`FENCING_VOLUME`] is mounted, in the injected containers and those that run under the hold.
pub const FENCING_DIRECTORY: &str = "/var/run/konductor";
/// Audience of the Pod-bound tokens; the API server itself refuses such a token.
pub const TOKEN_AUDIENCE: &str = "konductor.io";

/// On konductor's own Pods: the one that leads; the coordinator Service selects it.
pub const LEADER_LABEL: &str = "konductor.io/leader";

/// Set by the Job controller on every Pod of a Job.
pub const JOB_UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
